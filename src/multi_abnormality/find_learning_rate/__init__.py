"""The learning-rate range test, to choose `train.learning_rate` by."""
