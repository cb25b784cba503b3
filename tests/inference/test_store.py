import json
import shutil

import pytest
import torch

from adkit.data.samples import Sample
from adkit.inference.engines import Embedded
from adkit.inference.store import FeatureStore, StoredStream, Tail, bytes_needed, fits, stored_images
from adkit.plugin import Features, Geometry, Level

LEVELS = {
    "blocks.1": Level(2, (3, 4), Geometry((0.5, 0.5), (1, 1))),
    "pool": Level(5, (1, 1), Geometry((0.5, 0.5), (1, 1))),
}

AS_IT_IS = Tail(0, LEVELS, lambda features, ids: features)


def embedded(*ids, seed=0):
    generator = torch.Generator().manual_seed(seed)
    levels = {
        name: torch.rand(len(ids), *level.grid, level.channels, generator=generator) for name, level in LEVELS.items()
    }
    return Embedded((Features(levels, {name: level.geometry for name, level in LEVELS.items()}),), ids)


def samples(*ids, label=0, tmp="x"):
    from pathlib import Path

    return [Sample(name, Path(tmp) / name, label, "good") for name in ids]


def test_features_come_back_bit_for_bit_in_any_order(tmp_path):
    store = FeatureStore(tmp_path, [LEVELS])
    one, two = embedded("a", "b"), embedded("c", seed=1)
    store.fill([one, two], {})
    back = store.read(["c", "a"], 0, "cpu")
    for name in LEVELS:
        assert torch.equal(back[name], torch.stack([two.features[0][name][0], one.features[0][name][0]]))


def test_an_image_that_never_came_is_left_out_of_streams(tmp_path):
    store = FeatureStore(tmp_path, [LEVELS])
    store.fill([embedded("a", "c")], {})
    stream = StoredStream(store, samples("a", "b", "c"), [AS_IT_IS], 2, "cpu", lambda images: None)
    assert stream.count == 2
    assert [item.ids for item in stream.embedded()] == [("a", "c")]


def test_bytes_needed_by_hand():
    assert bytes_needed([LEVELS], 10) == 4 * 10 * (3 * 4 * 2 + 5)


def test_a_quarter_of_the_free_disk_may_be_taken(tmp_path):
    images = shutil.disk_usage(tmp_path).free / bytes_needed([LEVELS], 1)
    assert fits(tmp_path, [LEVELS], int(0.22 * images))  # others write meanwhile
    assert not fits(tmp_path, [LEVELS], int(0.28 * images))


def two_batches(folder):
    store = FeatureStore(folder, [LEVELS])
    store.fill([embedded("a", "b"), embedded("c", "d", seed=1)], {})
    return store


def same(store, other, *ids):
    return all(torch.equal(store.read(ids, 0, "cpu")[name], other.read(ids, 0, "cpu")[name]) for name in LEVELS)


def test_a_store_is_opened_again(tmp_path):
    first = two_batches(tmp_path)
    again = FeatureStore(tmp_path, [LEVELS])
    assert same(first, again, "a", "b", "c", "d")


def test_filling_goes_on_after_the_last_batch(tmp_path):
    whole = two_batches(tmp_path / "whole")
    FeatureStore(tmp_path / "parts", [LEVELS]).fill([embedded("a", "b")], {})
    store = FeatureStore(tmp_path / "parts", [LEVELS])
    assert [sample.id for sample in store.missing(samples("a", "x", "b", "y", "c", "d"))] == ["y", "c", "d"]
    store.fill([embedded("c", "d", seed=1)], {})
    assert same(store, whole, "a", "b", "c", "d")


def test_an_empty_store_misses_everything(tmp_path):
    assert len(FeatureStore(tmp_path, [LEVELS]).missing(samples("a", "b"))) == 2


@pytest.mark.parametrize("file", ["0.0.float32", "0.1.float32", "journal.jsonl"])
@pytest.mark.parametrize("lost", [1, 7])
def test_a_torn_batch_does_not_count(tmp_path, file, lost):
    two_batches(tmp_path)
    with (tmp_path / file).open("rb+") as torn:
        torn.truncate((tmp_path / file).stat().st_size - lost)
    store = FeatureStore(tmp_path, [LEVELS])
    assert [image in store for image in "abcd"] == [True, True, False, False]
    store.fill([embedded("c", "d", seed=1)], {})
    whole = two_batches(tmp_path / "whole")
    assert same(store, whole, "a", "b", "c", "d")
    again = FeatureStore(tmp_path, [LEVELS])  # what is filled after a torn line is read as a line of its own
    assert [image in again for image in "abcd"] == [True] * 4
    assert same(again, whole, "a", "b", "c", "d")


@pytest.mark.parametrize("torn", [b"", b"\n"], ids=["the end", "a line"])
def test_no_batch_after_a_torn_line_counts(tmp_path, torn):
    two_batches(tmp_path)
    first, second = (tmp_path / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "journal.jsonl").write_bytes(first + second[:20] + torn + second)
    store = FeatureStore(tmp_path, [LEVELS])
    assert [image in store for image in "abcd"] == [True, True, False, False]
    assert (tmp_path / "journal.jsonl").read_bytes() == first


def test_seconds_of_all_batches_count(tmp_path):
    two_batches(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    for line, seconds in zip(lines, (1.5, 2.25), strict=True):
        line["seconds"] = seconds
    (tmp_path / "journal.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert FeatureStore(tmp_path, [LEVELS]).seconds == 3.75


def test_what_is_missing_begins_after_the_last_image_that_is_there(tmp_path):
    store = FeatureStore(tmp_path, [LEVELS])
    assert [sample.id for sample in store.missing(samples("a", "b"))] == ["a", "b"]
    store.fill([embedded("a", "c")], {"b": "unreadable"})
    assert [sample.id for sample in store.missing(samples("a", "b", "c", "d", "e"))] == ["d", "e"]


def test_a_batch_without_its_line_does_not_count(tmp_path):
    two_batches(tmp_path)
    lines = (tmp_path / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "journal.jsonl").write_bytes(lines[0])
    store = FeatureStore(tmp_path, [LEVELS])
    assert [image in store for image in "abcd"] == [True, True, False, False]
    assert (tmp_path / "0.1.float32").stat().st_size == 4 * 2 * 5


def test_features_that_never_reached_the_disk_do_not_count(tmp_path):
    two_batches(tmp_path)
    with (tmp_path / "0.0.float32").open("rb+") as file:  # what a power cut may leave of the first batch
        file.write(bytes(8))
    store = FeatureStore(tmp_path, [LEVELS])
    assert not any(image in store for image in "abcd")  # the second batch would lie where the first one did


def test_unreadable_images_are_remembered_with_the_batch_that_met_them(tmp_path):
    met = {"u": "before"}

    def batches():
        met["x"] = "empty"
        yield embedded("a")
        met["y"] = "truncated"
        yield embedded("b")
        met["z"] = "after the last batch"

    FeatureStore(tmp_path, [LEVELS]).fill(batches(), met)
    assert FeatureStore(tmp_path, [LEVELS]).unreadable == {"x": "empty", "y": "truncated"}


def test_stored_images_are_counted_without_opening_the_store(tmp_path):
    assert stored_images(tmp_path) == 0
    two_batches(tmp_path)
    assert stored_images(tmp_path) == 4


def test_each_embedding_has_its_own_features(tmp_path):
    one, other = embedded("a", "b").features[0], embedded("a", "b", seed=1).features[0]
    store = FeatureStore(tmp_path, [LEVELS, LEVELS])
    store.fill([Embedded((one, other), ("a", "b"))], {})
    for number, features in enumerate((one, other)):
        assert torch.equal(store.read(["b"], number, "cpu")["pool"], features["pool"][1:])
