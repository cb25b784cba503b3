"""The colors of anomaly maps."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray


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
