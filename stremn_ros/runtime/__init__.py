"""Runs a network's stages on PyTorch, ONNX Runtime, CUDA graphs or TensorRT."""
