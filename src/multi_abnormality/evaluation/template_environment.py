"""Jinja environment of the package's templates."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

UNDEFINED = "\N{EN DASH}"


def template_environment(package: str, **options: Any) -> Environment:
    """Return Jinja's environment for the templates of a package, with a filter for scores."""
    environment = Environment(
        loader=PackageLoader(package),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        **options,
    )
    environment.filters["number"] = number
    return environment


def number(value: float | None, digits: int = 3) -> str:
    """Format a score, or a dash if it is undefined."""
    return UNDEFINED if value is None else f"{value:.{digits}f}"
