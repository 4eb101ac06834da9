"""Talks to nodes that run: their services, topics and processes; imports rclpy."""
