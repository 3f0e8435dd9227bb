"""Worker process that reads indices of mutated inputs from stdin and answers in JSON.

python -m mutations.worker SEED FOLDER
"""

import json
import os
import resource
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

from mutations.reading import read_mutated

ADDRESS_SPACE = 6 << 30  # bytes: a reader that needs more fails without exhausting the machine


def main() -> None:
    seed, folder = int(sys.argv[1]), Path(sys.argv[2])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    answers.write("ready\n")
    answers.flush()
    for line in sys.stdin:
        inputs = folder / line.strip()
        inputs.mkdir()
        answers.write(json.dumps(asdict(read_mutated(seed, int(line), inputs))) + "\n")
        answers.flush()
        shutil.rmtree(inputs)


if __name__ == "__main__":
    main()
