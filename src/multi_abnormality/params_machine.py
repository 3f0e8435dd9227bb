"""params.yaml's sections that no stage tracks: they say where and how fast, not what."""

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from multi_abnormality.section import Count, Section

_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")

_ADDRESS = re.compile(r"(?:tcp|tls|ucx|ws|wss)://(?:[^\s/:\[\]]+|\[[0-9A-Fa-f:.]+\]):\d{1,5}")


def parse_duration(text: str) -> int:
    """Seconds of a text such as "5h30m".

    Raises:
        ValueError: it is none, or not above zero.
    """
    found = _DURATION.fullmatch(text.strip())
    units = (86400, 3600, 60, 1)
    seconds = found and sum(
        unit * int(count or 0) for unit, count in zip(units, found.groups(), strict=True)
    )
    if not seconds:
        raise ValueError('must be a duration such as "5h30m"')
    return seconds


class Machine(Section):
    """What this machine has."""

    accelerator: Literal["auto", "cpu", "gpu"]
    devices: Count | Literal["auto"]  # of each node, that train together; auto: all its GPUs
    nodes: Count
    strategy: Literal["auto", "ddp"]  # of several devices; auto: ddp where there are several
    workers: Annotated[int, Field(ge=0)] | Literal["auto"]  # processes that preprocess or load
    dask: str | None  # address of a Dask scheduler whose workers preprocess; null: this machine's
    time_budget: str | None  # of the train stage, such as "5h30m"; null: no end
    accept_changed_code: bool  # go on from a checkpoint that other source files made

    @field_validator("dask")
    @classmethod
    def is_address(cls, text: str | None) -> str | None:
        if text is not None and not _ADDRESS.fullmatch(text):
            raise ValueError('must be null or an address such as "tcp://host:8786"')
        return text

    @field_validator("time_budget")
    @classmethod
    def is_duration(cls, text: str | None) -> str | None:
        if text is not None:
            parse_duration(text)
        return text


class Backup(Section):
    """Where a running training is saved to."""

    remote: str | None  # name of a DVC remote; null: DVC's default one; "off": no backup
    git_remote: str | None  # name of a Git remote for resume commits; null: the DVC remote
    keep: Count  # generations on the remote
    grace: Annotated[float, Field(ge=0)]  # s that a stop waits for the last push
