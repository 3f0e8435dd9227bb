"""Learning rate range test, to choose `train.learning_rate`."""
