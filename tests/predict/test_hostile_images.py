"""Hostile images through every command: a row each, as Pillow reads it or refused; the benchmark has many more."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "hostile_images.py"


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the commands run in forks")
def test_damaged_images_have_a_row_each_in_all_commands():
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # a fork of several threads would hang
    command = [sys.executable, SCRIPT, "--only", "jpg, "]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert done.stdout.endswith("\n0 faults\n"), done.stdout + done.stderr
    assert "| damaged | 3 | 0 | 4 | 0 |" in done.stdout
