"""A stand-in for the Hugging Face hub: one dataset repository on loopback, with faults on demand.

`HubStandIn` serves the files below a folder from threads of this process. Programs started with
its `environment()` reach it by huggingface_hub's own client, and nothing beyond it.
"""

from hub_stand_in.faults import Fault
from hub_stand_in.server import COMMIT, TOKEN, HubStandIn

__all__ = ["COMMIT", "TOKEN", "Fault", "HubStandIn"]
