import pytest
import torch
from adkit_plugins.extractors.timm.extractor import TimmExtractor, TimmParams
from torch import nn

from adkit.plugin import POOL, Context
from adkit.plugin.types import Level
from adkit.testing import TinyExtractor, TinyLevels, check_extractor, sample_images
from adkit.toolkit.heads import ExtendedExtractor


class Sum(nn.Module):
    """Adds up the channels of one level, and weighs the sum."""

    def __init__(self, level):
        super().__init__()
        self.level, self.weight = level, nn.Parameter(torch.full((1,), 2.0))

    def forward(self, features):
        return {"sum": features[self.level].sum(3, keepdim=True) * self.weight}


def extended(inner, level="layer2"):
    given = inner.levels[level]
    return ExtendedExtractor(inner, Sum(level), {"sum": Level(1, given.grid, given.geometry)}, "sums")


def resnet():
    params = TimmParams(backbone="resnet18", weights="none", levels=("layer2", "pool"))
    return TimmExtractor(params, Context(image_size=(64, 64)))


def test_it_keeps_the_contract():
    check_extractor(lambda: extended(TinyExtractor()))


def test_the_extractors_own_levels_are_bit_equal_and_come_first():
    (batch,) = sample_images(3, size=(64, 64))
    plain = resnet()
    with torch.no_grad():
        before, after = plain(batch.images), extended(plain)(batch.images)
    assert list(after) == [*before, "sum"]
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert torch.equal(after["sum"], 2 * before["layer2"].sum(3, keepdim=True))


def test_the_head_comes_last_among_the_blocks():
    network = extended(TinyExtractor())
    assert list(network.blocks()) == ["layer1", "layer2", "classifier", "sums"]
    assert network.blocks()["sums"] == [network.head.weight]
    assert torch.equal(network.classify(sample_images(2)[0].images), network.inner.classify(sample_images(2)[0].images))


def test_the_copy_for_inference_is_folded_has_the_features_and_takes_another_ones_state():
    (batch,) = sample_images(3, size=(64, 64))
    network = extended(resnet())
    network.head.weight.data.fill_(-3.0)
    folded, other = network.for_inference(), extended(resnet()).for_inference()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    other.load_state_dict({name: value.clone() for name, value in folded.state_dict().items()})
    with torch.no_grad():
        expected, found, again = network(batch.images), folded(batch.images), other(batch.images)
    for name in expected:
        torch.testing.assert_close(
            found[name], expected[name], rtol=1e-3, atol=1e-3 * float(expected[name].abs().max())
        )
        assert torch.equal(again[name], found[name])
    assert folded.head.weight is not network.head.weight


def test_over_an_extractor_that_offers_less_it_copies_and_offers_the_head_alone():
    inner = TinyLevels({POOL: TinyExtractor().levels[POOL]})
    network = extended(inner, POOL)
    (batch,) = sample_images(2)
    with torch.no_grad():
        for copied in (network.for_inference(), network.for_export()):
            assert copied.inner is not inner
            assert torch.equal(copied(batch.images)["sum"], network(batch.images)["sum"])
    assert list(network.blocks()) == ["sums"]
    assert network.classify(batch.images) is None
    assert network.split(list(network.head.parameters())) is None


def test_the_head_computes_in_float32_under_autocast():
    (batch,) = sample_images(2)
    network = extended(TinyExtractor())
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = network(batch.images)
    assert found["sum"].dtype == torch.float32
    assert torch.equal(found["sum"], 2 * found["layer2"].float().sum(3, keepdim=True))


def test_a_level_of_a_name_that_is_taken_is_refused():
    inner = TinyExtractor()
    with pytest.raises(ValueError, match="added: expected levels of new names, found layer2"):
        ExtendedExtractor(inner, Sum("layer2"), {"layer2": inner.levels["layer2"]}, "sums")


def test_torch_export_records_it():
    (batch,) = sample_images(2)
    network = extended(TinyExtractor()).for_export()

    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, images):
            return self.network(images)["sum"]

    exported = torch.export.export(Plain().eval(), (batch.images,)).module()
    assert torch.equal(exported(batch.images), network(batch.images)["sum"])
