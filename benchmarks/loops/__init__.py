"""Training loops measured against each other; the program is ../training_speed.py."""

import multi_abnormality._torch  # noqa: F401  before timm and lightning
