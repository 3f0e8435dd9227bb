"""What a user sees of an error, in a process of its own."""

import subprocess
import sys
from pathlib import Path

FROM_A_LOADING_PROCESS = """
import sys
from torch.utils.data import DataLoader
from multi_abnormality import console
from multi_abnormality.errors import InputError

class Scans:
    def __len__(self):
        return 1
    def __getitem__(self, index):
        raise InputError("scan.zip: is damaged;\\nfetch it again")

if __name__ == "__main__":
    console.run(lambda: list(DataLoader(Scans(), num_workers=int(sys.argv[1]))))
"""


def test_an_error_reads_the_same_out_of_a_loading_process(tmp_path: Path):
    program = tmp_path / "program.py"
    program.write_text(FROM_A_LOADING_PROCESS)
    for workers in ("0", "1"):
        command = [sys.executable, str(program), workers]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 1
        assert done.stderr == "error: scan.zip: is damaged;\nfetch it again\n"
