"""Extractor ``glance``: two networks of one's own, which look at each patch and at what surrounds it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from adkit.plugin import Component, Context, Extractor, Geometry, Level, Params, UserError, hookimpl
from adkit.toolkit.resample import apply_separably, area_matrix, cell_centers

from .networks import CHANNELS, HEAD_SLOPE, IMAGE, LAYERS, LOCAL_SLOPE, PATCH, DadHead, GlobalNet, LocalNet
from .shared import SharedGlobal, SharedLocal, offsets

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Those of ImageNet's colors, by which images are normalized; the supplement says nothing on it."""
FIRST_EXPECTED = 0.1
"""How much smaller the weights of Global-Net's last layer begin: what is expected is then near 0 at first, and not
farther from what is seen than anything that is seen."""


class GlanceParams(Params):
    patches: int = Field(20, ge=2, le=56, description="patches along each side of the image, evenly placed")
    offsets: Literal["multiples", "exact"] = Field(
        "multiples",
        description="where patches begin. multiples: at multiples of 4 pixels, so that Local-Net's cells are shared; "
        "exact: at the nearest pixels, for three times the operations",
    )
    compare: Literal["patches", "image"] = Field(
        "patches",
        description="patches: each patch with the image around it, for 256×256 images; image: the whole image at 33×33 "
        "pixels with itself at 256×256, for classes of small images",
    )


class Glance(Extractor[GlanceParams]):
    """Levels ``local`` and ``global``, 128 channels per patch, and ``mismatch``, the DAD head's probability.

    ``local`` is what Local-Net sees in a patch; ``global`` is what Global-Net expects there of an image in which the
    patch is hidden. All weights begin at random: adapter ``glance`` trains them.
    """

    patch_size = PATCH
    """The side of what ``local`` takes, in pixels."""
    feature_size = CHANNELS
    """The channels of what ``local`` and ``expected`` give."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, params: GlanceParams, context: Context) -> None:
        super().__init__(params, context)
        if context.image_size != (IMAGE, IMAGE):
            height, width = context.image_size
            raise UserError(
                f"data.image_size: expected {IMAGE} for extractor glance, whose Global-Net takes {IMAGE} × {IMAGE} "
                f"pixels, found {height} × {width}: set image_size = {IMAGE}, without crop"
            )
        with torch.random.fork_rng(devices=()):  # the modules draw weights that are drawn again below
            self.local_net, self.global_net, self.head = LocalNet(), GlobalNet(), DadHead()
        _draw(self.local_net, LOCAL_SLOPE, context.generator("glance", "local"))
        _draw(self.global_net, 0.0, context.generator("glance", "global"))
        last = self.global_net.convolution(LAYERS[-1])
        assert last is not None
        with torch.no_grad():
            last.weight.mul_(FIRST_EXPECTED)
        _draw(self.head, HEAD_SLOPE, context.generator("glance", "mismatch"))
        for name, values in {"mean": MEAN, "deviation": DEVIATION}.items():
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)
        first = offsets(1 if self.compares_images else params.patches, params.offsets == "exact")
        self._first = first
        self._local, self._global = SharedLocal(first), SharedGlobal(first)
        self.eval().requires_grad_(False)
        self.to(context.device)

    @property
    def compares_images(self) -> bool:
        """Whether the patch that is compared is the whole image."""
        return self.params.compare == "image"

    @property
    def levels(self) -> Mapping[str, Level]:
        if self.compares_images:
            grid, geometry = (1, 1), Geometry.covering((1, 1), (IMAGE, IMAGE))
        else:
            centers = tuple(first + PATCH / 2 for first in self._first)
            grid = (len(centers), len(centers))
            geometry = Geometry.at(centers, centers)
        return {
            name: Level(channels, grid, geometry)
            for name, channels in {"local": CHANNELS, "global": CHANNELS, "mismatch": 1}.items()
        }

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        if tuple(images.shape[1:]) != (3, IMAGE, IMAGE):
            raise ValueError(f"images: expected shape (n, 3, {IMAGE}, {IMAGE}), found {tuple(images.shape)}")
        if self.compares_images:
            local, expected = self.local(self.reduced(images)), self.expected(images, None)
            local, expected = local[:, None, None], expected[:, None, None]
        else:
            normalized = self._normalized(images)
            local, expected = self._local(self.local_net, normalized), self._global(self.global_net, normalized)
        mismatch = self.mismatch(local, expected).float().softmax(-1)[..., 1:]
        return {"local": local.float(), "global": expected.float(), "mismatch": mismatch}

    def blocks(self) -> Mapping[str, Sequence[nn.Parameter]]:
        modules = {"local": self.local_net, "global": self.global_net, "mismatch": self.head}
        return {name: list(module.parameters()) for name, module in modules.items()}

    def local(self, patches: Tensor) -> Tensor:
        """(n, 128): what patches (n, 3, 33, 33) float32 RGB in [0, 1] show."""
        found: Tensor = self.local_net(self._normalized(patches))
        return found

    def expected(self, images: Tensor, hidden: Tensor | None) -> Tensor:
        """(n, 128): what images (n, 3, 256, 256) lead one to expect where ``hidden`` (n, 256, 256) bool is True.

        None hides nothing.
        """
        nothing = torch.zeros(1, *images.shape[2:], dtype=torch.bool, device=images.device)
        found: Tensor = self.global_net(self._normalized(images), nothing if hidden is None else hidden)
        return found

    def mismatch(self, local: Tensor, expected: Tensor) -> Tensor:
        """(…, 2): logits that what is seen (…, 128) and what is expected (…, 128) match, and that they do not."""
        found: Tensor = self.head(local, expected)
        return found

    def reduced(self, images: Tensor) -> Tensor:
        """(n, 3, 33, 33): images (n, 3, 256, 256) in the size of a patch, by area."""
        step = IMAGE / PATCH
        along = area_matrix(cell_centers(step / 2, step, PATCH, images.device), step, IMAGE)
        channels_last = apply_separably(images.permute(0, 2, 3, 1), along, along)
        return channels_last.permute(0, 3, 1, 2)

    def _normalized(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.deviation


def _draw(module: nn.Module, slope: float, generator: torch.Generator) -> None:
    """Draw weights by which a leaky ReLU of ``slope`` keeps the size of its input (He et al., 2015); biases are 0.

    torch's own first weights let a signal fade by half and more per layer; the supplement says nothing on them.
    """
    with torch.no_grad():
        for one in module.modules():
            if isinstance(one, nn.Conv2d | nn.Linear):
                one.weight.normal_(0, sqrt(2 / (1 + slope**2) / one.weight[0].numel()), generator=generator)
                assert one.bias is not None
                one.bias.zero_()


@hookimpl
def adkit_extractors() -> list[Component[Any]]:
    return [Component.extractor("glance", GlanceParams, Glance)]
