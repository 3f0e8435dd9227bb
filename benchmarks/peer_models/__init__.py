"""Other designs of classifiers, trained as well as they can be; the program is ../peers.py.

Each takes (N, Z, C, Y, X) slices in windows from -1 to 1, and gives (N, F) logits.
"""

import multi_abnormality.model  # noqa: F401  before timm
