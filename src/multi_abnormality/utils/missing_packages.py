"""How to install a package that is missing: extras are installed only by those who need them."""

# Packages whose modules have other names, as far as an extra may have them.
PACKAGES = {
    "OpenSSL": "pyopenssl",
    "PIL": "pillow",
    "sklearn": "scikit-learn",
    "ruamel": "ruamel.yaml",
}
ALL = "pip install --requirement requirements.txt"


def describe_missing(error: ModuleNotFoundError) -> str | None:
    """Return an error message for a package that is not installed, with the command that helps.

    Returns:
        The message; None if the error is not about another package.
    """
    if error.name is None or error.name.startswith("multi_abnormality"):
        return None
    return f"the package {error.name} is missing: {install_command(error.name)}"


def install_command(module: str) -> str:
    """Command that installs a module: the extra that has it, or all requirements."""
    import re  # imported here, as below: `predict` does not wait for them
    from importlib.metadata import PackageNotFoundError, requires

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
