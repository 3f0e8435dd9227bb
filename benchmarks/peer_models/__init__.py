"""Peer classifiers for the comparison in ../peers.py.

Each maps (N, Z, C, Y, X) slices, windowed to [-1, 1], to (N, F) logits.
"""

import multi_abnormality.models  # noqa: F401  before timm
