"""The frozen part of an extractor: run once a picture, with the same training as through the whole."""

import pytest
import torch
from torch import nn

import adkit
import adkit.frozen
from adkit import Batch, Context
from adkit.frozen import Cut, FrozenStore, NoRoomError, cut_for
from adkit.testing import TinyAdapter, TinyExtractor
from adkit.testing.samples import SIZE, pictures

CONTEXT = Context(image_size=SIZE)


class OfFeatures(TinyAdapter):
    def trained(self, extractor):
        return list(extractor.layer2.parameters())


class Batching(OfFeatures):
    def batch(self, normal, auxiliary, generator):
        return normal


class Counting(nn.Module):
    """Doubles the pictures, and counts them."""

    def __init__(self):
        super().__init__()
        self.seen = 0

    def forward(self, images):
        self.seen += len(images)
        return 2 * images[:, 0]


def batches(count=5, size=2):
    (whole,) = pictures(count, SIZE, seed=1)
    parts = [list(range(first, min(first + size, count))) for first in range(0, count, size)]
    return whole.images, [Batch(whole.images[part], tuple(whole.ids[i] for i in part)) for part in parts]


def store(tmp_path, trunk=None, count=5):
    images, shown = batches(count)
    trunk = trunk or Counting()
    return images, FrozenStore(tmp_path / "frozen", shown, count, Cut(trunk, trunk, CONTEXT), lambda done: None)


def found(adapter, blocks=("layer2",)):
    extractor = TinyExtractor()
    trained = [parameter for block in blocks for parameter in extractor.blocks()[block]]
    return cut_for(extractor, adapter, trained, CONTEXT, "extractor")


def test_rows_come_back_in_any_order(tmp_path):
    images, frozen = store(tmp_path)
    (batch,) = frozen.load([3, 0, 3], batch_size=4)
    assert torch.equal(batch.images, 2 * images[[3, 0, 3], 0])


def test_rows_come_back_with_the_ids_of_their_pictures(tmp_path):
    _, frozen = store(tmp_path)
    _, shown = batches()
    ids = [name for batch in shown for name in batch.ids]
    assert [batch.ids for batch in frozen.load([4, 1, 2], batch_size=2)] == [(ids[4], ids[1]), (ids[2],)]


def test_the_trunk_sees_every_picture_once(tmp_path):
    trunk = Counting()
    _, frozen = store(tmp_path, trunk)
    for _ in range(3):
        list(frozen.load(range(5), batch_size=2))
    assert trunk.seen == 5


def test_no_pictures_make_an_empty_store(tmp_path):
    frozen = FrozenStore(tmp_path / "frozen", [], 0, Cut(Counting(), Counting(), CONTEXT), lambda done: None)
    assert list(frozen.load(range(len(frozen)), batch_size=2)) == []


def test_what_would_fill_the_disk_is_refused_before_it_is_written(tmp_path, monkeypatch):
    usage = adkit.frozen.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(adkit.frozen.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(NoRoomError, match="more than a quarter"):
        store(tmp_path)
    assert (tmp_path / "frozen").stat().st_size == 0


def test_an_extractor_is_cut_below_what_is_trained():
    assert found(OfFeatures()) is not None


@pytest.mark.parametrize(
    ("adapter", "blocks"), [(TinyAdapter(), ["layer2"]), (Batching(), ["layer2"]), (OfFeatures(), ["layer1"])]
)
def test_an_adapter_that_needs_the_pictures_or_trains_everything_gets_the_whole(adapter, blocks):
    assert found(adapter, blocks) is None


@pytest.fixture
def tail_trained(small_recipe):
    small_recipe["extractor"]["levels"] = ["layer4", "pool"]
    small_recipe["adapter"] = {"use": "svdd", "blocks": ["layer4"]}
    small_recipe["training"] = {"learning_rate": 1e-3, "batch_size": 4, "epochs": 3}
    small_recipe["scorer"] = {"use": "center"}
    return small_recipe


def looks(report):
    return [look.loss for look in report.categories["stripes"].trainings[0].looks[1:]]


def test_training_the_tail_gives_what_training_through_the_whole_does(tail_trained, monkeypatch):
    through_tail = adkit.run(tail_trained)

    def no_room(path, needed):
        raise NoRoomError("all of it")

    monkeypatch.setattr(adkit.frozen, "_require_room", no_room)
    through_whole = adkit.run(tail_trained)
    assert "frozen blocks" in through_tail.timings
    assert looks(through_tail) == pytest.approx(looks(through_whole), rel=1e-5)
