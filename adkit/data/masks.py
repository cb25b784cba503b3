"""Masks: reading them, and judging before anything is trained whether they fit their images and can be right.

A pixel of a mask is anomalous where its value is above ``[data] mask_threshold``, which is 0. The value is that of the
highest of its colors, or 0 where the mask is transparent. Where a mask has one color alone and its opacity varies, as a
layer that was painted on has, the value is the opacity.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from adkit.data.files import images_under
from adkit.data.formats.base import Notes
from adkit.data.images import ImageError, flatten, image_size, in_threads, read_raw
from adkit.data.samples import Sample, Source
from adkit.utils.text import counted, some

FEW = 16
"""The number of values up to which a mask counts as one of a few classes."""
NEAR = 32
"""How far a value may be from black or white and still count as that, on a scale of 0 to 255."""
MOSTLY = 0.9
"""The share of the pixels that are black or white, or nearly, in a mask whose edges are smooth or noisy."""
_LOSSY = ("JPEG", "MPO", "JPEG2000", "WEBP", "AVIF")

Values = npt.NDArray[np.float32 | np.uint8]


def read_mask(path: Path, threshold: float = 0) -> npt.NDArray[np.bool_]:
    """Read a mask (h, w), which is true wherever a value is above the threshold and not transparent.

    Of a folder of masks, as MVTec LOCO has them, the union counts.

    Raises:
        ImageError: unreadable, an empty folder, or masks of several sizes in one folder.
    """
    return _read(path).values > threshold


@dataclass(frozen=True)
class _Mask:
    values: Values
    """(h, w): above the threshold is anomalous."""
    plain: bool
    """Whether all pixels have one color."""
    lossy: bool
    """Whether it comes from a file that keeps its pixels roughly."""


@dataclass(frozen=True)
class Measured:
    """What there is to say about a mask without its image."""

    size: tuple[int, int]
    """(height, width)."""
    levels: int
    """The number of different values, on a scale of 0 to 255."""
    ends: float
    """The share of the pixels that are nearly black or nearly white."""
    share: float
    """The share of the pixels that are anomalous."""
    half: float
    """The value halfway to white."""
    above_half: float
    """The share of the pixels whose value is above that."""
    border: bool
    """Whether nearly all of the border is anomalous."""
    ground: bool
    """Whether there is a pixel that is not anomalous, or all have one color."""
    drawn: bool
    """Whether it has two values, or a few for classes."""
    black_or_white: bool
    """Whether black or white occurs in it."""

    @property
    def masklike(self) -> int:
        """How much this looks like a mask: 2 with few values, 1 where most are nearly black or white, 0 otherwise."""
        if not self.black_or_white:
            return 0
        return 2 if self.drawn else int(self.ends > 0.95)


def measure(path: Path, threshold: float = 0) -> Measured:
    """Measure a mask; raises ImageError as ``read_mask`` does."""
    mask = _read(path)
    values = mask.values
    if values.dtype == np.uint8:
        half, scaled = 127.0, values
    else:
        top = max(float(values.max()), 1e-6)
        half, scaled = top / 2, np.ceil(values * np.float32(255 / top)).clip(0, 255).astype(np.uint8)
    counts = np.array(Image.fromarray(scaled).histogram())  # ten times as fast as bincount
    levels, white = int(np.count_nonzero(counts)), int(np.flatnonzero(counts)[-1])
    drawn = levels <= 2 or (levels <= FEW and not mask.lossy)
    near = np.arange(256)
    ends = counts[(near <= NEAR) | (near >= max(white - NEAR, 0))].sum() / values.size
    border = np.concatenate([values[0], values[-1], values[:, 0], values[:, -1]]) > threshold
    low = threshold if drawn or threshold else NEAR
    return Measured(
        size=(values.shape[0], values.shape[1]),
        levels=levels,
        ends=float(ends),
        share=_share(values, counts, threshold),
        half=half,
        above_half=_share(values, counts, half),
        border=bool(border.mean() > 0.95),
        ground=mask.plain or _share(values, counts, low) < 1,
        drawn=drawn,
        black_or_white=bool(counts[0] or counts[255]),
    )


def _share(values: Values, counts: npt.NDArray[np.int_], level: float) -> float:
    """The share of the pixels above ``level``; of bytes, their ``counts`` say it at once."""
    if values.dtype == np.uint8:
        return float(counts[int(level) + 1 :].sum() / values.size)
    return float((values > level).mean())


def size_problem(sample: Sample, size: tuple[int, int], mask_size: tuple[int, int]) -> str:
    """The sentence on a mask that does not fit its image; sizes are (height, width)."""
    image, mask = f"{size[1]} × {size[0]}", f"{mask_size[1]} × {mask_size[0]}"
    return (
        f"{sample.mask}: expected a mask of its image's size, {image} pixels (width × height, "
        f"{_path(sample.source)}), found {mask}; export the mask at the size of the image"
    )


def check_masks(category: str, samples: Sequence[Sample], threshold: float | None, notes: Notes) -> list[Sample]:
    """Note every mask that does not fit its image or cannot be right.

    Args:
        threshold: the value above which a pixel is anomalous, where the user says so; None: 0.

    Returns:
        The samples, without the masks of normal images, which are empty, and without those that cannot be read: such an
        image counts in the image metrics alone. An image that cannot be read keeps its mask: the loader reports it.
    """
    anomalous = [sample for sample in samples if sample.label]
    known = [sample for sample in anomalous if not sample.closed]
    bare = [sample.id for sample in known if sample.mask is None]
    if bare and len(bare) < len(known):
        notes.problems.append(
            f"{category}: {len(bare):,} of {counted(len(known), 'anomalous image')} "
            f"{'has' if len(bare) == 1 else 'have'} no mask: {some(bare)}; "
            "add the missing masks, or remove all masks to do without pixel metrics"
        )
    masked = [sample for sample in samples if sample.mask is not None]
    judged = _Judged(threshold)
    for sample, verdict in zip(masked, in_threads(lambda one: _verdict(one, threshold), masked), strict=True):
        judged.take(sample, verdict)
    notes.problems.extend(judged.problems())
    notes.warnings.extend(f"{category}: {text}" for text in judged.warnings())
    return [s if s.mask is None or (s.label and s.id not in judged.unread) else replace(s, mask=None) for s in samples]


@dataclass(frozen=True)
class _Verdict:
    """What was found of the mask of one image."""

    problem: str | None = None
    """A sentence of its own."""
    kind: str | None = None
    """What is wrong with it, as one of the keys of ``_IMPOSSIBLE``."""
    measured: Measured | None = None
    unread: str | None = None
    """Why it cannot be read."""


_IMPOSSIBLE: Mapping[str, str] = {
    "painted": (
        "expected a mask, which is black where its image is normal, found a copy of its image that a defect may be "
        "painted on: draw the defect alone, white on black"
    ),
    "soft": (
        "expected a mask of two values, or of a few for classes, found many between black and white: save it in black "
        "and white, or set data.mask_threshold to the value above which a pixel is anomalous"
    ),
    "groundless": (
        "expected a mask, which is black (0) where its image is normal, found several colors and no black, so that all "
        "of the image would be anomalous: make the ground black, or set data.mask_threshold to the value of the ground"
    ),
}
"""What a mask cannot be → the end of the sentence on it."""


@dataclass
class _Judged:
    """The verdicts on the masks of a category."""

    threshold: float | None
    unread: dict[str, str] = field(default_factory=dict)
    """Id of an anomalous image → why its mask cannot be read."""
    _unread_good: list[str] = field(default_factory=list)
    _single: list[str] = field(default_factory=list)
    _impossible: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    _measured: dict[str, Measured] = field(default_factory=dict)
    """Mask of an anomalous image → what was measured."""

    def take(self, sample: Sample, verdict: _Verdict) -> None:
        if verdict.problem is not None:
            self._single.append(verdict.problem)
        if verdict.kind is not None:
            self._impossible[verdict.kind].append(str(sample.mask))
        if verdict.unread is not None and sample.label:
            self.unread[sample.id] = verdict.unread
        elif verdict.unread is not None:
            self._unread_good.append(verdict.unread)
        if verdict.measured is not None and sample.label:
            self._measured[str(sample.mask)] = verdict.measured

    def problems(self) -> Iterator[str]:
        yield from self._single
        for kind, masks in self._impossible.items():
            yield f"{some(masks, 3)}: {_IMPOSSIBLE[kind]}"

    def warnings(self) -> Iterator[str]:
        yield from (f"left out, the mask of a good image: {reason}" for reason in self._unread_good)
        if self.unread:
            lone, shown = len(self.unread) == 1, some([f"{id}: {reason}" for id, reason in self.unread.items()], 3)
            yield (
                f"{counted(len(self.unread), 'anomalous image')} {'has a mask' if lone else 'have masks'} that cannot "
                f"be read, and {'counts' if lone else 'count'} in the image metrics alone: {shown}"
            )
        found = self._measured
        if empty := [mask for mask, one in found.items() if not one.share]:
            yield (
                f"{counted(len(empty), 'mask')} of anomalous images {'is' if len(empty) == 1 else 'are'} empty: no "
                f"value is above {self.threshold or 0:g} ({some(empty, 3)}): draw the defects, or name other masks"
            )
        noisy = {mask: one for mask, one in found.items() if not one.drawn} if self.threshold is None else {}
        if noisy:
            name, worst = max(noisy.items(), key=lambda item: item[1].share - item[1].above_half)
            yield (
                f"{counted(len(noisy), 'mask')} {'has' if len(noisy) == 1 else 'have'} many values, as JPEG or smooth "
                f"edges leave them, and all above 0 count as anomalous: {worst.share:.1%} of {name}, where "
                f"{worst.above_half:.1%} are above {worst.half:g}: save masks in black and white, or set "
                f"data.mask_threshold = {worst.half:g}"
            )
        shares = {mask: one.above_half if mask in noisy else one.share for mask, one in found.items()}
        wide = [mask for mask, share in shares.items() if share > 0.5]
        turned = [mask for mask in wide if found[mask].border and shares[mask] < 1]
        if turned or (wide and median(shares.values()) > 0.5):
            chosen = turned or wide
            yield (
                f"{len(chosen):,} of {counted(len(found), 'mask')} {'marks' if len(chosen) == 1 else 'mark'} more than "
                f"half of the image ({some([f'{mask}: {shares[mask]:.1%}' for mask in chosen], 3)}): black (0) is "
                "normal and all else anomalous, so invert masks that are the other way round"
            )


def _verdict(sample: Sample, threshold: float | None) -> _Verdict:
    """Judge the mask of one image; this runs in a thread."""
    assert sample.mask is not None
    try:
        found = measure(sample.mask, threshold or 0)
    except ImageError as error:
        return _Verdict(unread=error.reason)
    if not sample.label:
        marked = round(found.share * found.size[0] * found.size[1])
        return _Verdict(problem=_not_empty(sample, marked) if marked else None)
    try:
        if problem := _misfit(sample, found.size):
            return _Verdict(problem=problem)
        painted = threshold is None and not found.drawn and _copies(sample)
    except ImageError:
        return _Verdict()  # of the image: the loader reports and counts it
    if painted:
        return _Verdict(kind="painted")
    if threshold is None and not found.drawn and found.ends < MOSTLY:
        return _Verdict(kind="soft")
    if threshold is None and not found.ground:
        return _Verdict(kind="groundless")
    return _Verdict(measured=found)


def _misfit(sample: Sample, mask_size: tuple[int, int]) -> str | None:
    assert isinstance(sample.source, Path)
    size = image_size(sample.source)
    if size != mask_size:
        image = read_raw(sample.source)  # a rotation may be stated behind the pixels: decode to be sure
        size = (image.height, image.width)
    return None if size == mask_size else size_problem(sample, size, mask_size)


def _copies(sample: Sample) -> bool:
    """Whether what is neither black nor white in a mask is mostly as it is in its image."""
    assert sample.mask is not None and isinstance(sample.source, Path)
    if sample.mask.is_dir():
        return False
    mask = np.asarray(read_raw(sample.mask).convert("L"), np.float32)
    raw = read_raw(sample.source)
    try:
        image = np.asarray(flatten(raw).convert("L"), np.float32)
    except ImageError:
        return False  # of values that data.range is for, which no mask in 8 bits is a copy of
    between = (mask > NEAR) & (mask < mask.max() - NEAR)
    return mask.shape == image.shape and bool(between.mean() > 0.01) and _alike(mask[between], image[between])


def _alike(mask: npt.NDArray[np.float32], image: npt.NDArray[np.float32]) -> bool:
    return bool((np.abs(mask - image) <= 12).mean() > 0.5)


def _not_empty(sample: Sample, marked: int) -> str:
    return (
        f"{sample.mask}: expected no anomalous pixel in the mask of a good image ({_path(sample.source)}), "
        f"found {marked:,}; empty the mask, or put the image among the anomalous ones"
    )


def _read(path: Path) -> _Mask:
    files = images_under(path) if path.is_dir() else [path]
    if not files:
        raise ImageError(f"the folder of masks {path} is empty")
    first, *others = (_read_file(file) for file in files)
    for other in others:
        if other.values.shape != first.values.shape:
            raise ImageError(f"the masks in {path} are of several sizes")
        values = np.maximum(first.values, other.values)
        first = _Mask(values, first.plain and other.plain, first.lossy or other.lossy)
    return first


def _read_file(path: Path) -> _Mask:
    try:
        image = read_raw(path)
    except ImageError as error:
        raise ImageError(f"its mask {path}: {error.reason}") from error
    lossy = image.format in _LOSSY or path.suffix.lower() in (".jpg", ".jpeg")  # turned, an image forgets its format
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        bands = np.asarray(image.convert("RGBA"))  # (h, w, 4)
        shown = bands[..., 3] > 0
        if not shown.all() and _one_color(bands[shown][:, :3]):
            return _Mask(bands[..., 3], not shown.any(), lossy)
        return _Mask(np.where(shown, bands[..., :3].max(axis=-1), np.uint8(0)), _one_color(bands, lossy), lossy)
    if image.mode in ("1", "L", "F") or image.mode.startswith("I"):
        values = np.asarray(image.convert("L") if image.mode == "1" else image)
        gray: Values = values if values.dtype == np.uint8 else values.astype(np.float32)
        return _Mask(gray, _one_color(values[..., None], lossy), lossy)
    bands = np.asarray(image.convert("RGB"))  # (h, w, 3)
    return _Mask(bands.max(axis=-1), _one_color(bands, lossy), lossy)


def _one_color(pixels: npt.NDArray[Any], roughly: bool = True) -> bool:
    """Whether all ``pixels`` (…, bands) have one color, or roughly one; also where there are none."""
    if not pixels.size:
        return True
    bands = (pixels[..., band] for band in range(pixels.shape[-1]))
    return all(float(one.max()) - float(one.min()) <= (NEAR if roughly else 0) for one in bands)


def _path(source: Source) -> Path:
    return source if isinstance(source, Path) else source.path
