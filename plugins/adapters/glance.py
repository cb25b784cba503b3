"""glance: train Local-Net after a teacher, and then Global-Net and the DAD head to expect what Local-Net sees.

Source: Wang et al., Glancing at the Patch: Anomaly Localization with Global and Local Feature Comparison (CVPR 2021),
supplement C. It has the weights, rates and lengths, but not the losses: docs/glance.md says how we read them, and why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor, nn

from adkit.plugin import (
    Adapter,
    Component,
    Extractor,
    Features,
    Group,
    Params,
    Schedule,
    See,
    Stage,
    Step,
    UserError,
    hookimpl,
)
from adkit.toolkit.heads import ExtendedExtractor

from ._stains import stained

LEVELS = ("local", "global", "mismatch")
DISTILL, FINE_TUNE, COMPARE = "distillation", "fine-tuning", "comparison"


class GlanceParams(Params):
    teacher: str = Field(
        "resnet18.tv_in1k", description="timm's name of the network whose pooled features Local-Net learns"
    )
    teacher_weights: str = Field(
        "hub",
        min_length=1,
        description="hub (downloaded), packaged (in an installed package), none (random), or the path of a safetensors "
        "or pth file",
    )
    teacher_size: int = Field(
        64, ge=32, le=512, description="side in pixels to which patches are enlarged for the teacher"
    )
    distillation: int = Field(
        50_000, ge=0, description="minibatches of Local-Net on the images of [auxiliary]; 0: there is no such stage"
    )
    distillation_batch: int = Field(64, ge=2, description="images in a minibatch of [auxiliary]")
    distillation_rate: float = Field(2e-4, gt=0, le=10, description="learning rate of Local-Net on [auxiliary]")
    fine_tuning: int = Field(
        50_000, ge=0, description="minibatches of Local-Net on the normal images; 0: there is no such stage"
    )
    fine_tuning_batch: int = Field(16, ge=2, description="images in a minibatch of fine-tuning")
    fine_tuning_rate: float = Field(2e-4, gt=0, le=10, description="learning rate of Local-Net on the normal images")
    lambda_k: float = Field(1.0, ge=0, description="weight λ_k of the distance to the teacher")
    lambda_c: float = Field(1.0, ge=0, description="weight λ_c of the correlations between Local-Net's channels")
    lambda_t: float = Field(
        0.01,
        ge=0,
        description="weight λ_t of the triplets: what is expected comes nearer to the patch than to a stained one",
    )
    margin: float = Field(1.0, ge=0, description="margin of the triplets, in squared distance")
    head_rate: float = Field(
        1e-5, gt=0, le=10, description="learning rate of the DAD head; that of [training] is Global-Net's"
    )
    stains: int = Field(3, ge=1, le=32, description="largest number of stains on a negative patch; at least 1")
    stain_size: tuple[float, float] = Field(
        (0.1, 0.5), description="smallest and largest diameter of a stain, as a share of the patch's side"
    )
    stain_opacity: float = Field(0.5, gt=0, le=1, description="least opacity of a stain; the largest is 1")

    @field_validator("stain_size")
    @classmethod
    def _ascending(cls, sizes: tuple[float, float], info: ValidationInfo) -> tuple[float, float]:
        if not 0 < sizes[0] <= sizes[1] <= 2:
            raise ValueError("expected two shares in (0, 2], the smaller first")
        return sizes


class Glance(Adapter[GlanceParams]):
    """The training of extractor ``glance``, in three stages that follow each other.

    Local-Net learns a teacher's features of patches from ``[auxiliary]``, then from the normal images. Then it stays as
    it is, and Global-Net learns to expect its features where a patch is hidden, while the DAD head learns to tell these
    from those of the patch with stains. Where the extractor compares whole images, another image is the negative.

    The linear layer by which Local-Net's 128 channels become the teacher's is trained with it and left out afterwards.
    """

    schedule = Schedule(optimizer="adam", learning_rate=1e-4, momentum=0.9, batch_size=64, minibatches=200_000)
    reads_features = False

    _teacher: _Teacher | None = None

    def extend(self, extractor: Extractor) -> Extractor:
        if not self._teaches:
            return extractor
        glancing = _glancing(extractor)
        channels = _teacher_channels(self.params.teacher, self.params.teacher_size)
        with torch.random.fork_rng(devices=()):  # the module draws weights that are drawn again below
            decoder = nn.Linear(glancing.feature_size, channels)
        with torch.no_grad():
            generator = self.context.generator("glance", "decoder")
            decoder.weight.normal_(0, glancing.feature_size**-0.5, generator=generator)
            decoder.bias.zero_()
        return ExtendedExtractor(extractor, decoder.to(self.context.device), {}, "decoder")

    def prepare(self, see: See) -> None:
        missing = [name for name in LEVELS if name not in see.normal.levels]
        if missing:
            raise UserError(
                f"features.combine: expected the levels {', '.join(LEVELS)}, which adapter glance reads, found "
                f'{", ".join(see.normal.levels)}: set combine = "none"'
            )
        if self._teaches:
            self._teacher = _Teacher(self.params, self.context.seed_for("glance", "teacher")).to(self.context.device)

    def stages(self, extractor: Extractor) -> Sequence[Stage]:
        params, blocks = self.params, _glancing(extractor).blocks()
        local = list(blocks["local"])
        if isinstance(extractor, ExtendedExtractor):
            local += extractor.head.parameters()
        stages = []
        if params.distillation:
            groups = [Group(local, params.distillation_rate)]
            stages.append(Stage(groups, params.distillation, params.distillation_batch, "auxiliary", DISTILL, True))
        if params.fine_tuning:
            groups = [Group(local, params.fine_tuning_rate)]
            stages.append(Stage(groups, params.fine_tuning, params.fine_tuning_batch, "normal", FINE_TUNE))
        compared = [Group(list(blocks["global"])), Group(list(blocks["mismatch"]), params.head_rate)]
        return [*stages, Stage(compared, name=COMPARE)]

    def loss(self, step: Step, features: Features) -> dict[str, Tensor]:
        glancing = _glancing(step.extractor)
        images = step.batch.images.to(self.context.device, non_blocking=True)
        if step.stage == bool(self.params.distillation) + bool(self.params.fine_tuning):
            return self._compared(glancing, images, step.generator)
        return self._taught(cast(ExtendedExtractor, step.extractor), images, step.generator)

    def score(self, features: Features) -> Tensor:
        """(n,) float32: the largest loss of a patch with its surroundings: ‖local − global‖² − log P(match)."""
        squares = (features["local"] - features["global"]).square().sum(3)
        matches = 1 - features["mismatch"][..., 0]
        return (squares - matches.clamp(min=torch.finfo(torch.float32).tiny).log()).amax((1, 2))

    @property
    def _teaches(self) -> bool:
        return self.params.distillation + self.params.fine_tuning > 0

    def _taught(self, extractor: ExtendedExtractor, images: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """λ_k · mean (D(l) − t)² + λ_c · mean of c_ij² over i ≠ j, for a patch of each image."""
        assert self._teacher is not None
        glancing = _glancing(extractor)
        patches = glancing.reduced(images) if glancing.compares_images else _cropped(glancing, images, generator)[0]
        local = glancing.local(patches).float()
        with torch.no_grad():
            target = self._teacher(patches).float()
        return {
            "teacher": self.params.lambda_k * (extractor.head(local).float() - target).square().mean(),
            "correlation": self.params.lambda_c * correlation(local),
        }

    def _compared(self, glancing: Glancing, images: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """mean ‖g − l‖² + λ_t · mean max(0, ‖g − l‖² − ‖g − l⁻‖² + margin) + the cross-entropy of the DAD head."""
        params, hidden = self.params, None
        if glancing.compares_images:
            patches = glancing.reduced(images)
        else:
            patches, hidden = _cropped(glancing, images, generator)
        if glancing.compares_images and len(images) > 1:
            negatives = patches.roll(int(torch.randint(1, len(images), (1,), generator=generator)), 0)
        else:
            negatives = stained(patches, params.stains, params.stain_size, params.stain_opacity, generator)
        with torch.no_grad():
            local, other = glancing.local(patches).float(), glancing.local(negatives).float()
        expected = glancing.expected(images, hidden).float()
        near, far = ((expected - one).square().sum(1) for one in (local, other))
        logits = torch.cat([glancing.mismatch(one, expected).float() for one in (local, other)])  # (2n, 2)
        mismatch = torch.arange(2, device=logits.device).repeat_interleave(len(images))
        return {
            "inconsistency": near.mean(),
            "triplet": params.lambda_t * (near - far + params.margin).relu().mean(),
            "distortion": F.cross_entropy(logits, mismatch),
        }


class Glancing(Protocol):
    """What the adapter asks of an extractor: that of ``glance``, or another one with these members."""

    @property
    def patch_size(self) -> int:
        """The side of a patch in pixels."""
        ...

    @property
    def feature_size(self) -> int:
        """The channels of what ``local`` and ``expected`` give."""
        ...

    @property
    def compares_images(self) -> bool:
        """Whether the patch is the whole image, ``reduced``."""
        ...

    def blocks(self) -> Mapping[str, Sequence[nn.Parameter]]:
        """``local``, ``global`` and ``mismatch``."""
        ...

    def local(self, patches: Tensor) -> Tensor:
        """(n, feature_size): what patches show."""
        ...

    def expected(self, images: Tensor, hidden: Tensor | None) -> Tensor:
        """(n, feature_size): what images lead one to expect where ``hidden`` (n, H, W) bool is True."""
        ...

    def mismatch(self, local: Tensor, expected: Tensor) -> Tensor:
        """(n, 2): logits of match and mismatch."""
        ...

    def reduced(self, images: Tensor) -> Tensor:
        """(n, 3, patch_size, patch_size): images in the size of a patch."""
        ...


def _glancing(extractor: Extractor) -> Glancing:
    inner = extractor.inner if isinstance(extractor, ExtendedExtractor) else extractor
    if not all(hasattr(inner, name) for name in ("patch_size", "local", "expected", "mismatch", "reduced")):
        raise UserError(
            f"extractor.use: expected glance, whose networks adapter glance trains, found a {type(inner).__name__}: "
            "use that extractor, or another adapter"
        )
    return cast(Glancing, inner)


def _cropped(glancing: Glancing, images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A patch of each image, anywhere in it: (n, 3, s, s) patches, and (n, H, W) bool where they are."""
    size, (height, width) = glancing.patch_size, images.shape[2:]
    draws = torch.rand(2, len(images), generator=generator)
    tops = (draws[0] * (height - size + 1)).long().tolist()
    lefts = (draws[1] * (width - size + 1)).long().tolist()
    hidden = torch.zeros(len(images), height, width, dtype=torch.bool, device=images.device)
    patches = []
    for i, (top, left) in enumerate(zip(tops, lefts, strict=True)):
        patches.append(images[i, :, top : top + size, left : left + size])
        hidden[i, top : top + size, left : left + size] = True
    return torch.stack(patches), hidden


def correlation(values: Tensor) -> Tensor:
    """The mean over pairs of channels of their squared correlation over the rows of ``values`` (n, c).

    After Bergmann et al., Uninformed Students (CVPR 2020), who add the correlations themselves: a sum that
    channels of opposite signs make small, and that grows with the number of channels.
    """
    centered = values - values.mean(0)
    scaled = centered / (centered.square().mean(0) + 1e-12).sqrt()
    found = scaled.mT @ scaled / len(values)  # (c, c)
    return (found.square().sum() - found.diagonal().square().sum()) / (found.numel() - len(found))


class _Teacher(nn.Module):
    """A pretrained network's pooled features of enlarged patches: (n, 3, s, s) RGB in [0, 1] → (n, channels)."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, params: GlanceParams, seed: int) -> None:
        super().__init__()
        from adkit.toolkit.backbones import create_backbone

        keys = ("adapter.teacher", "adapter.teacher_weights")
        self.model: Any = create_backbone(params.teacher, params.teacher_weights, seed, keys=keys)
        self._size = params.teacher_size
        config = cast(Any, self.model).pretrained_cfg
        for name, key in {"mean": "mean", "deviation": "std"}.items():
            self.register_buffer(name, torch.tensor(config[key]).view(3, 1, 1))
        self.eval().requires_grad_(False)

    def forward(self, patches: Tensor) -> Tensor:
        enlarged = F.interpolate(patches, (self._size, self._size), mode="bilinear", align_corners=False)
        return pooled(self.model, (enlarged - self.mean) / self.deviation)


def pooled(model: Any, normalized: Tensor) -> Tensor:
    """(n, channels): what the classifier of a timm model reads."""
    found: Tensor = model.forward_head(model.forward_features(normalized), pre_logits=True)
    return found.flatten(1)


@cache
def _teacher_channels(name: str, size: int) -> int:
    from adkit.toolkit.backbones import create_backbone

    model: Any = create_backbone(name, "none", 0, keys=("adapter.teacher", "adapter.teacher_weights")).eval()
    try:
        with torch.no_grad():
            return pooled(model, torch.zeros(1, 3, size, size)).shape[1]
    except (AssertionError, RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(
            f"adapter.teacher_size: {name} does not take images of {size} × {size} pixels ({reason}): use the "
            "size that it was trained on, or another teacher"
        ) from error


@hookimpl
def adkit_adapters() -> list[Component[Any]]:
    return [Component.adapter("glance", GlanceParams, Glance)]
