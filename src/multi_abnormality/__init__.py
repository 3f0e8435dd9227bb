"""Train, score and ship a classifier of abnormalities in 3D chest CT."""

__version__ = "0.2.0"
