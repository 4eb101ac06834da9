"""CUDA graphs: PyTorch's work recorded once and replayed."""
