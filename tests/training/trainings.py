"""Small trainings, for tests of the trainer."""

import itertools

import pytest
import torch

from adkit.inference.pipeline import Embedding
from adkit.plugin import Batch, Context, Group, Params, Schedule, See, Stage, Stopper, Verdict
from adkit.testing import TinyAdapter, TinyExtractor
from adkit.testing.samples import SIZE, sample_images, stream_of
from adkit.toolkit.features import FeaturesTable, FeatureTransform
from adkit.training.trainer import Minibatches, TrainingTask, train

CONTEXT = Context(image_size=SIZE)
COUNT, BATCH = 10, 4  # three minibatches per epoch, the last one of two images


class Scripted(Stopper):
    """Keeps the state of the checks named, and stops at one of them."""

    def __init__(self, keep=(), stop=None):
        super().__init__(Params(), CONTEXT)
        self.keep, self.stop, self.asked = keep, stop, []

    def check(self, look):
        check = len(self.asked)
        self.asked.append(look.progress)
        draw = float(torch.rand((), generator=look.generator))
        return Verdict(check in self.keep, check == self.stop, f"check {check} drew {draw}", draw)

    def state_dict(self):
        return {"asked": float(len(self.asked))}

    def load_state_dict(self, state):
        self.asked = [None] * int(state["asked"])


class TwoStages(TinyAdapter):
    """Trains one layer for so many minibatches, and then another."""

    def __init__(self, first, second, **traits):
        super().__init__()
        self.lengths, self.traits = (first, second), traits

    def stages(self, extractor):
        first, second = self.lengths
        blocks = extractor.blocks()
        return [
            Stage([Group(blocks["layer1"])], minibatches=first, name="first"),
            Stage([Group(blocks["layer2"])], minibatches=second, name="second", **self.traits),
        ]


def images():
    (batch,) = sample_images(COUNT, SIZE, seed=1)
    return batch


def minibatches(batch_size=BATCH, name="normal", darker=None, count=COUNT):
    """The same few images again and again, where they are not enough; number ``darker`` has half the values."""
    batch = images()

    def load(numbers, batch_size):
        for first in range(0, len(numbers), batch_size):
            chosen = numbers[first : first + batch_size]
            factors = torch.tensor([0.5 if number == darker else 1.0 for number in chosen])
            places = [number % COUNT for number in chosen]
            ids = tuple(batch.ids[place] for place in places)
            yield Batch(batch.images[places] * factors[:, None, None, None], ids)

    return Minibatches(load, count, batch_size, CONTEXT, name)


def task(schedule=None, stopper=None, adapter=None, extractor=None, **others):
    extractor = extractor or TinyExtractor()
    adapter = adapter or TinyAdapter()
    adapter.prepare(See(extractor, stream_of(extractor, 2, SIZE), None, None))
    transform = FeatureTransform(FeaturesTable(), extractor.levels, torch.Generator())
    return TrainingTask(
        extractor=extractor,
        embedding=Embedding(extractor, transform, CONTEXT),
        adapter=adapter,
        schedule=schedule or Schedule(learning_rate=0.05, epochs=4, batch_size=BATCH),
        stopper=stopper,
        stages=list(adapter.stages(extractor)),
        forward=extractor,
        held_out=[images()],
        context=CONTEXT,
        **{"normal": minibatches(), "auxiliary": None, **others},
    )


def weights(one):
    return {name: tensor.clone() for name, tensor in one.extractor.state_dict().items()}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def quiet(images):
    """Takes the count of images that are done."""


class Killed(BaseException):
    pass


def killed_after(count):
    done = itertools.count(1)

    def advance(images):
        if next(done) == count:
            raise Killed

    return advance


def interrupted(make, folder, after):
    with pytest.raises(Killed):
        train(make(), killed_after(after), folder)
    one = make()
    return one, train(one, quiet, folder)
