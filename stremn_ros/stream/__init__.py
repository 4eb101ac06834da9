"""A live stream around a segmenter or predictor: intake, worker, seeds, autosave; no ROS."""
