"""Files for Weights & Biases, read back."""

import json
import os
import struct
from pathlib import Path

import pytest
from wandb.proto.wandb_internal_pb2 import Record

import adkit
from tests.logs.logged import write_trained

pytestmark = pytest.mark.slow


BLOCK = 32 * 1024


def pieces(data):
    """The parts of records in a file of LevelDB's log format, whose header has 7 bytes, with their types."""
    place = 7
    while place < len(data):
        if BLOCK - place % BLOCK < 7:  # too small for a part: padding
            place += BLOCK - place % BLOCK
            continue
        _, size, kind = struct.unpack_from("<IHB", data, place)
        yield kind, data[place + 7 : place + 7 + size]
        place += 7 + size


def records(folder):
    """What the file of an offline run says."""
    (path,) = Path(folder).glob("wandb/offline-run-*/run-*.wandb")
    whole = b""
    for kind, part in pieces(path.read_bytes()):
        whole += part
        if kind in (1, 4):  # a whole record, or the last part of one
            yield Record.FromString(whole)
            whole = b""


def test_a_run_leaves_what_can_be_uploaded(tmp_path, capfd):
    report = adkit.run(write_trained(tmp_path, wandb=True))
    assert "WANDB_MODE" not in os.environ
    assert capfd.readouterr().out == ""
    history, config = {}, {}
    for record in records(report.folder):
        for item in record.history.item:
            key = item.key or "/".join(item.nested_key)
            history.setdefault(key, []).append(json.loads(item.value_json))
        for item in record.run.config.update:
            config[item.key] = json.loads(item.value_json)
        for item in record.config.update:
            config[item.key] = json.loads(item.value_json)
    assert config["scorer.use"] == "knn"
    assert len(history["stripes/minibatch_loss"]) == 12
    (training,) = report.categories["stripes"].trainings
    assert history["stripes/loss"] == [check.loss for check in training.checks[1:]]
    assert history["stripes/image_auroc"] == [report.categories["stripes"].metrics["image_auroc"]]
    assert sum("/heatmaps/" in key and key.endswith("/path") for key in history) == 6
