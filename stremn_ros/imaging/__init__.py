"""Frames and masks without a network and without ROS."""
