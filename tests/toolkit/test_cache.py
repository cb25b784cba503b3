import logging
from pathlib import Path

import pytest
import torch

from adkit.toolkit.cache import cache_folder, cached

KEPT = {"weight": torch.tensor([[1.0, 2.0]]), "bias": torch.tensor([3.0])}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("ADKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "thing"


def never():
    raise AssertionError("made again")


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_what_was_made_once_is_not_made_again():
    assert equal(cached("thing", "key", lambda: KEPT), KEPT)
    assert equal(cached("thing", "key", never), KEPT)


def test_another_key_is_another_thing():
    cached("thing", "key", lambda: KEPT)
    assert equal(cached("thing", "other", lambda: {"x": torch.zeros(1)}), {"x": torch.zeros(1)})


def test_only_the_whole_file_lies_there(folder):
    cached("thing", "key", lambda: KEPT)
    assert [path.name for path in folder.iterdir()] == ["key.safetensors"]


def flipped(data):
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize(
    "damage",
    [flipped, lambda data: data[:-5], lambda data: b"", lambda data: b"not safetensors at all"],
    ids=["bit", "torn", "empty", "foreign"],
)
def test_a_damaged_file_is_warned_of_and_made_again(folder, damage, caplog):
    cached("thing", "key", lambda: KEPT)
    path = folder / "key.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with caplog.at_level(logging.WARNING, "adkit"):
        assert equal(cached("thing", "key", lambda: KEPT), KEPT)
    assert [record.message.startswith(f"{path}: damaged (") for record in caplog.records] == [True]
    assert equal(cached("thing", "key", never), KEPT)


def test_a_folder_that_cannot_be_made_is_warned_of(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ADKIT_CACHE", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING, "adkit"):
        assert equal(cached("thing", "key", lambda: KEPT), KEPT)
    assert "set ADKIT_CACHE to a folder that can be written" in caplog.text


def test_a_failure_leaves_nothing_behind(folder):
    def fail():
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        cached("thing", "key", fail)
    assert not folder.exists()


def test_the_folder_is_the_users_own_by_default(monkeypatch):
    monkeypatch.delenv("ADKIT_CACHE")
    assert cache_folder().name == "adkit"
    assert cache_folder().is_relative_to(Path.home())
