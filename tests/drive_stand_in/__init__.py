"""Stand-in for Google Drive: its v2 API over TLS on loopback, with configurable faults.

`DriveStandIn` runs in threads of this process, `DriveProcess` in a subprocess. Programs started
with their `environment()` reach it under Google's host names, and no other host.
"""

from drive_stand_in.accounts import SERVICE, USER, remote_options, write_remote
from drive_stand_in.faults import DRIVE_CALLS, Faults
from drive_stand_in.process import DriveProcess
from drive_stand_in.server import DriveStandIn

__all__ = [
    "DRIVE_CALLS",
    "SERVICE",
    "USER",
    "DriveProcess",
    "DriveStandIn",
    "Faults",
    "remote_options",
    "write_remote",
]
