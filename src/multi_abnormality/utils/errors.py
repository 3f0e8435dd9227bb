"""Exceptions for errors that users can fix, and what to do about a missing package."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

# Packages whose modules have other names, as far as an extra may have them.
PACKAGES = {
    "OpenSSL": "pyopenssl",
    "PIL": "pillow",
    "sklearn": "scikit-learn",
    "ruamel": "ruamel.yaml",
}
INSTALL_ALL = "pip install --requirement requirements.txt"


class InputError(Exception):
    """Error in a file, key or value that the user gave.

    The message names it, what is wrong, and the fix. Programs print it without a traceback and exit
    with 1.
    """


class UnusableScan(InputError):
    """A scan that cannot be used as input of the model.

    Args:
        message: message of the InputError.
        reason: category of the error, for counts, such as "not HU".
        path: file or folder that the message begins with; None: a caller adds it by `naming`.
    """

    def __init__(self, message: str, reason: str, path: object = None) -> None:
        super().__init__(message, reason, path)
        self.reason, self.path = reason, path

    def __str__(self) -> str:
        message = str(self.args[0])
        return message if self.path is None else f"{self.path}: {message}"


@contextmanager
def naming(path: object) -> Iterator[None]:
    """Begin the messages of UnusableScan with the path of the scan, if they have none yet."""
    try:
        yield
    except UnusableScan as error:
        if error.path is not None:
            raise
        raise UnusableScan(str(error), error.reason, path) from None


def first_few(names: Sequence[str], most: int = 5) -> str:
    """Join the first names with commas, and append the number of the others."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def plural(count: int, singular: str, several: str) -> str:
    """Return a number with the words that follow it: "1 row", "2 rows"."""
    return f"{count:,} {singular if count == 1 else several}"


def count_scans(scans: int, patients: int) -> str:
    """Return how many scans of how many patients there are, in words."""
    return f"{plural(scans, 'scan', 'scans')} of {plural(patients, 'patient', 'patients')}"


def raise_errors(errors: Sequence[str], title: str) -> None:
    """Raise one InputError that lists all errors, if there are any."""
    if errors:
        raise InputError("\n".join([title, *(f"  - {error}" for error in errors)]))


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
        return INSTALL_ALL
    for requirement in requirements:
        found = re.match(r"([\w.-]+).*extra == ['\"]([\w-]+)", requirement)
        if found and found[1].lower() == package:
            return f"pip install 'multi-abnormality[{found[2]}]'"
    return INSTALL_ALL
