"""How to install a package that is missing."""

import re
from importlib.metadata import PackageNotFoundError, requires

# Packages whose modules have other names, as far as an extra may have them.
PACKAGES = {"PIL": "pillow", "sklearn": "scikit-learn", "yaml": "pyyaml"}
ALL = "pip install --requirement requirements.txt"


def install_command(module: str) -> str:
    """Command that installs a module: the extra of this project that has it, or all requirements.

    Args:
        module: name of a module, such as sklearn.metrics.
    """
    top = module.partition(".")[0]
    package = PACKAGES.get(top, top).lower().replace("_", "-")
    try:
        requirements = requires("multi-abnormality") or []
    except PackageNotFoundError:
        return ALL
    for requirement in requirements:
        found = re.match(r"([\w.-]+).*extra == ['\"]([\w-]+)", requirement)
        if found and found[1].lower() == package:
            return f"pip install 'multi-abnormality[{found[2]}]'"
    return ALL
