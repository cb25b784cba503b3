"""Tensors are written as any other file is."""

import os
import stat
from contextlib import contextmanager

import pytest
import safetensors.torch
import torch

from adkit.utils.tensors import load_tensors, save_tensors
from tests.utils.disks import files_of_at_most

posix = pytest.mark.skipif(os.name == "nt", reason="modes and limits are POSIX's")


@contextmanager
def masked(umask):
    before = os.umask(umask)
    try:
        yield
    finally:
        os.umask(before)


@posix
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_a_file_can_be_read_by_those_whom_the_umask_lets(tmp_path, umask, mode):
    with masked(umask):
        save_tensors({"a": torch.ones(3)}, tmp_path / "a.safetensors")
    assert stat.S_IMODE((tmp_path / "a.safetensors").stat().st_mode) == mode
    assert safetensors.torch.load_file(tmp_path / "a.safetensors")["a"].tolist() == [1, 1, 1]


@posix
def test_a_full_disk_is_the_systems_error(tmp_path):
    with files_of_at_most(1000), pytest.raises(OSError, match="File too large"):
        save_tensors({"a": torch.ones(1000)}, tmp_path / "a.safetensors")


@posix
@pytest.mark.parametrize("name", [b"a.safetensors", b"caf\xe9.safetensors"])
def test_a_file_of_any_name_is_written_and_read(tmp_path, name):
    path = tmp_path / os.fsdecode(name)
    try:
        save_tensors({"a": torch.arange(3.0)}, path)
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    assert load_tensors(path)["a"].tolist() == [0, 1, 2]
    assert [os.fsencode(other.name) for other in tmp_path.iterdir()] == [name]
