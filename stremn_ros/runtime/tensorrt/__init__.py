"""TensorRT: plans of a network's stages, and running them."""
