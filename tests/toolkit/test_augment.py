"""AugMix, CutOut and Confetti: what they change, what they say they changed, and whose randomness they use."""

import os
import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from adkit.toolkit.augment import HOLE, HOLE_COLOR, SQUARE, SQUARES, augmix, confetti, cutout, vary

NAMES = ("augmix", "cutout", "confetti")
LOCAL = ("cutout", "confetti")


def sample_images(count=4, height=60, width=80):
    return torch.rand((count, 3, height, width), generator=torch.Generator().manual_seed(0))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", NAMES)
def test_images_keep_shape_type_and_range(name):
    varied = vary(name, sample_images(), seeded())
    assert varied.images.shape == (4, 3, 60, 80)
    assert varied.images.dtype == torch.float32
    assert varied.images.min() >= 0 and varied.images.max() <= 1
    assert varied.masks.shape == (4, 60, 80)
    assert varied.masks.dtype == torch.bool


@pytest.mark.parametrize("name", NAMES)
def test_no_pixel_changes_outside_the_mask(name):
    images = sample_images()
    varied = vary(name, images, seeded())
    kept = ~varied.masks[:, None].expand_as(images)
    assert torch.equal(varied.images[kept], images[kept])


@pytest.mark.parametrize("name", LOCAL)
def test_every_pixel_changes_inside_the_mask(name):
    images = sample_images()
    varied = vary(name, images, seeded())
    assert torch.equal((varied.images != images).any(1), varied.masks)
    assert varied.masks.flatten(1).any(1).all()


def test_augmix_changes_the_whole_image():
    varied = augmix(sample_images(), seeded())
    assert varied.masks.all()
    assert (varied.images != sample_images()).float().mean() > 0.5


def test_no_draw_of_augmix_leaves_an_image_as_it_is():
    image = sample_images(1, 32, 32)[0]
    generator = seeded()
    changes = [(augmix(image, generator).images - image).abs().max() for _ in range(300)]
    assert min(changes) >= 0.5 / 255  # 11 of 300 changed nothing when draws were taken as they came


@pytest.mark.parametrize("name", NAMES)
def test_equal_seeds_draw_equal_images_and_others_do_not(name):
    first, second, other = (vary(name, sample_images(), seeded(seed)).images for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("name", NAMES)
def test_each_image_of_a_batch_is_varied_its_own_way(name):
    same = sample_images(1).expand(2, -1, -1, -1)
    varied = vary(name, same, seeded()).images
    assert not torch.equal(varied[0], varied[1])


@pytest.mark.parametrize("name", NAMES)
def test_one_image_is_varied_as_a_batch_of_one(name):
    (image,) = sample_images(1)
    alone, batch = vary(name, image, seeded()), vary(name, image[None], seeded())
    assert torch.equal(alone.images, batch.images[0])
    assert torch.equal(alone.masks, batch.masks[0])


@pytest.mark.parametrize("name", NAMES)
def test_the_image_itself_stays_as_it_was(name):
    images = sample_images()
    vary(name, images, seeded())
    assert torch.equal(images, sample_images())


@pytest.mark.parametrize("name", NAMES)
def test_no_image_gives_no_image(name):
    varied = vary(name, sample_images(0), seeded())
    assert varied.images.shape == (0, 3, 60, 80)
    assert varied.masks.shape == (0, 60, 80)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(1, 1), (2, 9), (3, 3), (8, 8)])
def test_tiny_images_are_varied_too(name, size):
    varied = vary(name, sample_images(20, *size), seeded())
    assert varied.masks.flatten(1).any(1).all()


@pytest.mark.parametrize("name", NAMES)
def test_the_generators_of_the_process_stay_as_they_were(name):
    vary(name, sample_images(1), seeded())  # whatever importing the libraries draws

    def states():
        key = np.random.get_state(legacy=False)["state"]  # noqa: NPY002
        return torch.get_rng_state().tolist(), key["key"].tolist(), key["pos"], random.getstate()

    before = states()
    vary(name, sample_images(), seeded())
    assert states() == before


@pytest.mark.parametrize("name", NAMES)
def test_the_generators_of_the_process_decide_nothing(name):
    found = []
    for seed in (1, 2):
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            found.append(vary(name, sample_images(), seeded()).images)
    assert torch.equal(*found)


@pytest.mark.parametrize("name", NAMES)
def test_padding_stays_as_it_is(name):
    images = sample_images(2)
    regions = torch.tensor([[10, 0, 50, 80], [0, 20, 60, 60]])
    varied = vary(name, images, seeded(), regions=regions)
    changed = (varied.images != images).any(1)
    for image, (top, left, bottom, right) in zip(changed, regions.tolist(), strict=True):
        assert image.any()
        image[top:bottom, left:right] = False
        assert not image.any()
    assert not (changed & ~varied.masks).any()


@pytest.mark.parametrize("images", [torch.zeros(3, 60, 80, dtype=torch.uint8), torch.zeros(1, 60, 80)])
def test_what_is_no_batch_of_images_is_refused(images):
    with pytest.raises(ValueError, match=r"expected images \(n, 3, H, W\) or \(3, H, W\) of torch.float32, found"):
        cutout(images, seeded())


# AugMix --------------------------------------------------------------------------------------------------


def test_augmix_of_a_gray_image_stays_near_it():
    # Of a constant image, shears and rotations leave the middle alone, and tones stay what they are.
    gray = torch.full((50, 3, 32, 32), 0.5)
    middles = augmix(gray, seeded(), severity=1).images[:, :, 16, 16]
    assert (middles - 0.5).abs().max() < 0.1


def test_augmix_goes_further_with_severity():
    images = sample_images(30, 32, 32)
    mild, strong = (
        (augmix(images, seeded(), severity=severity).images - images).abs().mean().item() for severity in (1, 10)
    )
    assert mild < strong


def test_augmix_darkens_no_image_by_rounding():
    # Blending in whole gray values would truncate, by half of one in the mean.
    from torchvision.transforms import v2

    image = (sample_images(1, 32, 32)[0] * 255).round()
    gaps = []
    for seed in range(40):
        ours = augmix(image / 255, seeded(seed)).images * 255
        drawn = int(torch.randint(2**32, (), generator=seeded(seed)))
        with torch.random.fork_rng(devices=()):
            torch.default_generator.manual_seed(drawn)
            theirs = v2.AugMix(severity=3)(image.to(torch.uint8)).float()
        gaps.append((ours - theirs).mean().item())
    assert 0.3 < np.mean(gaps) < 0.7


# CutOut --------------------------------------------------------------------------------------------------


def rectangles(masks):
    for mask in masks:
        rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
        yield mask, (rows.min(), rows.max() + 1), (columns.min(), columns.max() + 1)


def test_cutout_fills_one_rectangle_with_the_mean_color():
    varied = cutout(sample_images(20), seeded())
    for image, (mask, rows, columns) in zip(varied.images, rectangles(varied.masks), strict=True):
        assert mask[slice(*rows), slice(*columns)].all()
        assert torch.equal(image[:, mask].unique(dim=1), torch.tensor(HOLE_COLOR)[:, None])


def test_sides_of_cutout_span_the_shares_that_are_stated():
    varied = cutout(sample_images(300, 40, 80), seeded())
    sides = [(int(bottom - top), int(right - left)) for _, (top, bottom), (left, right) in rectangles(varied.masks)]
    heights, widths = zip(*sides, strict=True)
    assert (min(heights), max(heights)) == (round(HOLE[0] * 40), round(HOLE[1] * 40))
    assert (min(widths), max(widths)) == (round(HOLE[0] * 80), round(HOLE[1] * 80))


def test_cutout_reaches_every_place():
    varied = cutout(sample_images(1, 20, 20).expand(1000, -1, -1, -1), seeded())
    assert varied.masks.any(0).all()


@pytest.mark.slow
def test_albumentations_asks_no_server_and_leaves_the_environment_alone():
    code = (
        "import os, sys, urllib.request, torch\n"
        "def refuse(*arguments, **named): raise SystemExit('went to the network')\n"
        "urllib.request.build_opener = refuse\n"
        "from adkit.toolkit.augment import cutout\n"
        "assert 'albumentations' not in sys.modules\n"
        "cutout(torch.rand(3, 20, 20), torch.Generator())\n"
        "assert 'albumentations' in sys.modules\n"
        "assert 'NO_ALBUMENTATIONS_UPDATE' not in os.environ\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "NO_ALBUMENTATIONS_UPDATE"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")


# Confetti ------------------------------------------------------------------------------------------------


def test_confetti_has_no_more_colors_than_squares():
    varied = confetti(torch.zeros(50, 3, 100, 100), seeded())
    for image, mask in zip(varied.images, varied.masks, strict=True):
        colors = image[:, mask].unique(dim=1).shape[1]
        assert 1 <= colors <= SQUARES[1]


def test_as_many_squares_as_stated_are_drawn():
    # In so small an image each is one pixel, and few fall on one that is taken: colors count them.
    varied = confetti(torch.zeros(300, 3, 12, 12), seeded())
    colors = {image[:, mask].unique(dim=1).shape[1] for image, mask in zip(varied.images, varied.masks, strict=True)}
    assert max(colors) == SQUARES[1]
    assert {SQUARES[0], SQUARES[0] + 1} <= colors


def test_a_square_covers_its_side_squared():
    # Whatever its rotation, up to the pixels on its edge.
    areas = []
    for image, mask in zip(*vars(confetti(torch.zeros(200, 3, 200, 200), seeded())).values(), strict=True):
        _, counts = image[:, mask].unique(dim=1, return_counts=True)
        areas.extend(counts.tolist())
    largest, mean_side = SQUARE[1] * 200, (SQUARE[0] + SQUARE[1]) / 2 * 200
    assert max(areas) <= (largest + 1.5) ** 2
    assert (mean_side - 1.5) ** 2 < np.median(areas) < (mean_side + 1.5) ** 2


def test_squares_are_rotated():
    # A square that is not rotated fills its bounding box, one at 45° half of it.
    shares = []
    for image, mask in zip(*vars(confetti(torch.zeros(40, 3, 200, 200), seeded())).values(), strict=True):
        for color in image[:, mask].unique(dim=1).T:
            ((one, rows, columns),) = rectangles((image == color[:, None, None]).all(0)[None])
            if min(rows[0], columns[0]) > 4 and max(rows[1], columns[1]) < 196 and one.sum() > 100:
                shares.append(float(one[slice(*rows), slice(*columns)].float().mean()))
    assert min(shares) < 0.6
    assert max(shares) > 0.85


@pytest.mark.slow
def test_help_loads_no_augmentation():
    code = (
        "import sys\nfrom adkit.cli.main import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print({'albumentations', 'cv2', 'torchvision'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"
