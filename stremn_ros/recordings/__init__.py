"""Recordings labelled offline: bags and videos in, masks for training tools out, without ROS.

- ``bags``: messages of MCAP, rosbag2 and ROS 1 bags, through rosbags; ``damaged`` reads what is
  left of a bag that rosbags refuses.
- ``sources``: the frames of one camera of a recording, forwards and backwards.
"""
