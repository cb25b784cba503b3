"""``adkit.Detector``: a saved detector, and its predictions for images."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from adkit.data.images import decoding_threads
from adkit.data.view import View
from adkit.detector.fitted import FittedDetector
from adkit.detector.inputs import ImageLike, InputImage, input_items, read_input
from adkit.detector.load import load_detector
from adkit.detector.manifest import ThresholdEntry
from adkit.detector.regions import Region, find_regions
from adkit.errors import UserError
from adkit.recipe.tables import FLOAT32_MAX
from adkit.threshold import Threshold, alike, by_hand, conformal, p_values, promise
from adkit.utils.text import counted


@dataclass(frozen=True)
class Part:
    """The verdict on one part, of which there may be several images: it is anomalous when any of them is."""

    group: str
    images: int
    score: float
    """The highest score of its images."""
    p_value: float | None
    """The share of normal parts whose highest score is as high; None without calibration images."""
    anomalous: bool
    highest: int
    """The number of the image with that score, the first where several have it."""


@dataclass(frozen=True)
class Predictions:
    """The predictions of a detector for n images, in their order."""

    scores: NDArray[np.float32]
    """(n,) raw scores: higher is more anomalous, in the scorer's own unit."""
    p_values: NDArray[np.float64] | None
    """(n,) p-values: shares of normal images that score as high or higher; None without calibration images."""
    anomalous: NDArray[np.bool_] | None
    """(n,) whether each score is above the threshold; None where there is no threshold."""
    maps: NDArray[np.float32] | None
    """(n, H, W) raw maps at the size of the detector's input; None where the scorer does not localize."""
    threshold: float | None
    """Raw score above which an image is anomalous; None where there is no threshold."""
    sizes: tuple[tuple[int, int], ...]
    """(height, width) of each image in pixels, as it is meant to be seen; of a tensor, its own."""
    regions: tuple[tuple[Region, ...], ...] | None
    """For each image the boxes, in its own pixels, around what its map has above the pixel threshold, highest peak
    first; None without maps or without a pixel threshold."""
    parts: tuple[Part, ...] | None = None
    """The verdict on each part, in the order in which they occur; None where no groups were given."""

    def __len__(self) -> int:
        return len(self.scores)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from adkit.report.notebook import predictions_html

        boxes = None if self.regions is None else [len(one) for one in self.regions]
        return predictions_html(self.scores, self.p_values, self.anomalous, self.threshold, boxes, self.maps)


class Detector:
    """A saved detector, which scores images as its run did; one instance serves any number of threads."""

    def __init__(self, fitted: FittedDetector) -> None:
        self._fitted = fitted
        self._lock = threading.Lock()  # an extractor reads its levels through hooks, which calls would share

    @classmethod
    def load(cls, path: str | Path, device: str = "auto") -> Detector:
        """Load a saved detector.

        Args:
            path: the folder of the detector, or the folder of a run that has one detector.
            device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.

        Raises:
            UserError: there is no detector, its files were altered, or a plugin that it needs is not installed.
        """
        return cls(load_detector(Path(path), device))

    @property
    def category(self) -> str:
        """The category that the detector was fitted on."""
        return self._fitted.category

    @property
    def threshold(self) -> float | None:
        """The raw score above which an image is anomalous; None where the detector has no threshold."""
        stated = self._fitted.threshold
        return None if stated is None else stated.value

    @property
    def promise(self) -> str | None:
        """What the threshold promises about false alarms, as a sentence; None where there is no threshold."""
        stated, groups = self._fitted.threshold, self._fitted.groups
        if stated is None:
            return None
        count = len(self._fitted.calibration) if groups is None else len(np.unique(groups))
        approximate = stated.method == "cross" or (stated.method == "pooled" and stated.grouped)
        threshold = Threshold(stated.value, count, stated.asked, stated.supported)
        said = promise(threshold, stated.per, approximate=approximate, grouped=stated.grouped or groups is not None)
        if stated.asked is None or threshold.kept:
            return said
        unit = "calibration score" if groups is None else "calibration group"
        needed = counted(ceil(1 / stated.asked) - 1, unit)
        return f"{said}; {stated.asked:g} was asked for, which takes {needed} instead of {count:,}"

    def with_threshold(self, value: float) -> Detector:
        """This detector with another threshold on scores, of which nothing is promised; that of pixels stays.

        Raises:
            UserError: the value is not finite.
        """
        if not -FLOAT32_MAX <= value <= FLOAT32_MAX:  # false for nan, too
            raise UserError(f"threshold: expected a finite number, found {value}: give a score")
        return self._at(by_hand(float(value), self._fitted.calibration, self._fitted.groups))

    def with_false_positive_rate(self, rate: float) -> Detector:
        """This detector with the threshold on scores that promises another rate of false alarms; that of pixels stays.

        It comes from the stored scores of the calibration images, as the run's came; ``promise`` says what it keeps.

        Raises:
            UserError: the rate is not between 0 and 1, or the detector has no calibration images.
        """
        if not 0 < rate < 1:
            raise UserError(
                f"false-positive rate: expected a number between 0 and 1, both excluded, found {rate}: 0.05 lets one "
                "normal image in twenty raise a false alarm"
            )
        if not len(self._fitted.calibration):
            raise UserError(
                "false-positive rate: expected a detector with scores of calibration images, found none: run its "
                "recipe with data.calibration above 0, or give a threshold"
            )
        if alike(self._fitted.calibration):
            raise UserError(
                "false-positive rate: expected scores of calibration images that differ, found all the same: look at "
                "the images of the run, or give a threshold"
            )
        return self._at(conformal(self._fitted.calibration, rate, self._fitted.groups))

    def _at(self, threshold: Threshold) -> Detector:
        stated = self._fitted.threshold
        if stated is None:
            entry = ThresholdEntry.of(threshold, "split", "image", grouped=False)
        else:
            entry = ThresholdEntry.of(threshold, stated.method, stated.per, grouped=stated.grouped)
        other = Detector(replace(self._fitted, threshold=entry))
        other._lock = self._lock  # it reads features through the same hooks
        return other

    @property
    def judges_parts(self) -> bool:
        """Whether the threshold's promise is about parts as a whole, as ``threshold.per = "part"`` asks for."""
        stated = self._fitted.threshold
        return stated is not None and stated.per == "part"

    @property
    def pixel_threshold(self) -> float | None:
        """The value of a map above which a pixel is anomalous; None where the detector has no pixel threshold.

        A normal image has such a pixel with the probability that the manifest states.
        """
        stated = self._fitted.pixel_threshold
        return None if stated is None else stated.value

    @property
    def view(self) -> View:
        """How an image becomes the extractor's input, and a map goes back to the image."""
        return self._fitted.view

    @property
    def localizes(self) -> bool:
        """Whether the detector makes maps."""
        return self._fitted.localizes

    @property
    def image_size(self) -> tuple[int, int]:
        """The (height, width) of the input that an image becomes."""
        return self._fitted.view.size

    def predict(
        self,
        images: ImageLike | Sequence[ImageLike],
        batch_size: int = 32,
        groups: Sequence[str] | None = None,
    ) -> Predictions:
        """Score one image or many; any number of threads may call it.

        Args:
            images: a path, a PIL image, a uint8 array of 0 to 255 or a uint16 array of 0 to 65535, (h, w) or (h, w, 1)
                gray, (h, w, 3) RGB, (h, w, 4) RGBA or (n, h, w, c) several of these, a gray array of int32 or floats, a
                float tensor (3, H, W) or (n, 3, H, W) of RGB in [0, 1] at ``image_size``, or a list of single ones of
                any of these kinds. Gray values of more than 8 bits are read by ``view.range``, as files are, or without
                one must lie in 0 to 65535 or, of floats, 0 to 1; a tensor is the input itself.
            batch_size: images computed on, and in memory, at a time; it moves scores by rounding alone.
            groups: the key of the part that each image shows, a text for one image; with them there is a verdict on
                each part.

        Returns:
            Scores and maps are raw, in the scorer's own unit; maps lie over the input (``view.restore`` lays one over
            its image) and regions are in pixels of the image.

        Raises:
            UserError: an image is not of these kinds, or cannot be read; or groups are given for another number of
                images, or to a detector whose promise is not about parts.
        """

        def refuse(number: int, error: UserError) -> None:
            raise error

        if groups is None:
            return self._predict(images, batch_size, refuse)
        self.require_parts("groups")
        found = self._predict(images, batch_size, refuse)
        keys = [groups] if isinstance(groups, str) else groups  # else a text would be a key per letter
        if len(keys) != len(found):
            raise UserError(
                f"groups: expected one key for each of {counted(len(found), 'image')}, found {len(keys)}: give as many "
                "as images"
            )
        return replace(found, parts=_parts(found, keys))

    def require_parts(self, asked: str) -> None:
        """Refuse to judge parts by a threshold that promises nothing about them.

        Args:
            asked: the argument by which a verdict on parts was asked for.

        Raises:
            UserError: the detector has no threshold, or one per image.
        """
        if not self.judges_parts:
            found = "no threshold" if self.threshold is None else "one per image"
            raise UserError(
                f"{asked}: expected a detector whose threshold is per part, found {found}: the chance that one of "
                "several images of a normal part is above it is larger than promised; run its recipe with [threshold] "
                'per = "part"'
            )

    def predict_readable(
        self, images: ImageLike | Sequence[ImageLike], batch_size: int = 32
    ) -> tuple[Predictions, dict[int, str]]:
        """Score the images that can be read, as ``predict`` does; for the others, return their number → the reason."""
        reasons: dict[int, str] = {}

        def note(number: int, error: UserError) -> None:
            reasons[number] = str(error)

        return self._predict(images, batch_size, note), reasons

    def _predict(
        self,
        images: ImageLike | Sequence[ImageLike],
        batch_size: int,
        unreadable: Callable[[int, UserError], None],
    ) -> Predictions:
        if batch_size < 1:
            raise UserError(f"batch_size: expected at least 1, found {batch_size}: use 32 or so")
        items = input_items(images, self._fitted.view)
        scores: list[NDArray[np.float32]] = [np.zeros(0, np.float32)]
        sizes: list[tuple[int, int]] = []
        regions: list[tuple[Region, ...]] = []
        maps: list[NDArray[np.float32]] = [np.zeros((0, *self.image_size), np.float32)]
        workers = min(decoding_threads(), batch_size, max(len(items), 1))
        with ThreadPoolExecutor(workers, thread_name_prefix="adkit-decode") as pool:
            for first in range(0, len(items), batch_size):
                batch = items[first : first + batch_size]
                read = [read_input(batch[0])] if len(batch) == 1 else list(pool.map(read_input, batch))
                images_read = []
                for number, image in enumerate(read, first):
                    if isinstance(image, UserError):
                        unreadable(number, image)
                    else:
                        images_read.append(image)
                if not images_read:
                    continue
                names = tuple(image.name for image in images_read)
                found, located = self._scored(np.stack([image.planes for image in images_read]), names)
                scores.append(found)
                sizes += [image.size for image in images_read]
                if located is not None:
                    maps.append(located)
                    regions += self._regions(located, images_read)
        return self._predictions(
            np.concatenate(scores),
            np.concatenate(maps) if self._fitted.localizes else None,
            tuple(sizes),
            tuple(regions),
        )

    def _scored(
        self, images: NDArray[np.float32], names: tuple[str, ...]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        pipeline = self._fitted.pipeline
        with self._lock:
            scores = pipeline(torch.from_numpy(images), names)
            maps = pipeline.localize(scores, self.image_size).cpu() if scores.localizes else None
        return scores.image.cpu().numpy(), None if maps is None else maps.numpy()

    def _regions(self, maps: NDArray[np.float32], images: Sequence[InputImage]) -> list[tuple[Region, ...]]:
        threshold = self.pixel_threshold
        if threshold is None:
            return []
        pairs = zip(maps, images, strict=True)
        return [find_regions(values, threshold, image.view, image.size) for values, image in pairs]

    def _predictions(
        self,
        scores: NDArray[np.float32],
        maps: NDArray[np.float32] | None,
        sizes: tuple[tuple[int, int], ...],
        regions: tuple[tuple[Region, ...], ...],
    ) -> Predictions:
        threshold, calibration = self.threshold, self._fitted.calibration
        return Predictions(
            scores=scores,
            p_values=p_values(scores, calibration, self._fitted.groups) if len(calibration) else None,
            anomalous=None if threshold is None else np.asarray(scores > threshold, np.bool_),
            maps=maps,
            threshold=threshold,
            sizes=sizes,
            regions=None if maps is None or self.pixel_threshold is None else regions,
        )


def _parts(found: Predictions, groups: Sequence[str]) -> tuple[Part, ...]:
    members: dict[str, list[int]] = {}
    for number, group in enumerate(groups):
        members.setdefault(group, []).append(number)
    parts = []
    for group, numbers in members.items():
        highest = max(numbers, key=lambda number: found.scores[number])
        p_value = None if found.p_values is None else float(found.p_values[highest])
        anomalous = found.anomalous is not None and bool(found.anomalous[highest])
        parts.append(Part(group, len(numbers), float(found.scores[highest]), p_value, anomalous, highest))
    return tuple(parts)
