"""ONNX Runtime: the export of a network's stages, and running them."""
