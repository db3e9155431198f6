import subprocess
import sys

import pytest

LEAVE = """
import os, subprocess
from medtuner.errors import RunInterrupted
from medtuner.signals import StopRequest

def flood():
    script = f"while kill -USR1 {os.getpid()}; do :; done"
    subprocess.Popen(["sh", "-c", script], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

try:
    with StopRequest() as stop:
        OWN_SIGNAL
        raise RunInterrupted("stopped")
except RunInterrupted:
    LATER_SIGNALS
"""


@pytest.mark.parametrize(
    ("own", "later"),
    [("flood()\n        while not stop.requested: pass", "pass"), ("pass", "flood()")],
    ids=["own", "another rank's"],
)
def test_signals_to_a_stopped_process_on_its_way_out_do_not_kill_it(own: str, later: str) -> None:
    script = LEAVE.replace("OWN_SIGNAL", own).replace("LATER_SIGNALS", later)
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 0, ended
