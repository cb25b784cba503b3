import pytest
import torch
from adkit_plugins.adapters.panda import Panda, PandaParams
from adkit_plugins.adapters.ses import Ses, SesParams, adkit_adapters

from adkit.plugin import Context, See
from adkit.testing import FeatureStream, TinyExtractor, check_component, sample_images
from adkit.testing.samples import SIZE, stream_of
from tests.plugins.adapters.descents import ThreeBlocks, nothing, step_of, through
from tests.plugins.written import features_of

NORMAL = features_of(pool=[[[[0.0, 0.0]]], [[[2.0, 4.0]]]])  # a center of (1, 2)
FOUND = features_of(pool=[[[[4.0, 6.0]]], [[[1.0, 3.0]]]])  # 25 and 1 away from it


def adapter(**params):
    return Ses(SesParams(**params), Context())


@pytest.mark.parametrize("params", [{}, {"blocks": "all"}])
def test_contract(params):
    check_component(adkit_adapters()[0], params)


def test_loss_and_score_by_hand():
    one = adapter()
    one.prepare(See(TinyExtractor(), FeatureStream(NORMAL), None, None))
    assert {n: t.item() for n, t in one.loss(step_of(nothing(2)), FOUND).items()} == {"pool": 13}
    assert one.score(FOUND).tolist() == [25, 1]


def test_it_trains_as_panda_does():
    (batch,), gradients = sample_images(5), []
    for one in (adapter(), Panda(PandaParams(), Context())):
        extractor = ThreeBlocks()
        one.prepare(See(extractor, stream_of(extractor, 2, SIZE), None, None))
        loss = sum(one.loss(step_of(batch, extractor), through(extractor, batch.images)).values())
        gradients.append(torch.autograd.grad(loss, one.stages(extractor)[0].parameters, allow_unused=True))
    for left, right in zip(*gradients, strict=True):
        assert (left is None and right is None) or torch.equal(left, right)


def test_the_largest_ratio_of_its_snapshots_counts():
    one = adapter()
    assert one.fuse == "max_ratio"
    assert one.schedule.snapshot_epochs == 5


def test_the_papers_length_is_150_000_images():
    schedule = adapter().schedule
    assert 0 <= schedule.minibatches * schedule.batch_size - 150_000 < schedule.batch_size


def test_it_looks_at_features_alone():
    assert not adapter().reads_images
