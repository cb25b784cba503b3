from dataclasses import replace

import pytest
import torch
from adkit_plugins.adapters.joint import Joint, JointParams, adkit_adapters
from torch import nn

from adkit import UserError
from adkit.plugin import Batch, Context, See
from adkit.testing import FeatureStream, TinyExtractor, check_component, sample_images
from adkit.testing.samples import SIZE, ImagedStream, stream_of
from tests.plugins.adapters.descents import step_of, through
from tests.plugins.written import features_of

CONTEXT = Context(image_size=SIZE)
KINDS = ("ant", "bee", "cat", "dog", "elk")


def adapter(**params):
    return Joint(JointParams(**params), CONTEXT)


def auxiliary(extractor, kinds=KINDS):
    """Twelve other images of these kinds, in turn."""
    stream = stream_of(extractor, 3, SIZE)
    named = [
        replace(batch, kinds=tuple(kinds[(4 * i + j) % len(kinds)] for j in range(len(batch))))
        for i, batch in enumerate(stream.shown)
    ]
    return replace(stream, shown=tuple(named))


def prepared(one, extractor=None):
    extractor = extractor or TinyExtractor()
    one.prepare(See(extractor, stream_of(extractor, 2, SIZE), auxiliary(extractor), None))
    return extractor


def step(one, extractor, normal, other):
    return one.loss(step_of(normal, extractor, other), through(extractor, normal.images))


@pytest.mark.parametrize("params", [{}, {"alpha": 10}, {"blocks": "all"}])
def test_contract(params):
    check_component(adkit_adapters()[0], params)


class Third(TinyExtractor):
    """Always sees the first of two classes with a chance of a third, whatever its features."""

    logit = 0.0

    def classify(self, images):
        return torch.tensor([[self.logit, torch.log(torch.tensor(2.0))]]).expand(len(images), 2)


NORMAL = features_of(pool=[[[[0.0, 0.0]]], [[[2.0, 4.0]]]])  # a center of (1, 2)
FOUND = features_of(pool=[[[[4.0, 6.0]]], [[[1.0, 3.0]]]])  # 25 and 1 away from it


def test_loss_and_score_by_hand():
    extractor, (normal,) = Third(), sample_images(2)
    shown = tuple(replace(batch, kinds=("ant", "bee")) for batch in sample_images(4, batch_size=2))
    other = ImagedStream(NORMAL, shown=shown)
    predicted, classes = adapter(alpha=0.5), adapter(alpha=0.5, labels="classes")
    for one in (predicted, classes):
        one.prepare(See(extractor, FeatureStream(NORMAL), other, None))
    extractor.logit = float(torch.tensor(2.0).log())  # now the two are alike
    ln2 = float(torch.tensor(2.0).log())
    for one in (predicted, classes):
        terms = one.loss(step_of(normal, extractor, shown[0]), FOUND)
        assert {name: term.item() for name, term in terms.items()} == {
            "classification": pytest.approx(ln2),
            "pool": 0.5 * 13,
        }
        assert one.score(FOUND).tolist() == [25, 1]


def test_a_soft_label_is_what_was_predicted_before_adapting():
    extractor, (normal,) = Third(), sample_images(2)
    shown = tuple(sample_images(4, batch_size=2))
    one = adapter()
    one.prepare(See(extractor, FeatureStream(NORMAL), ImagedStream(NORMAL, shown=shown), None))
    extractor.logit = float(torch.tensor(6.0).log())  # now ¾ and ¼
    terms = one.loss(step_of(normal, extractor, shown[1]), FOUND)
    expected = -(torch.tensor(0.75).log() / 3 + 2 * torch.tensor(0.25).log() / 3)
    torch.testing.assert_close(terms["classification"], expected)


@pytest.mark.parametrize("labels", ["predicted", "classes"])
def test_gradient_is_that_of_equation_2(labels):
    one, extractor = adapter(alpha=0.3, labels=labels), TinyExtractor()
    others = auxiliary(extractor)
    normal_stream = stream_of(extractor, 2, SIZE)
    one.prepare(See(extractor, normal_stream, others, None))
    centers = {name: values.mean((0, 1, 2)) for name, values in normal_stream.features.items()}
    (normal,), other = sample_images(5), others.shown[1]
    with torch.no_grad():
        soft = extractor.classify(other.images).softmax(1)
        extractor.layer2.weight.mul_(1.3)  # so that predictions are no longer the first ones
    parameters = list(extractor.layer2.parameters())
    found = torch.autograd.grad(sum(step(one, extractor, normal, other).values()), parameters)
    log_p = extractor.classify(other.images).log_softmax(1)
    hard = nn.functional.one_hot(torch.tensor([KINDS.index(kind) for kind in other.kinds]), 5)
    classification = -((soft if labels == "predicted" else hard) * log_p).sum(1).mean()
    levels = [(values - centers[n]).square().sum(3).mean() for n, values in through(extractor, normal.images).items()]
    expected = torch.autograd.grad(classification + 0.3 * sum(levels) / 3, parameters)
    for left, right in zip(found, expected, strict=True):
        torch.testing.assert_close(left, right)


def test_a_step_shows_the_normal_images_as_they_are():
    (normal,), (other,) = sample_images(5), sample_images(3, seed=4)
    assert adapter().batch(step_of(normal, None, other)) is normal


def test_the_other_images_may_be_fewer():
    one = adapter()
    extractor = prepared(one)
    (normal,) = sample_images(5)
    other = auxiliary(extractor).shown[2]
    less = Batch(other.images[:1], other.ids[:1])
    terms = step(one, extractor, normal, less)
    entropy = -(extractor.classify(less.images).softmax(1) * extractor.classify(less.images).log_softmax(1)).sum()
    torch.testing.assert_close(terms["classification"], entropy)  # nothing was trained: p is p₀


def test_the_classifier_stays_as_it_is():
    one = adapter(blocks="all")
    extractor = prepared(one)
    expected = [*extractor.layer1.parameters(), *extractor.layer2.parameters()]
    assert [id(p) for p in one.stages(extractor)[0].parameters] == [id(p) for p in expected]


def test_descent_reduces_the_loss():
    one = adapter(alpha=10)
    extractor = prepared(one)
    (normal,), other = sample_images(6, seed=5), auxiliary(extractor).shown[0]
    rule, losses = torch.optim.SGD(one.stages(extractor)[0].parameters, 0.001), []
    for _ in range(15):
        loss = sum(step(one, extractor, normal, other).values())
        losses.append(loss.item())
        rule.zero_grad()
        loss.backward()
        rule.step()
    assert losses[-1] < 0.95 * losses[0]


def test_it_looks_at_images():
    assert adapter().reads_images


def test_it_needs_an_auxiliary_table():
    extractor = TinyExtractor()
    with pytest.raises(UserError) as found:
        adapter().prepare(See(extractor, stream_of(extractor, 2, SIZE), None, None))
    assert str(found.value) == (
        "adapter.use: expected an [auxiliary] table for joint, with images that the classifier must still "
        "recognize, found none: add it, or use ewc, which needs no other images"
    )


def test_classes_must_be_those_of_the_classifier():
    extractor = TinyExtractor()
    with pytest.raises(UserError) as found:
        adapter(labels="classes").prepare(
            See(extractor, stream_of(extractor, 2, SIZE), auxiliary(extractor, kinds=KINDS[:3]), None)
        )
    assert str(found.value) == (
        "[auxiliary]: expected images of 5 kinds, one per class of the pretrained classifier, which "
        'adapter.labels = "classes" needs, found 3: name the data set that the weights were trained on, or set '
        'adapter.labels = "predicted"'
    )


def test_predictions_that_do_not_fit_are_refused():
    class Endless(ImagedStream):
        count = 10**14

    extractor = TinyExtractor()
    normal = stream_of(extractor, 2, SIZE)
    with pytest.raises(UserError, match=r"^joint: what the classifier predicts for 1.* name fewer images there$"):
        adapter().prepare(See(extractor, normal, Endless(normal.features, shown=normal.shown), None))
