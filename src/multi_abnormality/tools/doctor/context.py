"""Results of the checks, and the context that the checks share."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from multi_abnormality.config.schema import Params
    from multi_abnormality.data.catalog.dataset_layout import Catalog

OK, WARN, FAIL = "ok", "warn", "FAIL"  # training would fail only for FAIL


@dataclass(frozen=True)
class CheckResult:
    """Result of a check.

    Attributes:
        status: OK, WARN or FAIL.
        part: short name of what was checked.
        text: description, of one or more lines.
        help: command that fixes it, if there is one and `text` has none.
    """

    status: str
    part: str
    text: str
    help: str = ""


@dataclass
class DoctorContext:
    """A project's directory, and findings of earlier checks that later ones use.

    Attributes:
        root: directory of the project.
        catalogue: catalogue of data/, after it was read without an error.
        devices: number of devices that train together.
        is_training: whether a training run is in progress here.
        stages_to_run: names of the stages that DVC would run; None if unknown.
        starts_from_scratch: whether training resumes from no checkpoint.
        command: command that starts training here.
    """

    root: Path
    catalogue: "Catalog | None" = None
    devices: int = 1
    is_training: bool = False
    stages_to_run: tuple[str, ...] | None = None
    starts_from_scratch: bool = True
    command: str = "dvc repro"

    @property
    def preprocesses(self) -> bool:
        """Whether preprocess runs before training; it does not without data/."""
        stages = self.stages_to_run
        return (self.root / "data").exists() and (stages is None or "preprocess" in stages)

    @cached_property
    def params(self) -> "Params | None":
        """Content of params.yaml; None if it has errors, which check_params reports."""
        from multi_abnormality.config.schema import load_params
        from multi_abnormality.utils.errors import InputError

        try:
            return load_params(self.root / "params.yaml")
        except InputError:
            return None


Check = Callable[[DoctorContext], Iterator[CheckResult]]


def run_check(part: str, check: Check, context: DoctorContext) -> Iterator[CheckResult]:
    """Yield the results of a check; FAIL if the check itself fails, for whatever reason."""
    try:
        yield from check(context)
    except ModuleNotFoundError as error:
        text = f"can't be checked: the package {error.name} is missing"
        yield CheckResult(FAIL, part, text, "pip install --requirement requirements.txt")
    except Exception as error:  # any exception of any library
        yield CheckResult(FAIL, part, f"can't be checked: {type(error).__name__}: {error}")
