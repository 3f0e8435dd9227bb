"""A look at what augmentation does, to choose `train.augmentation` by."""
