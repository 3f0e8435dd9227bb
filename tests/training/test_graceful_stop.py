"""Stop requests by signals."""

import os
import signal
import subprocess
import sys

from multi_abnormality.runtime import graceful_stop
from multi_abnormality.runtime.graceful_stop import StopRequest


def test_a_signal_that_arrives_twice_at_once_stops_gracefully():
    """Systems send it to all processes of a job, and the launcher forwards it."""
    with StopRequest() as stop:
        assert stop.reason is None
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.reason == "it received SIGTERM"


def test_a_later_signal_ends_the_process():
    program = (
        "import os, signal, time; from multi_abnormality.runtime import graceful_stop\n"
        "graceful_stop.REPEAT_AFTER = 0.1\n"
        "with graceful_stop.StopRequest():\n"
        "    os.kill(os.getpid(), signal.SIGTERM); time.sleep(0.3)\n"
        "    os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False)
    assert done.returncode == -signal.SIGTERM
    assert graceful_stop.REPEAT_AFTER > 0.5
