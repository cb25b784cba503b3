"""Stains: blots of any color with wavy rims, as on the negative patches of adapter ``glance``.

In the manner of Collin and De Vleeschouwer, Improved Anomaly Detection by Training an Autoencoder with Skip Connections
on Images Corrupted with Stain-Shaped Noise (2020), whom Glancing at the Patch cites; the figures are our own.
"""

from __future__ import annotations

from math import pi

import torch
from torch import Tensor

WAVES = 3
"""Waves along a rim, of 2 to 4 periods."""
WAVINESS = 0.15
"""The largest share of its radius by which each wave moves the rim."""
RIM = 1.0
"""The width in pixels over which a stain fades."""


def stained(
    patches: Tensor, most: int, sizes: tuple[float, float], opacity: float, generator: torch.Generator
) -> Tensor:
    """Copies of ``patches`` (n, 3, s, s) with 1 to ``most`` stains on each, whose centers lie on the patch.

    Args:
        sizes: the smallest and the largest diameter, as shares of the patch's side.
        opacity: the least opacity; the largest is 1.
        generator: a CPU generator.
    """
    count, side = len(patches), patches.shape[2]

    def drawn(*shape: int) -> Tensor:
        return torch.rand(count, most, *shape, generator=generator).to(patches.device)

    present = torch.arange(most, device=patches.device) < 1 + (drawn()[:, :1] * most).floor()  # (n, most)
    centers, diameters = drawn(2) * side, sizes[0] + drawn(2) * (sizes[1] - sizes[0])
    colors, strength, turn = drawn(3), opacity + drawn() * (1 - opacity), 2 * pi * drawn()
    heights, phases = WAVINESS * drawn(WAVES), 2 * pi * drawn(WAVES)
    found = patches
    axis = torch.arange(side, device=patches.device) + 0.5
    for k in range(most):
        y = axis[:, None] - centers[:, k, 0, None, None]  # (n, s, 1)
        x = axis - centers[:, k, 1, None, None]  # (n, 1, s)
        angle = turn[:, k, None, None]
        radii = diameters[:, k] * side / 2  # (n, 2) semi-axes in pixels
        along = (x * angle.cos() + y * angle.sin()) / radii[:, 0, None, None]
        across = (y * angle.cos() - x * angle.sin()) / radii[:, 1, None, None]
        rim = torch.ones_like(along)
        direction = torch.atan2(across, along)
        for wave in range(WAVES):
            phase = phases[:, k, wave, None, None]
            rim = rim + heights[:, k, wave, None, None] * torch.cos((wave + 2) * direction + phase)
        inside = (rim - torch.hypot(along, across)) * radii.amin(1)[:, None, None]  # pixels from the rim, about
        cover = (inside / RIM + 0.5).clamp(0, 1) * (strength[:, k] * present[:, k])[:, None, None]
        found = found + cover[:, None] * (colors[:, k, :, None, None] - found)
    return found
