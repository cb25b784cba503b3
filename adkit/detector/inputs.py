"""Images of any kind that Python has (paths, PIL images, arrays, tensors), checked and made a detector's input."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from adkit.data.images import ImageError, flatten, reading, within_memory
from adkit.data.view import View, to_planes
from adkit.errors import UserError

ImageLike = (
    str
    | Path
    | Image.Image
    | NDArray[np.uint8]
    | NDArray[np.uint16]
    | NDArray[np.int32]
    | NDArray[np.floating[Any]]
    | Tensor
)
"""One image, or several in an array or tensor, as ``Detector.predict`` takes them."""


_GRAY_KINDS: Final[Mapping[np.dtype[Any], np.dtype[Any]]] = MappingProxyType(
    {np.dtype(given): np.dtype(taken) for given, taken in (("i2", "i4"), ("i4", "i4"), ("f4", "f4"), ("f8", "f4"))}
)
"""Type of an array of gray values alone → the one in which Pillow takes it, as it is in files."""


@dataclass(frozen=True)
class InputImage:
    """One image at the size of the input."""

    name: str
    planes: NDArray[np.float32]
    """(3, H, W) RGB input in [0, 1]."""
    size: tuple[int, int]
    """(height, width) of the image in pixels."""
    view: View
    """How the image became the input."""


InputItem = Callable[[], InputImage]
"""A function that reads one image and brings it to the size of the input."""


def read_input(item: InputItem) -> InputImage | UserError:
    """Read an input, or return the error; for threads, whose exceptions would hide the other images' results.

    The error is one that was never raised: through its traceback, that would hold what was decoded.
    """
    try:
        return item()
    except UserError as error:
        return UserError(str(error))


def input_items(images: Any, view: View) -> list[InputItem]:
    """Turn what ``Detector.predict`` takes, one image or many, into items to be read one by one.

    Raises:
        UserError: an image is of no kind that is taken, or an array or tensor has another shape, type or range.
    """
    if isinstance(images, np.ndarray | Tensor) and images.ndim == 4:
        images = list(images)
    if not isinstance(images, list | tuple):
        images = [images]
    return [_item(one, index, view) for index, one in enumerate(images)]


def _item(one: object, index: int, view: View) -> InputItem:
    name = f"image {index}"
    if isinstance(one, str | Path):
        path = Path(one)
        return lambda: _image(lambda: reading(path, view.range, view.memory), str(path), view)
    if isinstance(one, Tensor):
        itself = InputImage(name, _checked_tensor(one, name, view), view.size, View("squash", view.crop, view.crop))
        return lambda: itself
    if isinstance(one, np.ndarray):
        pixels = _checked_array(one, name)
        return lambda: _image(lambda: nullcontext(flatten(Image.fromarray(pixels), view.range)), name, view)
    if isinstance(one, Image.Image):
        image = _decoded(one, name)
        return lambda: _image(lambda: nullcontext(_seen(image, view)), name, view)
    raise UserError(
        f"{name}: expected a path, a PIL image, a uint8 array or a float tensor, found {type(one).__name__}"
    )


def _image(decode: Callable[[], AbstractContextManager[Image.Image]], name: str, view: View) -> InputImage:
    """Bring a decoded image to the size of the input, as the loader of a run does."""
    try:
        with within_memory(), decode() as image:
            size = (image.height, image.width)
            pixels = view.input(image)
    except ImageError as error:
        raise _unreadable(name, error.reason) from error
    planes = np.empty((3, *view.size), np.float32)
    to_planes(pixels, planes)
    return InputImage(name, planes, size, view)


def _decoded(image: Image.Image, name: str) -> Image.Image:
    """Decode a PIL image here and not in a thread, because a list may contain the same one twice."""
    try:
        with within_memory():
            image.load()
    except ImageError as error:
        raise _unreadable(name, error.reason) from error
    except Exception as error:  # decoders of broken files raise nearly anything
        raise _unreadable(name, f"the image is damaged ({error})") from error
    return image


def _seen(image: Image.Image, view: View) -> Image.Image:
    """Convert a PIL image to what ``read_image`` gives of a file."""
    return flatten(ImageOps.exif_transpose(image), view.range)


def _unreadable(name: str, reason: str) -> UserError:
    return UserError(f"{name}: expected an image that can be read, found that {reason}; fix it or leave it out")


def _checked_array(array: NDArray[Any], name: str) -> NDArray[Any]:
    """The same pixels as Pillow takes them: what a file may hold, an array may, too."""
    shape, kind = array.shape, array.dtype
    if array.ndim == 3 and shape[2] == 1:
        array = array[..., 0]
    colored = array.ndim == 3 and shape[2] in (3, 4)
    known = kind in (np.uint8, np.uint16) or (kind in _GRAY_KINDS and not colored)
    if not known or not (array.ndim == 2 or colored) or 0 in shape:
        raise UserError(
            f"{name}: expected a uint8 or uint16 array of shape (h, w), (h, w, 1), (h, w, 3) or (h, w, 4), or int32 or "
            f"floats of one of the first two, found {kind} of shape {shape}: convert it, channels last"
        )
    if colored and kind == np.uint16:  # Pillow has no such image; 65535 / 257 is 255
        array = ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)
    with np.errstate(over="ignore"):  # beyond float32: infinite, which is refused as such
        return array.astype(_GRAY_KINDS.get(kind, array.dtype), copy=False)


def _checked_tensor(tensor: Tensor, name: str, view: View) -> NDArray[np.float32]:
    expected = (3, *view.size)
    if tuple(tensor.shape) != expected or not tensor.is_floating_point():
        raise UserError(
            f"{name}: expected a float tensor of shape {expected}, found {tensor.dtype} of shape "
            f"{tuple(tensor.shape)}: resize and convert it, or give a path, a PIL image or an array"
        )
    values = tensor.detach().float().cpu()
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 1):  # false for nan, too
        raise UserError(
            f"{name}: expected values in [0, 1], found {low:g} to {high:g}: divide by 255 or do not normalize"
        )
    return cast(NDArray[np.float32], values.numpy())
