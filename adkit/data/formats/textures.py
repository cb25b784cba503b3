"""A small real data set on every machine: three photographs from inside scikit-image, with drawn defects.

Training, calibration and test images are crops from disjoint regions of each photograph.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from adkit.data.formats import defects
from adkit.data.formats.base import DataTable, Found, Notes
from adkit.data.formats.mvtec import find_mvtec
from adkit.errors import UserError
from adkit.utils.atomic import whole_folder

Photograph = NDArray[np.uint8]

TEXTURES = ("brick", "grass", "gravel")
SIZE = 160
"""Height and width of every image, in pixels of the photograph."""
GOOD = {"train": 80, "validation": 40, "test": 30}
"""Split → number of images without a defect, per texture."""
BAD = 10
"""Number of test images with a defect, per texture and kind of defect."""

_MIDDLE = 118.0
_TONES = {"brick": (1.10, 0.96, 0.88), "grass": (0.95, 1.06, 0.84), "gravel": (1.02, 1.0, 0.95)}
_DONORS = {"brick": "gravel", "grass": "brick", "gravel": "brick"}
"""Texture → the texture whose pieces are pasted into it; gravel in grass would hardly be seen."""
_README = """\
Textures, made by adkit (seed {seed}).

Crops of the brick, grass and gravel photographs that ship inside scikit-image, toned, with a mild jitter of
brightness and contrast. Crops for training, calibration (validation) and test come from disjoint regions of
each photograph. The defects are drawn; ground_truth holds the exact pixels that each was drawn on.

To use images of your own, lay them out like these, and name this folder's replacement in the recipe:

    [data]
    format = "mvtec"
    root = "path/to/your/folder"

    <name>/train/good/         images without defects, to learn from
    <name>/validation/good/    optional: more of them, for the threshold alone
    <name>/test/good/          images without defects, to measure with
    <name>/test/<kind>/        images with a defect, a folder per kind
    <name>/ground_truth/<kind>/<stem>_mask.png    optional: white where the defect is
"""


class TexturesTable(DataTable):
    """Photographs of three textures with drawn defects, written to root when it does not exist."""

    format: Literal["textures"] = Field(default="textures", description="drawn defects on photographs of textures")
    root: str = Field(default="data/textures", min_length=1, description="where the textures are written and read")
    category: str | tuple[str, ...] = Field(
        default="*", min_length=1, description='one category, a list, or "*" for all'
    )
    seed: int = Field(default=0, ge=0, lt=2**32, description="seed of the crops and the drawn defects")

    def find(self, seed: int, notes: Notes) -> list[Found]:
        root = Path(self.root).expanduser()
        if not root.exists():
            write_textures(root, self.seed)
        return find_mvtec(self.root, self.category, notes)


class Box(NamedTuple):
    """Part of a photograph, in its pixels; bottom and right are excluded."""

    top: int
    left: int
    bottom: int
    right: int


@dataclass(frozen=True)
class Plan:
    """One image before it is drawn."""

    texture: str
    split: str
    kind: str
    """``good``, or a kind of defect."""
    number: int
    box: Box
    """Where in the photograph it is cropped."""
    seeds: tuple[int, ...]
    """Seeds of the generator that makes every further choice."""

    @property
    def path(self) -> Path:
        return Path(self.texture, self.split, self.kind, f"{self.number:03}.png")

    @property
    def mask_path(self) -> Path:
        return Path(self.texture, "ground_truth", self.kind, f"{self.number:03}_mask.png")


def regions() -> dict[str, Box]:
    """Split → the part of each photograph that its crops come from."""
    return {
        "train": Box(0, 0, 512, 316),
        "validation": Box(0, 316, 200, 512),
        "test": Box(200, 316, 512, 512),
    }


def plans(seed: int) -> Iterator[Plan]:
    """Every image that ``write_textures`` writes, in its order."""
    for t, texture in enumerate(TEXTURES):
        for s, (split, region) in enumerate(regions().items()):
            kinds = ("good", *defects.KINDS) if split == "test" else ("good",)
            for k, kind in enumerate(kinds):
                for number in range(GOOD[split] if kind == "good" else BAD):
                    seeds = (seed, t, s, k, number)
                    box = _crop(region, np.random.default_rng((*seeds, 0)))
                    yield Plan(texture, split, kind, number, box, seeds)


def photographs() -> dict[str, Photograph]:
    """Texture → its photograph, (512, 512) gray."""
    import skimage.data  # slow to import

    return {texture: getattr(skimage.data, texture)() for texture in TEXTURES}


def draw_image(plan: Plan, photos: Mapping[str, Photograph]) -> tuple[defects.Pixels, defects.Pixels, defects.Mask]:
    """Draw one planned image.

    Returns:
        The image before the defect (SIZE, SIZE, 3), with it, and its mask (SIZE, SIZE), empty where the
        image is good.
    """
    rng = np.random.default_rng((*plan.seeds, 1))
    clean = _snapshot(photos[plan.texture], plan.box, _TONES[plan.texture], rng)
    if plan.kind == "good":
        return clean, clean, np.zeros((SIZE, SIZE), dtype=np.bool_)
    other = _DONORS[plan.texture]
    donor = _snapshot(photos[other], _crop(regions()[plan.split], rng), _TONES[other], rng)
    return clean, *defects.draw(plan.kind, clean, donor, rng)


def write_textures(root: Path, seed: int) -> None:
    """Write the data set in MVTec AD's layout, with a ``validation`` folder as MVTec LOCO has it.

    It is there whole or not at all. One seed gives one set of files, byte for byte.

    Raises:
        UserError: ``root`` is there already, or cannot be written.
    """
    if root.exists():
        raise UserError(f"{root}: expected a folder yet to be made for the textures, found one: name another")
    try:
        with whole_folder(root) as partial:
            photos = photographs()
            for plan in plans(seed):
                _, image, mask = draw_image(plan, photos)
                _save(partial / plan.path, image)
                if plan.kind != "good":
                    _save(partial / plan.mask_path, mask.astype(np.uint8) * 255)
            (partial / "README.txt").write_text(_README.format(seed=seed), encoding="utf-8")
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{root}: cannot write the textures there ({reason}): free space or name another") from error


def _crop(region: Box, rng: np.random.Generator) -> Box:
    top = int(rng.integers(region.top, region.bottom - SIZE, endpoint=True))
    left = int(rng.integers(region.left, region.right - SIZE, endpoint=True))
    return Box(top, left, top + SIZE, left + SIZE)


def _snapshot(
    photo: Photograph, box: Box, tone: tuple[float, float, float], rng: np.random.Generator
) -> defects.Pixels:
    """Cut out part of a photograph, toned, mirrored at random, with random brightness and contrast."""
    gray = photo[box.top : box.bottom, box.left : box.right]  # (SIZE, SIZE)
    if rng.random() < 0.5:
        gray = gray[:, ::-1]
    contrast, brightness = rng.uniform(0.9, 1.1), rng.uniform(-12, 12)
    light = _MIDDLE + brightness + contrast * (gray - _MIDDLE)
    toned: NDArray[np.float64] = light[..., None] * np.array(tone)  # (SIZE, SIZE, 3)
    return np.clip(np.rint(toned), 0, 255).astype(np.uint8)


def _save(path: Path, image: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
