"""A trunk and a tail are together what the extractor is, in value and in gradient, or they are not given at all."""

import pytest
import torch
from adkit_plugins.extractors.timm.extractor import TimmExtractor, TimmParams
from adkit_plugins.extractors.timm.fold import redraw
from adkit_plugins.extractors.timm.levels import probe
from adkit_plugins.extractors.timm.split import cut
from torch import nn

from adkit.plugin import POOL, Context, Geometry, Level
from adkit.testing import TinyLevels, sample_images
from adkit.toolkit.heads import ExtendedExtractor

SIZE = (64, 64)
NETWORKS = [
    ("resnet18", SIZE, ["layer4"], (256, 4, 4)),
    ("tf_efficientnet_lite0", SIZE, ["blocks.5", "blocks.6", "head"], (112, 4, 4)),
    ("mobilenetv3_small_100", SIZE, ["blocks.5", "head"], (96, 2, 2)),
    pytest.param(
        *("densenet121", SIZE, ["features.denseblock4", "features.norm5"], (512, 2, 2)), marks=pytest.mark.slow
    ),
    ("convnext_atto", SIZE, ["stages.3", "head"], (160, 4, 4)),
    pytest.param(
        *("vit_tiny_patch16_224", (224, 224), ["blocks.10", "blocks.11", "head"], (197, 192)), marks=pytest.mark.slow
    ),
]


def make(backbone="test_resnet", *levels, size=SIZE):
    """Weights under which a wrong cut shows: fresh ones leave some blocks next to nothing to do."""
    params = TimmParams(backbone=backbone, weights="none", levels=levels or (POOL,))
    extractor = TimmExtractor(params, Context(image_size=size))
    redraw(extractor.model, torch.Generator().manual_seed(0))
    return extractor


def parameters_of(extractor, *blocks):
    return [parameter for block in blocks for parameter in extractor.blocks()[block]]


def ids(parameters):
    return {id(parameter) for parameter in parameters}


def images_of(count=3, size=SIZE):
    return sample_images(count, size, seed=7)[0].images


def require_equal(found, expected):
    assert list(found) == list(expected)
    for name in expected:
        torch.testing.assert_close(
            found[name], expected[name], rtol=1e-5, atol=1e-5 * float(expected[name].abs().max())
        )


@pytest.mark.parametrize(("backbone", "size", "blocks", "shape"), NETWORKS)
def test_features_and_gradients_are_those_of_the_whole(backbone, size, blocks, shape):
    extractor, images = make(backbone, size=size), images_of(size=size)
    trained = parameters_of(extractor, *blocks)
    trunk, tail = extractor.split(trained)
    with torch.no_grad():
        given = trunk(images)
        require_equal(tail(given), extractor(images))
    assert given.shape == (3, *shape)
    for parameter in trained:
        parameter.requires_grad_(True)
    weights = torch.randn(tail(given)[POOL].shape, generator=torch.Generator().manual_seed(0))
    found, expected = (
        torch.autograd.grad((features[POOL] * weights).sum(), trained, allow_unused=True)
        for features in (tail(given), extractor(images))
    )
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        if other is not None:
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * float(other.abs().max()))


@pytest.mark.parametrize(("backbone", "size", "blocks", "shape"), NETWORKS)
def test_the_halves_share_the_extractors_modules_and_the_trunk_none_that_is_trained(backbone, size, blocks, shape):
    extractor = make(backbone, size=size)
    trained = parameters_of(extractor, *blocks)
    trunk, tail = extractor.split(trained)
    assert not ids(trunk.parameters()) & ids(trained)
    assert ids(trained) <= ids(tail.parameters()) <= ids(extractor.parameters())
    assert ids(trunk.parameters()) <= ids(extractor.parameters())
    assert not any(module.training for module in (*trunk.modules(), *tail.modules()))


@pytest.mark.parametrize("backbone", ["resnet18", "tf_efficientnet_lite0", "test_vit"])
def test_what_comes_first_leaves_nothing_to_cut_off(backbone):
    extractor = make(backbone)
    assert extractor.split(parameters_of(extractor, *extractor.blocks())) is None
    assert extractor.split(parameters_of(extractor, "stem")) is None


def test_a_position_embedding_that_is_trained_is_not_in_the_trunk():
    extractor = make("test_vit")
    assert extractor.split([extractor.model.pos_embed]) is None or not any(
        parameter is extractor.model.pos_embed
        for parameter in extractor.split([extractor.model.pos_embed])[0].parameters()
    )


def test_changed_weights_of_the_tail_are_seen_by_both():
    extractor, images = make(), images_of()
    trained = parameters_of(extractor, "layer4")
    trunk, tail = extractor.split(trained)
    with torch.no_grad():
        given, before = trunk(images), extractor(images)[POOL]
        for parameter in trained:
            parameter.mul_(1.1)
        assert not torch.allclose(extractor(images)[POOL], before)
        require_equal(tail(given), extractor(images))


def test_a_loaded_state_is_seen_by_both():
    extractor, other, images = make(), make(), images_of()
    trunk, tail = extractor.split(parameters_of(extractor, "layer4"))
    redraw(other.model, torch.Generator().manual_seed(1))
    extractor.load_state_dict(other.state_dict())
    with torch.no_grad():
        require_equal(tail(trunk(images)), other(images))


def test_a_level_before_the_trained_blocks_moves_the_cut_there():
    extractor, images = make("test_resnet", "layer2", "layer3.0.conv1", POOL), images_of()
    trunk, tail = extractor.split(parameters_of(extractor, "layer4"))
    with torch.no_grad():
        given = trunk(images)
        assert given.shape == (3, 48, 8, 8)  # what layer2 gives
        require_equal(tail(given), extractor(images))


def test_a_level_that_a_later_module_writes_into_is_read_before_and_what_is_given_stays():
    extractor, images = make("test_resnet", "bn1", "layer1"), images_of()
    trunk, tail = extractor.split(parameters_of(extractor, "layer1"))
    with torch.no_grad():
        given = trunk(images)  # a batch norm's, which the ReLU behind it overwrites
        kept = given.clone()
        require_equal(tail(given), extractor(images))
    assert float(given.min()) < 0 and torch.equal(given, kept)


def test_without_trained_parameters_one_level_is_all_the_trunk():
    extractor, images = make(), images_of()
    trunk, _ = extractor.split([])
    with torch.no_grad():
        assert torch.equal(trunk(images), extractor(images)[POOL])


def test_parallel_branches_are_not_cut():
    extractor = make("hrnet_w18_small")
    assert extractor.split(parameters_of(extractor, "downsamp_modules", "final_layer")) is None


class Network(nn.Module):
    """Two layers, and between them what a subclass does."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.end = nn.Conv2d(3, 4, 3, 2), nn.Conv2d(4, 5, 3, 2), nn.Identity()
        self.eval().requires_grad_(False)
        self.taps = probe({"end": self.end}, self.run, SIZE, 0, False)

    def run(self, images):
        self.end(self.second(self.between(self.first(images))))

    def between(self, values):
        return values

    def forward(self, images):
        level = self.taps["end"].read(self.second(self.between(self.first(images))))
        return {"end": level}

    def split(self):
        blocks = (self.first, self.second)
        return cut(self, self.run, {"end": self.end}, self.taps, blocks, list(self.second.parameters()), SIZE)


def test_a_plain_network_is_cut():
    network, images = Network(), images_of()
    trunk, tail = network.split()
    assert torch.equal(trunk(images), network.first(images))
    assert torch.equal(tail(trunk(images))["end"], network(images)["end"])


def test_one_that_looks_at_values_is_not_cut():
    class Looks(Network):
        def between(self, values):
            return values if values.sum() > 0 else -values

    assert Looks().split() is None


def test_one_whose_recording_differs_from_it_is_not_cut():
    class Counts(Network):
        calls = 0

        def between(self, values):  # the recording keeps what the second call would give
            self.calls += 1
            return values * self.calls

    assert Counts().split() is None


def test_one_whose_images_look_at_each_other_is_not_cut():
    class Mixes(Network):
        def between(self, values):
            return values + torch.arange(3)[:, None, None, None]

        def run(self, images):
            super().run(images.expand(3, -1, -1, -1))

    assert Mixes().split() is None


class Sum(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.full((1,), 2.0))

    def forward(self, features):
        return {"sum": features[POOL].sum(3, keepdim=True) * self.weight}


def extended(inner):
    geometry = Geometry.covering((1, 1), SIZE)
    return ExtendedExtractor(inner, Sum(), {"sum": Level(1, (1, 1), geometry)}, "sums")


def test_a_head_belongs_to_the_tail():
    extractor, images = extended(make()), images_of()
    trained = [*parameters_of(extractor, "layer4"), extractor.head.weight]
    trunk, tail = extractor.split(trained)
    with torch.no_grad():
        assert trunk(images).shape == (3, 192, 4, 4)
        require_equal(tail(trunk(images)), extractor(images))
    extractor.head.weight.requires_grad_(True)
    (found,), (expected,) = (
        torch.autograd.grad(features["sum"].sum(), [extractor.head.weight])
        for features in (tail(trunk(images)), extractor(images))
    )
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
    assert not ids(trunk.parameters()) & ids(trained)


def test_a_head_alone_is_all_the_tail():
    extractor, images = extended(make()), images_of()
    trunk, tail = extractor.split([extractor.head.weight])
    with torch.no_grad():
        assert torch.equal(trunk(images), extractor(images)[POOL])
        require_equal(tail(trunk(images)), extractor(images))


def test_splitting_leaves_what_is_trained_to_be_trained():
    extractor = extended(make())
    trained = [*parameters_of(extractor, "layer4"), extractor.head.weight]
    for parameter in trained:
        parameter.requires_grad_(True)
    extractor.split(trained)
    assert ids(p for p in extractor.parameters() if p.requires_grad) == ids(trained)


def test_an_extension_of_what_cannot_be_split_is_not_split():
    extractor = extended(TinyLevels({POOL: Level(4, (1, 1), Geometry.covering((1, 1), SIZE))}))
    assert extractor.inner.split([]) is None
    assert extractor.split([extractor.head.weight]) is None
