"""The frozen part of an extractor: run once per image, with the same training as through the whole."""

import pytest
import torch
from torch import nn

import adkit
import adkit.inference.store
import adkit.training.frozen
from adkit.data.dataset import open_dataset
from adkit.data.loader import BadImages
from adkit.inference.assemble import assemble
from adkit.inference.pipeline import Embedding
from adkit.inference.sources import ImageSource
from adkit.plugin import Context, Group, Stage
from adkit.plugin.guard import guarded
from adkit.recipe.reader import read_recipe
from adkit.testing import TinyAdapter, TinyExtractor
from adkit.testing.samples import SIZE
from adkit.toolkit.features import FeaturesTable, FeatureTransform
from adkit.training.frozen import Cut, Frozen, NoRoomError, cut_for

CONTEXT = Context(image_size=SIZE)


class OfFeatures(TinyAdapter):
    reads_images = False


class OnOthers(OfFeatures):
    def stages(self, extractor):
        return [Stage([Group(extractor.blocks()["layer2"])], images="auxiliary")]


class Counting(nn.Module):
    """Doubles the images, and counts them."""

    def __init__(self):
        super().__init__()
        self.seen = 0

    def forward(self, images):
        self.seen += len(images)
        return 2 * images[:, 0]


@pytest.fixture
def made(small_recipe, tmp_path):
    """Function: a trunk → what it gives for the images of a category, and those images."""
    parts = assemble(read_recipe(small_recipe))
    samples = open_dataset(parts.recipe.data, 0).categories[0].train

    def rows(trunk, chosen=samples):
        source = ImageSource(parts, BadImages(0), len(samples))
        cut = Cut(trunk, trunk, parts.context, "extractor")
        return Frozen(cut, 0, source, tmp_path).rows("frozen", chosen, lambda done: None), chosen

    def images(chosen):
        (batch,) = parts.loader(chosen, BadImages(0), len(chosen), False)
        return batch.images

    rows.images = images
    return rows


class OfAll(OfFeatures):
    def stages(self, extractor):
        return [Stage([Group(list(extractor.parameters()))])]


def found(adapter):
    extractor = TinyExtractor()
    transform = FeatureTransform(FeaturesTable(), extractor.levels, torch.Generator())
    guard = guarded("adapter", adapter, "adapter")
    return cut_for(Embedding(extractor, transform, CONTEXT), guard, guard.stages(extractor))


def test_rows_come_back_in_any_order(made):
    rows, samples = made(Counting())
    (batch,) = rows.load([3, 0, 3], batch_size=4)
    assert torch.equal(batch.images, 2 * made.images(samples)[[3, 0, 3], 0])


def test_rows_come_back_with_the_ids_of_their_images(made):
    rows, samples = made(Counting())
    ids = [sample.id for sample in samples]
    assert [batch.ids for batch in rows.load([4, 1, 2], batch_size=2)] == [(ids[4], ids[1]), (ids[2],)]


def test_the_trunk_sees_every_image_once(made):
    trunk = Counting()
    rows, samples = made(trunk)
    for _ in range(3):
        list(rows.load(range(len(rows)), batch_size=2))
    assert trunk.seen == len(samples) + 1  # and an image of nothing, for the shape


def test_rows_that_are_on_disk_are_not_computed_again(made):
    made(Counting())
    trunk = Counting()
    made(trunk)
    assert trunk.seen == 1


def test_rows_that_are_torn_are_computed_again_and_no_others(made, tmp_path):
    rows, samples = made(Counting())
    expected = [batch.images for batch in rows.load(range(len(rows)), batch_size=len(rows))]
    (file,) = (tmp_path / "frozen").glob("*.float32")
    with file.open("rb+") as opened:
        opened.truncate(file.stat().st_size - 1)
    trunk = Counting()
    rows, _ = made(trunk)
    assert trunk.seen < len(samples)
    assert torch.equal(next(rows.load(range(len(rows)), batch_size=len(rows))).images, expected[0])


def test_no_images_make_no_rows(made):
    rows, _ = made(Counting(), [])
    assert list(rows.load(range(len(rows)), batch_size=2)) == []


def test_what_would_fill_the_disk_is_refused_before_it_is_written(made, tmp_path, monkeypatch):
    usage = adkit.inference.store.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(adkit.inference.store.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(NoRoomError, match="more than a quarter"):
        made(Counting())
    assert list((tmp_path / "frozen").iterdir()) == []


def test_an_extractor_is_cut_below_what_is_trained():
    assert found(OfFeatures()) is not None


@pytest.mark.parametrize("adapter", [TinyAdapter, OnOthers, OfAll])
def test_an_adapter_that_needs_the_images_or_trains_everything_gets_the_whole(adapter):
    assert found(adapter()) is None


@pytest.fixture
def tail_trained(small_recipe):
    small_recipe["extractor"]["levels"] = ["layer4", "pool"]
    small_recipe["adapter"] = {"use": "svdd", "blocks": ["layer4"]}
    small_recipe["training"] = {"learning_rate": 1e-3, "batch_size": 4, "epochs": 3}
    small_recipe["scorer"] = {"use": "center"}
    return small_recipe


def checks(report):
    return [check.loss for check in report.categories["stripes"].trainings[0].checks[1:]]


def test_training_the_tail_gives_what_training_through_the_whole_does(tail_trained, monkeypatch):
    through_tail = adkit.run(tail_trained)

    monkeypatch.setattr(adkit.training.frozen, "fits", lambda folder, levels, images: False)
    through_whole = adkit.run(tail_trained)
    assert "frozen blocks" in through_tail.timings
    assert checks(through_tail) == pytest.approx(checks(through_whole), rel=1e-5)
