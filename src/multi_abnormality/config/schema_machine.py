"""Sections `machine` and `backup` of params.yaml, which change no result and no stage tracks."""

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from multi_abnormality.config.base import Count, Section

_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")

_ADDRESS = re.compile(r"(?:tcp|tls|ucx|ws|wss)://(?:[^\s/:\[\]]+|\[[0-9A-Fa-f:.]+\]):\d{1,5}")


def parse_duration(text: str) -> int:
    """Seconds of a duration such as "5h30m".

    Raises:
        ValueError: the text is not a duration above zero.
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
    """Hardware and limits of this machine."""

    accelerator: Literal["auto", "cpu", "gpu"]
    devices: Count | Literal["auto"]  # per node; auto: all its GPUs
    nodes: Count
    strategy: Literal["auto", "ddp"]  # auto: ddp if there are several devices
    workers: Annotated[int, Field(ge=0)] | Literal["auto"]  # processes that preprocess or load
    dask: str | None  # address of a Dask scheduler whose workers preprocess; null: this machine's
    max_time: str | None  # of the train stage, such as "5h30m"; null: unlimited
    allow_code_changes: bool  # resume checkpoints of other source code

    @field_validator("dask")
    @classmethod
    def is_address(cls, text: str | None) -> str | None:
        if text is not None and not _ADDRESS.fullmatch(text):
            raise ValueError('must be null or an address such as "tcp://host:8786"')
        return text

    @field_validator("max_time")
    @classmethod
    def is_duration(cls, text: str | None) -> str | None:
        if text is not None:
            parse_duration(text)
        return text


class BackupConfig(Section):
    """Backups of a running training."""

    remote: str | None  # name of a DVC remote; null: DVC's default one; "off": no backup
    git_remote: str | None  # name of a Git remote for resume commits; null: the DVC remote
    keep_last: Count  # backups of a run on the remote
    grace: Annotated[float, Field(ge=0)]  # s that a stop waits for the last upload
