"""Results of the checks, the context that they share, and how one is run."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from multi_abnormality.utils.console import log
from multi_abnormality.utils.errors import InputError, install_command

if TYPE_CHECKING:
    from multi_abnormality.config.schema import Params
    from multi_abnormality.data.catalog.catalog import Catalog

OK, WARN, FAIL = "ok", "warn", "FAIL"  # training would fail only for FAIL


@dataclass(frozen=True)
class CheckResult:
    """Result of a check."""

    status: str  # OK, WARN or FAIL
    text: str  # description, of one or more lines
    help: str = ""  # command that fixes it, if there is one and `text` has none
    part: str = ""  # short name of what was checked; `run_check` sets it


def passed(text: str) -> CheckResult:
    return CheckResult(OK, text)


def warning(text: str, help: str = "") -> CheckResult:
    return CheckResult(WARN, text, help)


def failure(text: str, help: str = "") -> CheckResult:
    return CheckResult(FAIL, text, help)


@dataclass
class DoctorContext:
    """A project's directory, and findings of earlier checks that later ones use."""

    root: Path
    catalogue: "Catalog | None" = None  # catalogue of data/, after it was read without an error
    devices: int = 1
    is_training: bool = False
    # Names of the stages that DVC would run; None if unknown.
    stages_to_run: tuple[str, ...] | None = None
    starts_from_scratch: bool = True  # whether training resumes from no checkpoint
    command: str = "dvc repro"  # command that starts training here

    @property
    def preprocesses(self) -> bool:
        """Whether preprocess runs before training; it does not without data/."""
        stages = self.stages_to_run
        return (self.root / "data").exists() and (stages is None or "preprocess" in stages)

    @cached_property
    def params(self) -> "Params | None":
        """Content of params.yaml; None if it has errors, which check_params reports."""
        from multi_abnormality.config.schema import load_params

        try:
            return load_params(self.root / "params.yaml")
        except InputError:
            return None


Check = Callable[[DoctorContext], Iterator[CheckResult]]


def run_check(part: str, check: Check, context: DoctorContext) -> Iterator[CheckResult]:
    """Yield the results of a check, and what it logs as warnings.

    An InputError, which training would raise as well, is a FAIL; so is any exception of the check
    itself.
    """

    try:
        with captured_warnings() as warned:
            results = list(check(context))
        results += map(warning, warned)
    except InputError as error:
        results = [failure(str(error))]
    except ModuleNotFoundError as error:
        name = str(error.name)
        text = f"can't be checked: the package {name} is missing"
        results = [failure(text, install_command(name))]
    except Exception as error:  # any exception of any library
        results = [failure(f"can't be checked: {type(error).__name__}: {error}")]
    yield from (replace(result, part=part) for result in results)


class _CaptureHandler(logging.Handler):
    """Handler that stores messages of level WARNING and above."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@contextmanager
def captured_warnings() -> Iterator[list[str]]:
    """Collect this project's warnings in a list, where nothing else logs or collects them."""
    handler, handlers, propagates = _CaptureHandler(), log.handlers, log.propagate
    log.handlers, log.propagate = [handler], False
    try:
        yield handler.messages
    finally:
        log.handlers, log.propagate = handlers, propagates
