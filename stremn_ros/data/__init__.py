"""Datasets and clip sampling for training."""
