"""Extractor ``glance``: what is computed once for all patches equals patch-by-patch passes."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import pytest
import torch
from adkit_plugins.extractors.glance import adkit_extractors
from adkit_plugins.extractors.glance.extractor import Glance, GlanceParams
from adkit_plugins.extractors.glance.shared import offsets
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from adkit import UserError
from adkit.plugin import Context
from adkit.testing import check_component

CONTEXT = Context(image_size=(256, 256))


def glance(**params: object) -> Glance:
    return Glance(GlanceParams.model_validate(params), CONTEXT)


def images(count: int) -> Tensor:
    return torch.rand(count, 3, 256, 256, generator=torch.Generator().manual_seed(0))


def patch_by_patch(extractor: Glance, image: Tensor, first: list[int]) -> tuple[Tensor, Tensor]:
    """What Local-Net and Global-Net give for each of some patches by itself: (k, k, 128) each."""
    local, expected = [], []
    for top in first:
        for left in first:
            hidden = torch.zeros(1, 256, 256, dtype=torch.bool)
            hidden[:, top : top + 33, left : left + 33] = True
            local.append(extractor.local(image[None, :, top : top + 33, left : left + 33]))
            expected.append(extractor.expected(image[None], hidden))
    side = len(first)
    return torch.cat(local).unflatten(0, (side, side)), torch.cat(expected).unflatten(0, (side, side))


@cache
def features() -> dict[str, Tensor]:
    """The features of two images by the paper's 20 × 20 patches."""
    with torch.no_grad():
        return glance()(images(2))


def test_contract_where_whole_images_are_compared() -> None:
    check_component(adkit_extractors()[0], {"compare": "image"}, context=CONTEXT)


def test_levels_lie_where_the_patches_are_centered() -> None:
    levels = glance().levels
    assert {name: (one.grid, one.channels) for name, one in levels.items()} == {
        "local": ((20, 20), 128),
        "global": ((20, 20), 128),
        "mismatch": ((20, 20), 1),
    }
    centers = levels["mismatch"].geometry.centers
    assert centers is not None
    assert centers[0] == centers[1] == tuple(first + 16.5 for first in offsets(20, exact=False))


def test_patches_begin_at_multiples_of_4_or_exactly() -> None:
    rounded, exact = offsets(20, exact=False), offsets(20, exact=True)
    assert (rounded[0], rounded[-1], exact[0], exact[-1]) == (0, 220, 0, 223)
    assert {other - one for one, other in pairwise(rounded)} == {8, 12}
    assert {one % 4 for one in rounded} == {0}
    assert exact == [round(i * 223 / 19) for i in range(20)]
    assert max(abs(one - other) for one, other in zip(rounded, exact, strict=True)) <= 4


@pytest.mark.slow
def test_all_400_patches_equal_patch_by_patch_passes() -> None:
    extractor, found = glance(), features()
    with torch.no_grad():
        local, expected = patch_by_patch(extractor, images(2)[1], offsets(20, exact=False))
    for name, wanted in {"local": local, "global": expected}.items():
        assert (found[name][1] - wanted).abs().max() <= 1e-5 * wanted.abs().max()


@pytest.mark.parametrize("places", [[0, 19], [3, 8], [10, 15]])
def test_some_of_the_400_patches_equal_passes_of_their_own(places: list[int]) -> None:
    """The corners, and patches of which the next one is 8 and 12 pixels away."""
    extractor, found = glance(), features()
    first = [offsets(20, exact=False)[place] for place in places]
    with torch.no_grad():
        local, expected = patch_by_patch(extractor, images(2)[0], first)
        mismatch = extractor.mismatch(local, expected).softmax(-1)[..., 1:]
    at = torch.tensor(places)
    for name, wanted in {"local": local, "global": expected, "mismatch": mismatch}.items():
        assert (found[name][0][at][:, at] - wanted).abs().max() <= 1e-5 * wanted.abs().max()


@pytest.mark.parametrize(
    ("params", "places"), [({"patches": 3}, [0, 1, 2]), ({"patches": 7, "offsets": "exact"}, [0, 3, 6])]
)
def test_other_grids_equal_patch_by_patch_passes(params: dict[str, object], places: list[int]) -> None:
    extractor = glance(**params)
    all_of_them = offsets(extractor.params.patches, extractor.params.offsets == "exact")
    at = torch.tensor(places)
    with torch.no_grad():
        found = extractor(images(1))
        local, expected = patch_by_patch(extractor, images(1)[0], [all_of_them[place] for place in places])
    for name, wanted in {"local": local, "global": expected}.items():
        assert (found[name][0][at][:, at] - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def operations(extractor: Glance, run: str) -> int:
    counter = FlopCounterMode(display=False)
    image = images(1)
    with torch.no_grad(), counter:
        if run == "all":
            extractor(image)
        elif run == "local":
            extractor.local(image[:, :, :33, :33])
        else:
            extractor.expected(image, torch.zeros(1, 256, 256, dtype=torch.bool))
    return int(counter.get_total_flops()) // 2


def test_sharing_takes_a_quarter_of_the_operations() -> None:
    """By hand from tables 1 and 2: 107 million multiplications for Local-Net and 59 for Global-Net per patch."""
    extractor = glance()
    local, expected = operations(extractor, "local"), operations(extractor, "global")
    # Of Global-Net the counter sees the convolutions of the mask, too: k² per cell of each layer.
    masks = 125**2 * 49 + (30**2 + 28**2 + 13**2 + 11**2 + 5**2 + 3**2 + 1) * 9
    assert local == 31**2 * 128 * 27 + 11**2 * 256 * 3200 + 4**2 * 256 * 1024 + 128 * 4096
    assert round(local / 1e6) == 107
    assert round((expected - masks) / 1e6) == 59
    assert operations(extractor, "all") * 4 < 400 * (local + expected - masks)


def test_the_whole_image_is_compared_with_itself() -> None:
    """Each pixel of the 33×33 image is the mean of the area that it covers: here of four colors."""
    extractor = glance(compare="image")
    image = torch.zeros(1, 3, 256, 256)
    image[..., :128] = 1
    small = extractor.reduced(image)
    assert small.shape == (1, 3, 33, 33)
    torch.testing.assert_close(small.mean(), image.mean())
    assert small[0, 0, 0, [0, 15, 16, 17, 32]].tolist() == pytest.approx([1, 1, 0.5, 0, 0], abs=1e-5)
    with torch.no_grad():
        found = extractor(image)
        nothing = torch.zeros(1, 256, 256, dtype=torch.bool)
        torch.testing.assert_close(found["local"][:, 0, 0], extractor.local(small))
        torch.testing.assert_close(found["global"][:, 0, 0], extractor.expected(image, nothing))
    assert {name: tuple(values.shape) for name, values in found.items()} == {
        "local": (1, 1, 1, 128),
        "global": (1, 1, 1, 128),
        "mismatch": (1, 1, 1, 1),
    }


def test_other_image_sizes_are_refused() -> None:
    with pytest.raises(UserError, match=r"data\.image_size: expected 256 for extractor glance.*found 224 × 256"):
        Glance(GlanceParams(), Context(image_size=(224, 256)))


def test_what_is_expected_begins_near_zero_and_what_is_seen_does_not() -> None:
    with torch.no_grad():
        found = glance()(images(1))
    seen, expected = (float(found[name].square().mean()) for name in ("local", "global"))
    assert expected < 0.1 * seen
