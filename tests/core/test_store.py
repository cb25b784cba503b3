import torch

from adkit import Features, Geometry, Level
from adkit.data.samples import Sample
from adkit.engines import Embedded
from adkit.store import FeatureStore, StoredStream, bytes_needed

LEVELS = {
    "blocks.1": Level(2, (3, 4), Geometry((0.5, 0.5), (1, 1))),
    "pool": Level(5, (1, 1), Geometry((0.5, 0.5), (1, 1))),
}


def embedded(*ids, seed=0):
    generator = torch.Generator().manual_seed(seed)
    levels = {
        name: torch.rand(len(ids), *level.grid, level.channels, generator=generator) for name, level in LEVELS.items()
    }
    return Embedded(Features(levels, {name: level.geometry for name, level in LEVELS.items()}), ids)


def samples(*ids, label=0, tmp="x"):
    from pathlib import Path

    return [Sample(name, Path(tmp) / name, label, "good") for name in ids]


def test_features_come_back_bit_for_bit_in_any_order(tmp_path):
    store = FeatureStore(tmp_path, LEVELS)
    one, two = embedded("a", "b"), embedded("c", seed=1)
    store.fill([one, two])
    back = store.read(["c", "a"], "cpu")
    for name in LEVELS:
        assert torch.equal(back[name], torch.stack([two.features[name][0], one.features[name][0]]))


def test_a_picture_that_never_came_is_left_out_of_streams(tmp_path):
    store = FeatureStore(tmp_path, LEVELS)
    store.fill([embedded("a", "c")])
    stream = StoredStream(store, samples("a", "b", "c"), 2, "cpu", lambda pictures: None)
    assert stream.pictures == 2
    assert [item.ids for item in stream.embedded()] == [("a", "c")]


def test_labels_are_those_of_the_category_that_asks(tmp_path):
    store = FeatureStore(tmp_path, LEVELS)
    store.fill([embedded("a", "b")])
    stream = StoredStream(store, samples("a", label=0) + samples("b", label=1), 8, "cpu", lambda pictures: None)
    assert next(stream.embedded()).labels.tolist() == [0, 1]


def test_bytes_needed_by_hand():
    assert bytes_needed(LEVELS, 10) == 4 * 10 * (3 * 4 * 2 + 5)
