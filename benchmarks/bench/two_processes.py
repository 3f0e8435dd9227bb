"""Training on two processes with one thread each, beside a bare loop over DDP.

The loops take turns, as in `bench.training`. The gain over one process with one thread is also
measured; the global batch is the same.
"""

from pathlib import Path

from bench.rows import Row, Settings, compared
from bench.training import STEPS, steps_of_epoch
from loops.turns import Loop, take_turns
from multi_abnormality.config.schema import load_params

RANKS = 2


def run(settings: Settings) -> list[Row]:
    processed, rounds = Path("processed"), 3 * settings.rounds
    params = load_params()
    steps_of_epoch(params, processed, rounds)
    machine = params.machine.model_copy(update={"devices": RANKS, "accelerator": "cpu"})
    parallel = params.model_copy(update={"machine": machine})
    loops: dict[str, Loop] = {}
    try:
        for name in ("ours", "bare"):
            given = name, STEPS, processed, parallel, settings.folder, 1, RANKS
            loops[name] = Loop(*given)
        loops["single"] = Loop("ours", STEPS, processed, params, settings.folder, 1)
        found = take_turns(loops, rounds)
    finally:
        for loop in loops.values():
            loop.stop()
    speeds = {name: [STEPS / each for each in found[name].seconds] for name in found}
    ours = speeds["ours"]
    return [
        compared(
            "steps a second", "", ours, "a bare loop over DDP", speeds["bare"], "at least 0.95"
        ),
        compared("steps a second", "", ours, "one process with one thread", speeds["single"]),
    ]
