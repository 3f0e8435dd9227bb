"""What is looked at, and what is said of it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from multi_abnormality.data.catalogue import Catalogue
    from multi_abnormality.params import Params

WELL, DOUBT, FAULT = "ok", "warn", "FAIL"  # a training fails over a fault, and over no doubt


@dataclass(frozen=True)
class Seen:
    """What is said of one part.

    Attributes:
        verdict: WELL, DOUBT or FAULT.
        part: a short name.
        text: what was seen; a message of several lines stays as it is.
        help: the command that helps, where there is one and `text` has none.
    """

    verdict: str
    part: str
    text: str
    help: str = ""


@dataclass
class House:
    """A project's folder, and what one look at it finds out for those that follow.

    Attributes:
        root: of the project.
        catalogue: of data/, once that was read without an error.
        devices: number of devices that train together.
        trains: whether a training runs here now.
        runs: the stages that DVC would run; None: nobody knows.
        starts_anew: whether training goes on from no checkpoint.
        command: that starts a training here.
    """

    root: Path
    catalogue: "Catalogue | None" = None
    devices: int = 1
    trains: bool = False
    runs: tuple[str, ...] | None = None
    starts_anew: bool = True
    command: str = "dvc repro"

    @property
    def preprocesses(self) -> bool:
        """Whether preprocess comes before the training: not without data/."""
        return (self.root / "data").exists() and (self.runs is None or "preprocess" in self.runs)

    @cached_property
    def params(self) -> "Params | None":
        """None where params.yaml has faults: who looks at that file tells them."""
        from multi_abnormality.errors import InputError
        from multi_abnormality.params import load_params

        try:
            return load_params(self.root / "params.yaml")
        except InputError:
            return None


Look = Callable[[House], Iterator[Seen]]


def look(part: str, at: Look, house: House) -> Iterator[Seen]:
    """What a look yields; a fault where it can't be had, whatever the reason."""
    try:
        yield from at(house)
    except ModuleNotFoundError as error:
        yield Seen(FAULT, part, f"can't be looked at: the package {error.name} is missing",
                   "pip install --requirement requirements.txt")  # fmt: skip
    except Exception as error:  # any library's own: a house may be broken in ways nobody thought of
        yield Seen(FAULT, part, f"can't be looked at: {type(error).__name__}: {error}")
