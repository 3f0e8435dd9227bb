"""Stand-in for the Hugging Face hub: a repository on loopback, with configurable faults.

`HubStandIn` serves the files of a folder from threads of this process. Programs started with its
`environment()` reach it by huggingface_hub, and no other host.
"""

from hub_stand_in.faults import Fault
from hub_stand_in.server import COMMIT, TOKEN, HubStandIn

__all__ = ["COMMIT", "TOKEN", "Fault", "HubStandIn"]
