"""Preview of augmented training samples, to choose `train.augmentation`."""
