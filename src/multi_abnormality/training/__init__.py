import multi_abnormality.utils.torchvision_compat  # noqa: F401  before timm
