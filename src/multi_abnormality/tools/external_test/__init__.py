"""Evaluation of an exported model on an external test set."""
