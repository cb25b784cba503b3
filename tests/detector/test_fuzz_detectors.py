"""Damaged and forged detectors: refused with a sentence or the same, never a crash, a hang or a flood of memory."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "fuzz_detectors.py"


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the cases run in forks")
def test_no_damage_does_more_than_be_refused():
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # a fork of several threads would hang
    command = [sys.executable, SCRIPT, "--cases", "70", "--seed", "1"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=1200)
    assert "\n0 faults\n" in done.stdout, done.stdout + done.stderr
    assert "| all | | " in done.stdout
