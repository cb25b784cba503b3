"""Adapter ``glance``: its stages, and its losses by hand on a tiny extractor of the same members."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from adkit_plugins.adapters._stains import stained
from adkit_plugins.adapters.glance import Glance, GlanceParams, adkit_adapters, correlation
from torch import Tensor, nn

from adkit import UserError
from adkit.plugin import Batch, Context, Extractor, Features, Geometry, Level, Params, See, Step
from adkit.testing import TinyExtractor, check_component, sample_images
from adkit.testing.samples import SIZE, stream_of

TEACHER = {"teacher": "test_resnet", "teacher_weights": "none", "teacher_size": 32}
SHORT = TEACHER | {"distillation": 2, "fine_tuning": 3}


class TinyGlance(Extractor):
    """Patches of 6×6 pixels, of which two are compared: their mean colors, times weights that can be trained."""

    patch_size, feature_size = 6, 3

    def __init__(self, compares_images: bool = False) -> None:
        super().__init__(Params(), Context(image_size=SIZE))
        self.compares_images = compares_images
        weights = torch.rand(4, 3, generator=torch.Generator().manual_seed(0))
        self.weights = nn.ParameterList(nn.Parameter(one.clone()) for one in weights)
        self.eval().requires_grad_(False)

    @property
    def levels(self) -> Mapping[str, Level]:
        geometry = Geometry.covering((1, 2), SIZE)
        return {name: Level(c, (1, 2), geometry) for name, c in {"local": 3, "global": 3, "mismatch": 1}.items()}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        local = torch.stack([self.local(images[..., :6, left : left + 6]) for left in (0, 14)], 1)[:, None]
        expected = self.expected(images, None)[:, None, None].expand_as(local)
        mismatch = self.mismatch(local, expected).softmax(-1)[..., 1:]
        return {"local": local, "global": expected, "mismatch": mismatch}

    def blocks(self) -> Mapping[str, Sequence[nn.Parameter]]:
        first, second, *rest = self.weights
        return {"local": [first], "global": [second], "mismatch": rest}

    def local(self, patches: Tensor) -> Tensor:
        return patches.mean((2, 3)) * self.weights[0]

    def expected(self, images: Tensor, hidden: Tensor | None) -> Tensor:
        seen = torch.ones_like(images) if hidden is None else (~hidden)[:, None].expand_as(images).float()
        return (images * seen).sum((2, 3)) / seen.sum((2, 3)) * self.weights[1]

    def mismatch(self, local: Tensor, expected: Tensor) -> Tensor:
        return torch.stack([(local * self.weights[2]).sum(-1), (expected * self.weights[3]).sum(-1)], -1)

    def reduced(self, images: Tensor) -> Tensor:
        return images[..., :6, :6]


def adapter(**params: object) -> Glance:
    return Glance(GlanceParams.model_validate_json(json.dumps(SHORT | params)), Context(image_size=SIZE))


def prepared(one: Glance, extractor: Extractor) -> Extractor:
    extended = one.extend(extractor)
    one.prepare(See(extended, stream_of(extended, 2, SIZE), None, None))
    return extended


def step(extractor: Extractor, stage: int, images: Tensor) -> Step:
    batch = Batch(images, tuple(f"image#{n}" for n in range(len(images))))
    return Step(extractor, batch, None, stage, 0, torch.Generator().manual_seed(0))


def constant(*colors: float) -> Tensor:
    """Images of one gray each, of which any patch is like any other."""
    return torch.tensor(colors)[:, None, None, None].expand(-1, 3, *SIZE).contiguous()


@pytest.mark.parametrize("params", [{}, {"distillation": 0, "fine_tuning": 0, "stains": 1}])
def test_contract(params: dict[str, object]) -> None:
    check_component(adkit_adapters()[0], SHORT | params, make_extractor=TinyGlance)


def test_contract_where_whole_images_are_compared() -> None:
    check_component(adkit_adapters()[0], SHORT, make_extractor=lambda: TinyGlance(compares_images=True))


def test_three_stages_in_a_row() -> None:
    one = adapter()
    extractor = prepared(one, TinyGlance())
    stages = one.stages(extractor)
    assert [(s.name, s.images, s.minibatches, s.batch_size) for s in stages] == [
        ("distillation", "auxiliary", 2, 64),
        ("fine-tuning", "normal", 3, 16),
        ("comparison", "normal", None, None),
    ]
    names = {id(p): name for name, p in extractor.named_parameters()}
    trained = [[(sorted(names[id(p)] for p in g.parameters), g.learning_rate) for g in s.groups] for s in stages]
    local = ["head.bias", "head.weight", "inner.weights.0"]
    assert trained == [
        [(local, 2e-4)],
        [(local, 2e-4)],
        [(["inner.weights.1"], None), (["inner.weights.2", "inner.weights.3"], 1e-5)],
    ]


@pytest.mark.parametrize(
    ("params", "names"),
    [
        ({"distillation": 0}, ["fine-tuning", "comparison"]),
        ({"fine_tuning": 0}, ["distillation", "comparison"]),
        ({"distillation": 0, "fine_tuning": 0}, ["comparison"]),
    ],
)
def test_stages_of_no_length_are_left_out(params: dict[str, object], names: list[str]) -> None:
    one = adapter(**params)
    assert [stage.name for stage in one.stages(prepared(one, TinyGlance()))] == names


def test_the_projection_to_the_teacher_is_left_out_of_what_is_saved() -> None:
    extended = adapter().extend(TinyGlance())
    assert "head.weight" in dict(extended.named_parameters())
    assert extended.for_inference().state_dict().keys() == TinyGlance().state_dict().keys()


def test_local_net_is_taught_by_the_pooled_features_of_the_enlarged_patch() -> None:
    import timm

    one = adapter(lambda_k=2.0, lambda_c=0.0)
    extractor = prepared(one, TinyGlance())
    images = constant(0.25, 0.75)
    terms = one.loss(step(extractor, 0, images), Features({}, {}))
    assert one._teacher is not None
    mean, std = (torch.tensor(one._teacher.model.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        model = timm.create_model("test_resnet", num_classes=0).eval()
        model.load_state_dict(one._teacher.model.state_dict(), strict=False)
        target = model((torch.stack([torch.full((3, 32, 32), gray) for gray in (0.25, 0.75)]) - mean) / std)
        decoded = extractor.head(extractor.inner.local(images))  # type: ignore[attr-defined]
        assert float(terms["teacher"]) == pytest.approx(2 * float((decoded - target).square().mean()), rel=1e-4)
    assert float(terms["correlation"]) == 0


def test_correlations_are_numpys() -> None:
    values = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))
    found = np.corrcoef(values.numpy(), rowvar=False)
    expected = np.square(found[~np.eye(5, dtype=bool)]).mean()
    assert float(correlation(values)) == pytest.approx(expected, rel=1e-5)
    assert float(correlation(values[:1])) == 0


def test_the_comparison_by_hand() -> None:
    """The weights of both networks are 1, so an image of gray v is 3 channels of v to either."""
    one = adapter(lambda_t=0.1, margin=5.0, stains=1, stain_size=[2.0, 2.0], stain_opacity=1.0)
    extractor = prepared(one, TinyGlance())
    with torch.no_grad():
        for weights in extractor.inner.weights[:3]:  # type: ignore[attr-defined]
            weights.fill_(1.0)
        extractor.inner.weights[3].zero_()  # type: ignore[attr-defined]
    images = constant(0.5, 0.25)
    terms = one.loss(step(extractor, 2, images), Features({}, {}))
    assert float(terms["inconsistency"]) == pytest.approx(0, abs=1e-12)
    # ‖g − l⁻‖² by the same draws: those of the patches' places come first.
    generator = torch.Generator().manual_seed(0)
    torch.rand(2, 2, generator=generator)
    negatives = stained(images[..., :6, :6], 1, (2.0, 2.0), 1.0, generator).mean((2, 3))
    far = (images[..., 0, 0] - negatives).square().sum(1)
    assert float(far.min()) > 0
    assert float(terms["triplet"]) == pytest.approx(0.1 * float((5 - far).mean()))
    # The logits are the sum of what Local-Net sees, and 0: log(1 + e^−x) for a match, log(1 + e^x) for a mismatch.
    match, mismatch = images[..., 0, 0].sum(1).neg(), negatives.sum(1)
    assert float(terms["distortion"]) == pytest.approx(float(torch.cat([match, mismatch]).exp().log1p().mean()))


def test_the_hidden_patch_is_the_one_that_is_compared() -> None:
    """An image that is black but for its last 14 columns: where these are hidden, nothing but black is expected."""
    seen: list[tuple[Tensor, Tensor]] = []

    class Watched(TinyGlance):
        def local(self, patches: Tensor) -> Tensor:
            return super().local(patches)

        def expected(self, images: Tensor, hidden: Tensor | None) -> Tensor:
            if hidden is not None:
                seen.append((images, hidden))
            return super().expected(images, hidden)

    one = adapter()
    extractor = prepared(one, Watched())
    images = sample_images(10, SIZE)[0].images
    patches: list[Tensor] = []
    extractor.inner.local = lambda given: patches.append(given) or given.mean((2, 3))  # type: ignore[attr-defined,func-returns-value]
    one.loss(step(extractor, 2, images), Features({}, {}))
    ((given, hidden),) = seen
    assert hidden.sum((1, 2)).tolist() == [36] * 10
    for image, mask, patch in zip(given, hidden, patches[0], strict=True):
        assert torch.equal(image[:, mask].reshape(3, 6, 6), patch)
    assert len({tuple(mask.nonzero()[0].tolist()) for mask in hidden}) > 5


def test_another_image_is_the_negative_where_whole_images_are_compared() -> None:
    one = adapter(lambda_t=1.0, margin=0.0)
    extractor = prepared(one, TinyGlance(compares_images=True))
    given: list[Tensor] = []
    extractor.inner.local = lambda patches: given.append(patches) or patches.mean((2, 3))  # type: ignore[attr-defined,func-returns-value]
    images = constant(0.1, 0.2, 0.3)
    one.loss(step(extractor, 2, images), Features({}, {}))
    own, other = (one[:, 0, 0, 0].tolist() for one in given)
    assert own == pytest.approx([0.1, 0.2, 0.3])
    assert sorted(other) == pytest.approx(own)
    assert all(a != b for a, b in zip(own, other, strict=True))


def test_score_is_the_largest_loss_of_a_patch() -> None:
    levels = {"local": [[[1.0, 0.0], [2.0, 0.0]]], "global": [[[0.0, 0.0], [0.0, 0.0]]], "mismatch": [[[0.5], [0.75]]]}
    geometry = dict.fromkeys(levels, Geometry.covering((1, 2), SIZE))
    features = Features({name: torch.tensor([cells]) for name, cells in levels.items()}, geometry)
    assert adapter().score(features).tolist() == pytest.approx([4 - np.log(0.25)])


def test_stains_lie_on_the_patch_and_leave_the_rest() -> None:
    patches = torch.full((200, 3, 33, 33), 0.5)
    found = stained(patches, 3, (0.1, 0.5), 0.5, torch.Generator().manual_seed(0))
    changed = (found != patches).any(1).flatten(1).float().mean(1)
    assert (patches == 0.5).all()
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
    assert (changed > 0).all()
    # A stain has 0.008 to 0.2 of the patch's area; parts of it may lie outside.
    assert 0.05 < float(changed.mean()) < 0.25
    assert float(changed.max()) < 0.7


def test_a_single_opaque_stain_is_of_one_color() -> None:
    patches = torch.zeros(50, 3, 33, 33)
    found = stained(patches, 1, (0.4, 0.4), 1.0, torch.Generator().manual_seed(1))
    for one in found.flatten(2):
        strongest = one.amax(1, keepdim=True)
        share = one / strongest.clamp(min=1e-6)  # the same for all colors: how much the stain covers
        torch.testing.assert_close(share, share.mean(0, keepdim=True).expand_as(share), rtol=1e-4, atol=1e-4)


def test_other_extractors_are_refused() -> None:
    with pytest.raises(UserError, match=r"extractor\.use: expected glance, .*found a TinyExtractor"):
        adapter().extend(TinyExtractor())


def test_joined_levels_are_refused() -> None:
    one, extractor = adapter(), TinyGlance()
    joined = replace(stream_of(extractor, 2, SIZE))
    renamed = replace(
        joined, features=Features({"concat": joined.features["local"]}, {"concat": Geometry((1, 1), (1, 1))})
    )
    with pytest.raises(UserError, match=r"features\.combine: expected the levels local, global, mismatch"):
        one.prepare(See(extractor, renamed, None, None))


def test_a_teacher_that_takes_other_sizes_alone_is_refused() -> None:
    with pytest.raises(UserError, match=r"adapter\.teacher_size: vit_tiny_patch16_224 does not take images of 32"):
        adapter(teacher="vit_tiny_patch16_224").extend(TinyGlance())


def test_sentences_on_the_teacher_name_the_adapters_keys(tmp_path: object) -> None:
    with pytest.raises(UserError, match=r"adapter\.teacher: expected the name of a timm model, found 'resnet1'"):
        adapter(teacher="resnet1").extend(TinyGlance())
    one = adapter(teacher_weights=f"{tmp_path}/none.safetensors")
    extended = one.extend(TinyGlance())
    with pytest.raises(UserError, match=r'adapter\.teacher_weights: expected "hub", "packaged", "none" or a path'):
        one.prepare(See(extended, stream_of(extended, 2, SIZE), None, None))
