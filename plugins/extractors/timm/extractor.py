"""Extractor ``timm``: any timm backbone, CNN or ViT, whose modules are the levels, by their names."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from adkit.plugin import POOL, Component, Context, Extractor, Level, Params, UserError, did_you_mean, hookimpl
from adkit.toolkit.blocks import classifiers_of

from .blocks import blocks_of
from .fold import fold_batch_norms, keep_float32, redraw, release_float32
from .levels import Tap, capture, probe
from .split import cut


class TimmParams(Params):
    backbone: str = Field(
        default="tf_efficientnet_lite0",
        description="timm's name of the network, with or without a tag, such as resnet18.tv_in1k",
    )
    weights: str = Field(
        default="packaged",
        min_length=1,
        description="hub (downloaded), packaged (in an installed package), none (random), or the path of a safetensors "
        "or pth file",
    )
    levels: tuple[str, ...] = Field(
        default=(POOL,),
        min_length=1,
        description="modules of the backbone whose outputs are the features; pool: what its classifier reads",
    )

    @field_validator("levels")
    @classmethod
    def _each_once(cls, levels: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(levels)) < len(levels):
            raise ValueError("expected every level once")
        return levels


class TimmExtractor(Extractor[TimmParams]):
    """A timm backbone that is run no further than the deepest level asked for."""

    model: Any
    mean: Tensor
    std: Tensor

    def __init__(self, params: TimmParams, context: Context) -> None:
        super().__init__(params, context)
        self._size = context.image_size
        self.model = _backbone(params, context)
        self.pooled = nn.Identity()  # gives what the classifier reads, so that pool is a module like any other
        for name in ("mean", "std"):  # saved with the weights that they belong to
            self.register_buffer(name, torch.tensor(self.model.pretrained_cfg[name]).view(3, 1, 1))
        self.eval().requires_grad_(False)
        self._taps = self._probe()
        self._recorded = False
        self.to(context.device).to(memory_format=torch.channels_last)

    @property
    def levels(self) -> Mapping[str, Level]:
        return {name: tap.level for name, tap in self._taps.items()}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        self._check(images)
        normalized = self._normalized(images)
        found = capture(
            self._sources(),
            lambda name, out: self._taps[name].read(out),
            lambda: self._run(normalized),
            to_the_end=self._recorded,
        )
        return {name: found[name] for name in self._taps}

    def for_inference(self) -> TimmExtractor:
        """A copy without classifier, with batch norms folded, and with its first two blocks always in float32.

        Each step is tried on random weights, so that the architecture alone decides which tensors are left: a copy made
        of other weights takes the state of this one.
        """
        fast, drawn = copy.deepcopy(self), copy.deepcopy(self)
        redraw(drawn.model, torch.Generator().manual_seed(0))
        for step in (TimmExtractor._drop_classifier, TimmExtractor._fold):
            changed = copy.deepcopy(drawn)
            step(changed)
            if _same_features(drawn, changed, self._size):
                step(fast)
                drawn = changed
        first = list(fast.blocks().values())[:2]
        keep_float32(fast.model, (parameter for block in first for parameter in block))
        return fast

    def for_export(self) -> TimmExtractor:
        """A copy that runs the whole backbone, in float32; exporters leave out what no output is made of."""
        recorded = copy.deepcopy(self)
        recorded._recorded = True
        release_float32(recorded.model)
        return recorded

    def classify(self, images: Tensor) -> Tensor:
        """(n, classes) float32 logits of the classifier for ``images`` (n, 3, H, W) float32 RGB in [0, 1].

        Raises:
            UserError: the weights have no classifier.
        """
        if self.model.num_classes == 0:
            raise UserError(
                f"extractor.weights: expected weights of {self.params.backbone} with a classifier, which "
                "the adapter needs, found none: use other weights or an adapter that needs no classifier"
            )
        self._check(images)
        return cast(Tensor, self.model(self._normalized(images)).float())

    def blocks(self) -> Mapping[str, Sequence[nn.Parameter]]:
        """The blocks by name: ``stem``, the backbone's own stages, ``head`` and ``classifier``."""
        return blocks_of(self.model)

    def split(self, parameters: Sequence[nn.Parameter]) -> tuple[nn.Module, nn.Module] | None:
        """Cut the backbone before the first block with any of ``parameters``, where every level can still be read."""

        def run(images: Tensor) -> None:
            self._run(self._normalized(images))

        modules = dict(self.model.named_modules())
        blocks = [modules[name] for name in self.blocks() if name in modules]
        return cut(self, run, self._sources(), self._taps, blocks, parameters, self._size)

    def has_levels(self) -> bool:
        """Whether every module that is read exists."""
        return {name for name, _ in self.model.named_modules()} | {POOL} >= set(self.params.levels)

    def _drop_classifier(self) -> None:
        if classifiers_of(self.model) and self.model.num_classes:
            self.model.reset_classifier(0)

    def _fold(self) -> None:
        fold_batch_norms(self.model, self.params.levels)

    def _check(self, images: Tensor) -> None:
        if images.shape[1:] != (3, *self._size):
            expected = f"(n, 3, {self._size[0]}, {self._size[1]})"
            raise ValueError(f"images: expected shape {expected}, found {tuple(images.shape)}")

    def _normalized(self, images: Tensor) -> Tensor:
        return ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)

    def _run(self, normalized: Tensor) -> None:
        self.pooled(self.model.forward_head(self.model.forward_features(normalized), pre_logits=True))

    def _sources(self) -> dict[str, nn.Module]:
        inside = dict(self.model.named_modules()) | {POOL: self.pooled}
        return {name: inside[name] for name in self.params.levels}

    def _probe(self) -> dict[str, Tap]:
        """How each level is read, found by one run: at one image size this does not change."""
        names = {name for name, _ in self.model.named_modules() if name} | {POOL}
        unknown = [name for name in self.params.levels if name not in names]
        if unknown:
            ends = ", ".join(name for name in blocks_of(self.model) if name in names)
            raise UserError(
                f"extractor.levels: {self.params.backbone} has no module {name!r}{did_you_mean(name, names)}"
                f": name pool, the end of a block ({ends}) or a module inside one"
                for name in unknown
            )
        last = getattr(self.model, "output_fmt", "") == "NHWC"
        prefix = getattr(self.model, "num_prefix_tokens", 0)
        with _blaming_size(self.model, self.params.backbone, self._size):
            taps = probe(self._sources(), self._run, self._size, prefix, last)
        if POOL in taps and taps[POOL].level.spatial:
            raise UserError(
                f"extractor.levels: {self.params.backbone} pools nothing for a classifier, so it has no "
                "level pool: name modules instead"
            )
        return taps


def _backbone(params: TimmParams, context: Context) -> nn.Module:
    """The model, made for inputs of the context's size where that is not the size that it was trained on."""
    from adkit.toolkit.backbones import create_backbone

    size, seed = context.image_size, context.seed_for("timm", params.backbone)
    weights = params.weights if context.pretrained else "none"
    model: Any = create_backbone(params.backbone, weights, seed)
    if size == _native(model) or not model.pretrained_cfg.get("fixed_input_size"):
        return cast(nn.Module, model)
    with _blaming_size(model, params.backbone, size):
        if hasattr(model, "set_input_size"):
            model.set_input_size(img_size=size)
        elif any("img_size" in inspect.signature(cls).parameters for cls in type(model).__mro__[:-1]):
            model = create_backbone(params.backbone, weights, seed, {"img_size": size})
    return cast(nn.Module, model)


def _native(model: Any) -> tuple[int, int]:
    _, height, width = model.pretrained_cfg["input_size"]
    return height, width


@contextmanager
def _blaming_size(model: Any, backbone: str, size: tuple[int, int]) -> Iterator[None]:
    try:
        yield
    except (AssertionError, RuntimeError, ValueError) as error:
        native = _native(model)
        if size == native:
            raise
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(
            f"data.image_size: {backbone} does not take images of {size[0]} × {size[1]} pixels ({reason}): use "
            f"{native[0]} × {native[1]}, which it was trained on, or another size that its patches divide"
        ) from error


def _same_features(one: TimmExtractor, other: TimmExtractor, size: tuple[int, int]) -> bool:
    """Whether two extractors agree on an image of noise up to rounding."""
    if not other.has_levels():
        return False
    noise = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0)).to(one.mean.device)
    with torch.inference_mode():
        left, right = one(noise), other(noise)
    return all(torch.dist(left[name], right[name]) <= 1e-3 * left[name].norm() for name in left)


@hookimpl
def adkit_extractors() -> list[Component[TimmParams]]:
    return [Component.extractor("timm", TimmParams, TimmExtractor)]
