import multi_abnormality._torch  # noqa: F401  before timm and lightning
