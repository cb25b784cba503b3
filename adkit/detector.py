"""``adkit.Detector``: a saved detector, and what it makes of pictures."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from adkit.blame import check_finite
from adkit.data.pictures import PictureError, flatten, read_picture
from adkit.data.view import View, to_planes
from adkit.engines import FINITE_SCORES
from adkit.errors import UserError
from adkit.loading import Loaded, load_detector
from adkit.threshold import p_values

Picture = str | Path | Image.Image | NDArray[np.uint8] | Tensor
DECODERS = 8
"""Threads that decode; more only wait for the disk."""


@dataclass(frozen=True)
class Predictions:
    """What a detector makes of n pictures, in their order."""

    scores: NDArray[np.float32]
    """(n,) raw: higher is more anomalous, in the scorer's own unit."""
    p_values: NDArray[np.float64] | None
    """(n,) share of normal pictures that score as high or higher; None without calibration pictures."""
    anomalous: NDArray[np.bool_] | None
    """(n,) whether the score is above the threshold; None where there is none."""
    maps: NDArray[np.float32] | None
    """(n, H, W) raw, at the size of the detector's image; None where the scorer does not localize."""
    threshold: float | None

    def __len__(self) -> int:
        return len(self.scores)


class Detector:
    """Scores pictures as the run did that saved it; one instance serves any number of threads."""

    def __init__(self, loaded: Loaded) -> None:
        self._loaded = loaded
        self._lock = threading.Lock()  # an extractor reads its levels through hooks, which calls would share
        self._calibration = np.array(loaded.manifest.calibration, np.float32)

    @classmethod
    def load(cls, path: str | Path, device: str = "auto") -> Detector:
        """Read a detector.

        Args:
            path: its folder, or the folder of a run that has one detector.
            device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.

        Raises:
            UserError: there is none, its files were altered, or a plugin that it needs is not here.
        """
        return cls(load_detector(Path(path), device))

    @property
    def category(self) -> str:
        return self._loaded.manifest.category

    @property
    def threshold(self) -> float | None:
        """A picture is anomalous where its score is above."""
        stated = self._loaded.manifest.threshold
        return None if stated is None else stated.value

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the image that a picture becomes."""
        return self._loaded.view.size

    def predict(self, images: Picture | Sequence[Picture], batch_size: int = 32) -> Predictions:
        """Score one picture or many.

        Args:
            images: a path, a PIL picture, a uint8 array (h, w), (h, w, 3) or (n, h, w, 3), a float tensor (3, H, W)
                or (n, 3, H, W) of RGB in [0, 1] at ``image_size``, or a list of single ones.
            batch_size: pictures in memory at a time.

        Raises:
            UserError: a picture is not of these kinds, or cannot be read.
        """

        def refuse(number: int, error: UserError) -> None:
            raise error

        return self._predict(images, batch_size, refuse)

    def predict_readable(
        self, images: Picture | Sequence[Picture], batch_size: int = 32
    ) -> tuple[Predictions, dict[int, str]]:
        """As ``predict`` of the pictures that can be read; of the others, number → reason."""
        reasons: dict[int, str] = {}

        def note(number: int, error: UserError) -> None:
            reasons[number] = str(error)

        return self._predict(images, batch_size, note), reasons

    def _predict(
        self,
        images: Picture | Sequence[Picture],
        batch_size: int,
        unreadable: Callable[[int, UserError], None],
    ) -> Predictions:
        if batch_size < 1:
            raise UserError(f"batch_size: expected at least 1, found {batch_size}: use 32 or so")
        items = _items(images, self._loaded.view)
        scores: list[NDArray[np.float32]] = [np.zeros(0, np.float32)]
        maps: list[NDArray[np.float32]] = [np.zeros((0, *self.image_size), np.float32)]
        workers = min(DECODERS, batch_size, max(len(items), 1))
        with ThreadPoolExecutor(workers, thread_name_prefix="adkit-decode") as pool:
            for first in range(0, len(items), batch_size):
                batch = items[first : first + batch_size]
                read = [_tried(batch[0])] if len(batch) == 1 else list(pool.map(_tried, batch))
                arrays, names = [], []
                for number, (item, array) in enumerate(zip(batch, read, strict=True), first):
                    if isinstance(array, UserError):
                        unreadable(number, array)
                    else:
                        arrays.append(array)
                        names.append(item.name)
                if not arrays:
                    continue
                found, located = self._scored(np.stack(arrays), tuple(names))
                scores.append(found)
                if located is not None:
                    maps.append(located)
        return self._judged(np.concatenate(scores), np.concatenate(maps) if self._loaded.localizes else None)

    def _scored(
        self, images: NDArray[np.float32], names: tuple[str, ...]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        path = self._loaded.path
        with self._lock:
            scores = path.score(self._loaded.embedding(torch.from_numpy(images)))
            maps = path.localize(scores, self.image_size).cpu() if scores.maps else None
        check_finite(scores.image, names, "scorer: the score", FINITE_SCORES)
        if maps is not None:
            check_finite(maps, names, "localizer: the map", FINITE_SCORES)
        return scores.image.cpu().numpy(), None if maps is None else maps.numpy()

    def _judged(self, scores: NDArray[np.float32], maps: NDArray[np.float32] | None) -> Predictions:
        threshold = self.threshold
        return Predictions(
            scores=scores,
            p_values=p_values(scores, self._calibration) if len(self._calibration) else None,
            anomalous=None if threshold is None else np.asarray(scores > threshold, np.bool_),
            maps=maps,
            threshold=threshold,
        )


@dataclass(frozen=True)
class _Item:
    """One picture that has not been brought to the image's size yet."""

    name: str
    read: Callable[[], NDArray[np.float32]]
    """Gives (3, H, W) RGB in [0, 1]."""


def _tried(item: _Item) -> NDArray[np.float32] | UserError:
    try:
        return item.read()
    except UserError as error:
        return error


def _items(images: Any, view: View) -> list[_Item]:
    if isinstance(images, np.ndarray | Tensor) and images.ndim == 4:
        images = list(images)
    if not isinstance(images, list | tuple):
        images = [images]
    return [_item(one, index, view) for index, one in enumerate(images)]


def _item(one: object, index: int, view: View) -> _Item:
    name = f"picture {index}"
    if isinstance(one, str | Path):
        path = Path(one)
        return _Item(str(path), lambda: _image(lambda: read_picture(path), str(path), view))
    if isinstance(one, Tensor):
        tensor = _checked_tensor(one, name, view)
        return _Item(name, lambda: tensor)
    if isinstance(one, np.ndarray):
        pixels = _checked_array(one, name)
        return _Item(name, lambda: _image(lambda: Image.fromarray(pixels), name, view))
    if isinstance(one, Image.Image):
        picture = _decoded(one, name)
        return _Item(name, lambda: _image(lambda: _seen(picture), name, view))
    raise UserError(
        f"{name}: expected a path, a PIL picture, a uint8 array or a float tensor, found {type(one).__name__}"
    )


def _image(decode: Callable[[], Image.Image], name: str, view: View) -> NDArray[np.float32]:
    """As the loader of a run does it."""
    try:
        pixels = view.image(decode())
    except PictureError as error:
        raise _unreadable(name, error.reason) from error
    image = np.empty((3, *view.size), np.float32)
    to_planes(pixels, image)
    return image


def _decoded(picture: Image.Image, name: str) -> Image.Image:
    """Here and not in a thread, for a list may name one picture twice."""
    try:
        picture.load()
    except Exception as error:  # decoders of broken files raise nearly anything
        raise _unreadable(name, f"the picture is damaged ({error})") from error
    return picture


def _seen(picture: Image.Image) -> Image.Image:
    """A PIL picture as ``read_picture`` gives it from a file."""
    return flatten(ImageOps.exif_transpose(picture))


def _unreadable(name: str, reason: str) -> UserError:
    return UserError(f"{name}: expected a picture that can be read, found that {reason}; mend it or leave it out")


def _checked_array(array: NDArray[Any], name: str) -> NDArray[np.uint8]:
    shape = array.shape
    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and shape[2] == 3)) or 0 in shape:
        raise UserError(
            f"{name}: expected a uint8 array of shape (h, w) or (h, w, 3), found {array.dtype} of shape {shape}: "
            "convert it, channels last"
        )
    return cast(NDArray[np.uint8], array)


def _checked_tensor(tensor: Tensor, name: str, view: View) -> NDArray[np.float32]:
    expected = (3, *view.size)
    if tuple(tensor.shape) != expected or not tensor.is_floating_point():
        raise UserError(
            f"{name}: expected a float tensor of shape {expected}, found {tensor.dtype} of shape "
            f"{tuple(tensor.shape)}: resize and convert it, or give a path, a PIL picture or an array"
        )
    values = tensor.detach().float().cpu()
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 1):  # false for nan, too
        raise UserError(
            f"{name}: expected values in [0, 1], found {low:g} to {high:g}: divide by 255 or do not normalize"
        )
    return cast(NDArray[np.float32], values.numpy())
