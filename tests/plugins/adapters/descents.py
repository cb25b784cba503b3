"""What the tests of adapters share."""

import torch

from adkit.plugin import Batch, Features, Geometry
from adkit.plugin.adapter import ScoredAdapter
from adkit.testing import TinyExtractor, sample_images
from adkit.testing.samples import SIZE, stream_of

GEOMETRY = Geometry((0.5, 0.5), (1.0, 1.0))


def features_of(**levels):
    """Features (n, h, w, c) written out."""
    return Features({n: torch.tensor(v) for n, v in levels.items()}, dict.fromkeys(levels, GEOMETRY))


def nothing(count):
    """A batch whose images nobody looks at."""
    return Batch(torch.zeros(count, 3, 1, 1), tuple(f"image#{n}" for n in range(count)))


def prepared(adapter, make_scorer=None, extractor=None):
    extractor = extractor or TinyExtractor()
    extractor = adapter.extend(extractor) if hasattr(adapter, "extend") else extractor
    normal = stream_of(extractor, 2, SIZE)
    scorer = None
    if isinstance(adapter, ScoredAdapter):
        scorer = make_scorer()
        scorer.fit(normal)
    adapter.prepare(extractor, normal, None, scorer)
    return extractor


def losses_of_descent(adapter, extractor, rate, steps=15):
    """The loss before each of some plain steps down the gradient, always on the same images."""
    (batch,) = sample_images(6, seed=5)
    if hasattr(adapter, "batch"):
        batch = adapter.batch(batch, None, torch.Generator().manual_seed(0))
    parameters = list(adapter.stages()[0].parameters)
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer, losses = torch.optim.SGD(parameters, rate), []
    for _ in range(steps):
        loss = sum(adapter.loss(extractor, batch, extractor(batch.images)).values())
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses
