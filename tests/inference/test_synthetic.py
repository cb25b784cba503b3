"""Drawn defects: which images get which kind, and that they depend on nothing but seed, kind and image."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from adkit.data.loader import BadImages
from adkit.data.samples import Sample
from adkit.inference.assemble import assemble
from adkit.inference.synthetic import KINDS, draw_defect, drawings, drawn
from adkit.plugin.context import Context
from adkit.recipe.reader import read_recipe


def samples(count: int) -> list[Sample]:
    return [Sample(f"{number}.png", Path(f"{number}.png"), 0, "good") for number in range(count)]


def plan(count: int, drawings_: int, seed: int = 0) -> list[list[tuple[str, str]]]:
    return [[(sample.id, kind) for sample, kind in turn] for turn in drawings(samples(count), drawings_, seed)]


# Which image gets which kind --------------------------------------------------------------------------


def test_images_take_turns():
    assert [len(turn) for turn in plan(3, 7)] == [3, 3, 1]


def test_an_image_occurs_once_in_a_turn():
    assert all(len({image for image, _ in turn}) == len(turn) for turn in plan(5, 33))


def test_no_image_has_a_kind_twice():
    every = [pair for turn in plan(3, 1000) for pair in turn]
    assert len(every) == len(set(every)) == 3 * len(KINDS)


def test_of_many_images_as_many_are_drawn_on_as_asked():
    (turn,) = plan(500, 128)
    assert len({image for image, _ in turn}) == 128


@pytest.mark.parametrize("count", [1, 2, 5, 8, 16, 17, 28, 60, 127, 128, 300])
def test_kinds_are_drawn_about_equally_often(count):
    found = Counter(kind for turn in plan(count, 128) for _, kind in turn)
    assert set(found) == set(KINDS)
    assert max(found.values()) - min(found.values()) <= 4


def test_every_kind_is_drawn_on_every_image_where_there_are_few():
    assert Counter(kind for turn in plan(5, 128) for _, kind in turn) == dict.fromkeys(KINDS, 5)


@pytest.mark.parametrize(("count", "drawings_"), [(5, 0), (0, 128)], ids=["none asked for", "no images"])
def test_nothing_to_draw(count, drawings_):
    assert plan(count, drawings_) == []


def test_the_plan_depends_on_the_seed_and_not_on_the_order_of_the_images():
    forward = list(drawings(samples(20), 30, 0))
    assert list(drawings(samples(20)[::-1], 30, 0)) == forward
    assert list(drawings(samples(20), 30, 1)) != forward


# What is drawn ----------------------------------------------------------------------------------------


def noise(height: int = 64, width: int = 64) -> Tensor:
    """(3, height, width): gray values that a file could have."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (3, height, width), generator=generator).float() / 255


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_changes_pixels_and_stays_in_range(kind):
    image = noise()
    found = draw_defect(image.clone(), kind, "a.png", Context())
    assert (found.shape, found.dtype) == (image.shape, torch.float32)
    assert (found != image).any()
    assert found.min() >= 0 and found.max() <= 1


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "augmix"])
def test_every_kind_but_augmix_leaves_most_pixels_as_they_are(kind):
    image = noise(128, 128)
    changed = (draw_defect(image.clone(), kind, "a.png", Context()) != image).any(0)
    assert 0 < changed.float().mean() < 0.25


@pytest.mark.parametrize("kind", KINDS)
def test_a_drawing_depends_on_image_and_seed_alone(kind):
    def draw(id: str, seed: int) -> Tensor:
        return draw_defect(noise(), kind, id, Context(seed=seed))

    first = draw("a.png", 0)
    torch.rand(7)  # the global generator has no part in it
    assert torch.equal(draw("a.png", 0), first)
    assert not torch.equal(draw("b.png", 0), first)
    assert not torch.equal(draw("a.png", 1), first)


@pytest.mark.parametrize("kind", KINDS)
def test_the_image_itself_stays_as_it_is(kind):
    image = noise()
    draw_defect(image, kind, "a.png", Context())
    assert torch.equal(image, noise())


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(1, 1), (1, 64), (2, 64), (64, 3), (8, 8)], ids=str)
def test_the_smallest_images_can_be_drawn_on(kind, size):
    for number in range(10):
        found = draw_defect(noise(*size), kind, f"{number}.png", Context())
        assert found.isfinite().all()


# In batches of a recipe's images ----------------------------------------------------------------------


def normal(stripes: Path) -> list[Sample]:
    paths = sorted((stripes / "stripes" / "train" / "good").iterdir())
    return [Sample(path.name, path, 0, "good") for path in paths]


def found(recipe: dict[str, Any], chosen: list[Sample], count: int = 20, **data: Any) -> dict[tuple[str, str], Tensor]:
    """(Image, kind) → the image with the defect."""
    parts = assemble(read_recipe(recipe | {"data": recipe["data"] | data}))
    return {
        (id, kind): image
        for batch in drawn(chosen, count, parts, BadImages(1))
        for image, id, kind in zip(batch.images, batch.ids, batch.kinds, strict=True)
    }


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_neither_batches_nor_order_change_a_drawing(small_recipe, stripes, batch_size):
    expected = found(small_recipe, normal(stripes))  # in batches of 4
    other = found(small_recipe, normal(stripes)[::-1], batch_size=batch_size)
    assert len(expected) == 20
    assert other.keys() == expected.keys()
    assert all(torch.equal(other[key], image) for key, image in expected.items())


def test_defects_are_drawn_at_the_size_of_the_input(small_recipe, stripes):
    sizes = {tuple(image.shape) for image in found(small_recipe, normal(stripes), image_size=80, crop=72).values()}
    assert sizes == {(3, 72, 72)}


def test_a_drawing_is_made_of_the_image_as_the_detector_sees_it(small_recipe, stripes):
    parts = assemble(read_recipe(small_recipe))
    (batch,) = parts.loader(normal(stripes), BadImages(1), 8, targets=False)
    images = dict(zip(batch.ids, batch.images, strict=True))
    for (id, kind), image in found(small_recipe, normal(stripes)).items():
        assert torch.equal(image, draw_defect(images[id].clone(), kind, id, parts.context))


def test_nothing_is_drawn_on_padding(small_recipe, stripes):
    for path in (stripes / "stripes" / "train" / "good").iterdir():
        image = Image.open(path)
        image.crop((0, 12, 48, 36)).save(path)  # twice as wide as high: a quarter of padding above and below
    parts = assemble(read_recipe(small_recipe | {"data": small_recipe["data"] | {"resize": "pad"}}))
    (batch,) = parts.loader(normal(stripes), BadImages(1), 8, targets=False)
    images = dict(zip(batch.ids, batch.images, strict=True))
    assert batch.regions is not None and batch.regions.tolist() == [[16, 0, 48, 64]] * 8
    drawings_ = found(small_recipe, normal(stripes), 64, resize="pad")
    assert len(drawings_) == 64
    for (id, _), image in drawings_.items():
        assert torch.equal(image[:, :16], images[id][:, :16]) and torch.equal(image[:, 48:], images[id][:, 48:])
        assert not torch.equal(image[:, 16:48], images[id][:, 16:48])


def test_an_image_that_cannot_be_read_is_left_out(small_recipe, stripes):
    broken = stripes / "stripes" / "train" / "good" / "001.png"
    broken.write_bytes(broken.read_bytes()[:200])
    parts, bad = assemble(read_recipe(small_recipe)), BadImages(1)
    ids = [id for batch in drawn(normal(stripes), 16, parts, bad) for id in batch.ids]
    assert sorted(ids) == sorted(2 * [f"{number:03}.png" for number in range(8) if number != 1])
    assert list(bad.reasons) == ["001.png"]


def test_gray_images_can_be_drawn_on(small_recipe, stripes):
    folder = stripes / "stripes" / "train" / "good"
    for path in folder.iterdir():
        Image.fromarray(np.asarray(Image.open(path))[..., 0]).save(path)
    assert len(found(small_recipe, normal(stripes))) == 20
