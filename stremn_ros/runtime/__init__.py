"""Runs a network on PyTorch, ONNX Runtime or TensorRT; model files."""
