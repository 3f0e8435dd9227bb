"""Inference with an exported model, without PyTorch."""
