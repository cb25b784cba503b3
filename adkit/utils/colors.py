"""The colors of anomaly maps."""

from __future__ import annotations

from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

STRENGTH: Final = 0.8
"""The opacity of the strongest color, in [0, 1]; the defect must still be seen below it."""


@cache
def color_ramp() -> NDArray[np.uint8]:
    """The colors of a map, (256, 3): lightness and hue in even steps, from violet through red to yellow.

    Source: B. Ottosson, A perceptual color space for image processing (2020): Oklab, in its polar form.
    """
    share = np.linspace(0, 1, 256)
    lightness, chroma, hue = 0.42 + 0.5 * share, 0.2, np.radians(-35 + 140 * share)
    a, b = chroma * np.cos(hue), chroma * np.sin(hue)
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    linear = np.stack(
        [
            4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
            -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
            -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
        ],
        axis=1,
    ).clip(0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)  # sRGB
    colors: NDArray[np.uint8] = np.rint(encoded * 255).astype(np.uint8)
    return colors


def color_limits(values: NDArray[np.floating], threshold: float | None) -> tuple[float, float]:
    """The values of a map at which colors begin and are strongest.

    With a pixel threshold t they mean the same in every image: they begin at t - |t| / 4, which normal images seldom
    reach, and are strongest from t + |t| on. Without one they run over the upper half of the image's own values, so
    that every image, however normal, shows some.
    """
    if threshold is not None:
        unit = abs(threshold) or 1.0
        return threshold - unit / 4, threshold + unit
    low, high = float(values.min()), float(values.max())
    return ((low + high) / 2, high) if high > low else (high, high + 1.0)  # an even map shows nothing


def colored(image: Image.Image, values: NDArray[np.floating], low: float, high: float) -> Image.Image:
    """Color an image by its map.

    Args:
        image: of mode RGB.
        values: (height, width) of the image; nan where it stays as it is.
        low: the value at which colors begin.
        high: the value from which on they are strongest.
    """
    position = (values - low) / (high - low)
    steps = Image.fromarray(np.rint(np.nan_to_num(position, nan=0.0).clip(0, 1) * 255).astype(np.uint8))
    colors = steps.copy()
    colors.putpalette(color_ramp().tobytes())
    opacity = steps.point([round(255 * STRENGTH * (step / 255) ** 0.5) for step in range(256)])
    return Image.composite(colors.convert("RGB"), image, opacity)
