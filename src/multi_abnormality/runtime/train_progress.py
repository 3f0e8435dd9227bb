"""Position of a checkpoint in training, and the Lightning loop state for it.

Lightning saves the counters of its loops and derives from them, on a resume, which hooks have run
already. A save at an epoch's last batch or during validation then loses that epoch's validation. So
the counters are neither saved nor read: a checkpoint holds (epoch, batch), and `loop_state` creates
the counters. Equal positions then give equal bytes, whichever way they were reached.
"""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, order=True)
class TrainProgress:
    """Position in training: `batch` batches of epoch `epoch` are done.

    With all batches done, the epoch's validation is not done yet.
    """

    epoch: int
    batch: int

    def state(self) -> dict[str, int]:
        return asdict(self)


def loop_state(position: TrainProgress, batches: int, steps: int) -> dict[str, Any]:
    """Return the state of Lightning's fit loop at a position.

    Args:
        position: position to resume at.
        batches: number of batches per epoch.
        steps: number of optimizer steps done.
    """
    begun = position.batch > 0
    in_validation = position.batch == batches
    epochs = _counters(ready=position.epoch + begun, processed=position.epoch)
    done = position.epoch * batches + position.batch
    validation = _counters(ready=int(in_validation), processed=0)
    step = {"ready": steps, "completed": steps}
    cleared = step | {"started": steps}
    optimizer = {
        "step": {"total": step, "current": step},
        "zero_grad": {"total": cleared, "current": cleared},
    }
    return {
        "state_dict": {},
        "epoch_progress": {"total": epochs, "current": epochs},
        "epoch_loop.state_dict": {"_batches_that_stepped": steps},
        "epoch_loop.batch_progress": {
            "total": _counters(ready=done, processed=done),
            "current": _counters(ready=position.batch, processed=position.batch),
            "is_last_batch": in_validation,
        },
        "epoch_loop.automatic_optimization.state_dict": {},
        "epoch_loop.automatic_optimization.optim_progress": {"optimizer": optimizer},
        "epoch_loop.manual_optimization.state_dict": {},
        "epoch_loop.val_loop.state_dict": {},
        "epoch_loop.val_loop.batch_progress": {
            "total": validation,
            "current": validation,
            "is_last_batch": False,
        },
    }


def _counters(ready: int, processed: int) -> dict[str, int]:
    return {"ready": ready, "started": ready, "processed": processed, "completed": processed}
