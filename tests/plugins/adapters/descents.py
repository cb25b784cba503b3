"""What the tests of adapters share."""

import torch

from adkit.plugin import Batch, See, Step
from adkit.plugin.checks import check_features
from adkit.testing import TinyExtractor, sample_images
from adkit.testing.samples import SIZE, stream_of


class ThreeBlocks(TinyExtractor):
    """One of three blocks and a classifier, so that the last two of them are not all."""

    def blocks(self):
        weight, bias = self.layer1.parameters()
        return {"first": [weight], "second": [bias]} | {n: b for n, b in super().blocks().items() if n != "layer1"}


def through(extractor, images):
    """The features of images through an extractor, with gradients."""
    return check_features(extractor(images), extractor.levels, len(images), "extractor")


def nothing(count):
    """A batch whose images nobody looks at."""
    return Batch(torch.zeros(count, 3, 1, 1), tuple(f"image#{n}" for n in range(count)))


def step_of(batch, extractor=None, auxiliary=None, seed=0):
    """A step on these images."""
    generator = torch.Generator().manual_seed(seed)
    return Step(extractor or TinyExtractor(), batch, auxiliary, 0, 0, generator)


def prepared(adapter, make_scorer=None, extractor=None):
    extractor = adapter.extend(extractor or TinyExtractor())
    normal = stream_of(extractor, 2, SIZE)
    scorer = None
    if adapter.needs_scorer:
        scorer = make_scorer()
        scorer.fit(normal)
    adapter.prepare(See(extractor, normal, None, scorer))
    return extractor


def losses_of_descent(adapter, extractor, rate, steps=15):
    """The loss before each of some plain steps down the gradient, always on the same images."""
    batch = adapter.batch(step_of(sample_images(6, seed=5)[0], extractor))
    parameters = list(adapter.stages(extractor)[0].parameters)
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer, losses = torch.optim.SGD(parameters, rate), []
    for _ in range(steps):
        loss = sum(adapter.loss(step_of(batch, extractor), through(extractor, batch.images)).values())
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses
