"""The ROS 2 nodes; beside them client/, demo/ and web.node_source import rclpy."""
