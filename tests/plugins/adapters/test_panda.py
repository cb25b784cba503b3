import pytest
import torch
from adkit_plugins.adapters.panda import Panda, PandaParams, adkit_adapters

from adkit.plugin import Adapter, Context, See
from adkit.plugin.contract import has_own
from adkit.testing import FeatureStream, TinyExtractor, check_component, sample_images
from tests.plugins.adapters.descents import ThreeBlocks, losses_of_descent, nothing, prepared, step_of, through
from tests.plugins.written import features_of

NORMAL = features_of(pool=[[[[0.0, 0.0]]], [[[2.0, 4.0]]]])  # a center of (1, 2)
FOUND = features_of(pool=[[[[4.0, 6.0]]], [[[1.0, 3.0]]]])  # 25 and 1 away from it


def adapter(**params):
    return Panda(PandaParams(**params), Context())


@pytest.mark.parametrize("params", [{}, {"blocks": "all"}, {"blocks": ["layer2"]}])
def test_contract(params):
    check_component(adkit_adapters()[0], params)


def test_loss_and_score_by_hand():
    one = adapter()
    one.prepare(See(TinyExtractor(), FeatureStream(NORMAL), None, None))
    assert {n: t.item() for n, t in one.loss(step_of(nothing(2)), FOUND).items()} == {"pool": 13}
    assert one.score(FOUND).tolist() == [25, 1]


def test_the_two_last_blocks_are_trained():
    one = adapter()
    extractor = prepared(one, extractor=ThreeBlocks())
    (stage,) = one.stages(extractor)
    expected = [extractor.layer1.bias, *extractor.layer2.parameters()]
    assert [id(p) for p in stage.parameters] == [id(p) for p in expected]


def test_gradient_is_that_of_equation_1():
    one = adapter()
    extractor = prepared(one)
    (batch,) = sample_images(5)
    centers = {name: values.mean((0, 1, 2)) for name, values in through(extractor, normal_images()).items()}
    parameters = list(extractor.layer2.parameters())
    found = torch.autograd.grad(
        sum(one.loss(step_of(batch, extractor), through(extractor, batch.images)).values()), parameters
    )
    per_level = [
        (values - centers[name].detach()).square().sum(3).mean()
        for name, values in through(extractor, batch.images).items()
    ]
    expected = torch.autograd.grad(sum(per_level) / 3, parameters)
    for left, right in zip(found, expected, strict=True):
        torch.testing.assert_close(left, right)


def normal_images():
    """Those that ``prepared`` shows."""
    return torch.cat([batch.images for batch in sample_images(12, seed=2, batch_size=4)])


def test_descent_reduces_the_loss():
    one = adapter()
    losses = losses_of_descent(one, prepared(one), rate=0.01)
    assert losses[-1] < 0.95 * losses[0]


def test_the_papers_length():
    assert adapter().schedule.minibatches == 2300


def test_it_looks_at_features_alone_and_gives_one_state():
    one = adapter()
    assert not one.reads_images
    assert one.fuse is None
    assert not has_own(one, Adapter, "after_step")
