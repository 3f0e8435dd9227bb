"""The train stage with a backup wired to today's saves."""

import hashlib
import json
import os
import time
from pathlib import Path

import multi_abnormality
from multi_abnormality import console
from multi_abnormality.backup.service import Backup
from multi_abnormality.data.store import ProcessedSet
from multi_abnormality.params import load_params
from multi_abnormality.stages import train
from multi_abnormality.training import fit
from multi_abnormality.training.identity import identify


def main() -> None:
    params = load_params()
    package = Path(multi_abnormality.__file__).parent
    identity = identify(params, ProcessedSet(Path("processed")).content_hash, package)
    fingerprint = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    backup = Backup(params.backup, Path(), fingerprint)
    backup.start()

    class BackedUp(fit.Checkpoints):
        def on_train_epoch_end(self, trainer, pl_module) -> None:
            super().on_train_epoch_end(trainer, pl_module)
            start = time.monotonic()
            backup.saved(len(pl_module.history.epochs))
            console.log.info("saved took %.3f s", time.monotonic() - start)
            time.sleep(float(os.environ.get("EPOCH_PAUSE", "0")))

        def on_train_batch_end(self, *_args: object) -> None:
            backup.poll()

    fit.Checkpoints = BackedUp
    try:
        train.main()
    finally:
        backup.close(params.backup.grace)


if __name__ == "__main__":
    console.run(main)
