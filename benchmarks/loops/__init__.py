"""Training loops that are benchmarked against each other by `bench.training`."""

import multi_abnormality.utils.torchvision_compat  # noqa: F401  before timm and Lightning
