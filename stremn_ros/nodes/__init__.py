"""The ROS 2 nodes; with client/ the only part of the package that imports rclpy."""
