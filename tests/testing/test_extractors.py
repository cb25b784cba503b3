"""Each check of an extractor passes an honest one and is tripped by one that breaks just that promise."""

import copy

import pytest
import torch
from torch import nn

from adkit import UserError
from adkit.plugin import POOL, Features, Geometry
from adkit.testing import TinyExtractor, check_extractor
from tests.testing.components import Grays, failures, trips


class PlainFunction:
    levels = TinyExtractor().levels

    def forward(self, images):
        return TinyExtractor()(images)


class Reworked(TinyExtractor):
    """Changes the features of an honest extractor."""

    split = TinyExtractor.__base__.split

    def changed(self, features, images):
        raise AssertionError("each test says how")

    def forward(self, images):
        return self.changed(super().forward(images), images)


class InTraining(TinyExtractor):
    def __init__(self):
        super().__init__()
        self.layer2.train()


class InTrainingForGood(InTraining):
    def eval(self):
        return self


class DropoutActive(TinyExtractor):
    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def after(self, first):
        return super().after(self.drop(first))


class DropoutForGood(TinyExtractor):
    def after(self, first):
        return super().after(nn.functional.dropout(first, 0.5, training=True))


class UndeclaredLevel(Reworked):
    def changed(self, features, images):
        return {"layer1": features["layer1"], POOL: features[POOL]}


class ChannelsFirst(Reworked):
    def changed(self, features, images):
        return {n: t.permute(0, 3, 1, 2) for n, t in features.items()}


class HalfPrecision(Reworked):
    def changed(self, features, images):
        return {n: t.half() for n, t in features.items()}


class MovedGeometry(Reworked):
    def changed(self, features, images):
        return Features(features, {n: Geometry((0.0, 0.0), (1.0, 1.0)) for n in features})


class NanFeatures(Reworked):
    def changed(self, features, images):
        return {n: t / 0 for n, t in features.items()}


class ChangesImages(TinyExtractor):
    split = Reworked.split

    def forward(self, images):
        return super().forward(images.sub_(0.5))


class NormalizesBatch(Reworked):
    def changed(self, features, images):
        return {n: t - t.mean() for n, t in features.items()}


class Unseeded(TinyExtractor):
    count = 0

    def __init__(self):
        type(self).count += 1
        super().__init__(seed=self.count)


class GlobalWeights(TinyExtractor):
    def __init__(self):
        super().__init__()
        nn.init.normal_(self.layer1.weight)


class SeedsGlobally(TinyExtractor):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)


class HiddenState(TinyExtractor):
    """Keeps a copy of weights that its state does not restore."""

    def load_state_dict(self, state, strict=True, assign=False):
        return super().load_state_dict({n: t * 2 for n, t in state.items()}, strict, assign)


class NoFeatures(Reworked):
    def changed(self, features, images):
        return None


class NamesForLevels(TinyExtractor):
    levels = ["layer1", "layer2", POOL]


class GridsForLevels(TinyExtractor):
    levels = {"layer1": (12, 10), "layer2": (6, 5), POOL: (1, 1)}


class NoForward(nn.Module):
    levels = TinyExtractor().levels

    def __init__(self):
        super().__init__()
        self.eval()


class Misspelt(Grays):
    def for_inferences(self):
        return self


# Blocks and classifier -----------------------------------------------------------------------------------


class ForgottenBlock(TinyExtractor):
    def blocks(self):
        return {"layer1": list(self.layer1.parameters())}


class SharedBlock(TinyExtractor):
    def blocks(self):
        return {"all": list(self.parameters()), "head": list(self.head.parameters())}


class StrangeBlock(TinyExtractor):
    def blocks(self):
        return super().blocks() | {"strange": [nn.Parameter(torch.zeros(1))]}


class NamedBlocks(TinyExtractor):
    def blocks(self):
        return {name: ["weight", "bias"] for name in super().blocks()}


class ListOfBlocks(TinyExtractor):
    def blocks(self):
        return [self.layer1, self.layer2, self.head]


class Classes(TinyExtractor):
    def classify(self, images):
        return super().classify(images).argmax(1)


# Split ---------------------------------------------------------------------------------------------------


class SplitsTooLate(TinyExtractor):
    """Cuts behind the first block, whatever is trained."""

    def split(self, parameters):
        return super().split([])


class SplitsCopies(TinyExtractor):
    def split(self, parameters):
        halves = super().split(parameters)
        return None if halves is None else copy.deepcopy(halves)


class SplitsWithoutActivation(TinyExtractor):
    def split(self, parameters):
        halves = super().split(parameters)
        return None if halves is None else (halves[0][:1], halves[1])


class SplitsIntoOne(TinyExtractor):
    def split(self, parameters):
        halves = super().split(parameters)
        return None if halves is None else nn.Sequential(*halves)


class TrunkOfLevels(TinyExtractor):
    """Its trunk gives a dict."""

    def split(self, parameters):
        return None if super().split(parameters) is None else (LevelOne(self), nn.Identity())


class LevelOne(nn.Module):
    def __init__(self, whole):
        super().__init__()
        self.layer1 = whole.layer1

    def forward(self, images):
        return {"layer1": self.layer1(images)}


# For inference -------------------------------------------------------------------------------------------


class Faster(TinyExtractor):
    """Halves the weights of the first block and doubles what comes of them."""

    def for_inference(self):
        fast = copy.deepcopy(self)
        fast.layer1.requires_grad_(False).weight.mul_(0.5)
        fast.layer1.bias.mul_(0.5)
        fast.register_buffer("factor", torch.tensor(2.0))
        return fast

    def after(self, first):
        return super().after(first * getattr(self, "factor", 1))


class FasterInPlace(TinyExtractor):
    def for_inference(self):
        self.layer1.requires_grad_(False).weight.mul_(1.01)
        return self


class FasterInPrivate(TinyExtractor):
    """Its copy is right, and itself it scales from then on."""

    factor = 1

    def for_inference(self):
        fast = copy.deepcopy(self)
        self.factor = 2
        return fast

    def after(self, first):
        return super().after(first * self.factor)


class OtherFeatures(TinyExtractor):
    def for_inference(self):
        fast = copy.deepcopy(self)
        fast.layer1.requires_grad_(False).weight.mul_(1.01)
        return fast


class FasterInTraining(TinyExtractor):
    def for_inference(self):
        return copy.deepcopy(self).train()


class NothingFaster(TinyExtractor):
    def for_inference(self):
        return None


class DropsZeroWeights(TinyExtractor):
    """Leaves out a classifier of zeros alone."""

    def for_inference(self):
        fast = copy.deepcopy(self)
        if not fast.head.weight.any():
            del fast.head
        return fast


class CannotBeLoaded(TinyExtractor):
    """Keeps the sum of its weights out of the state."""

    def for_inference(self):
        fast = copy.deepcopy(self)
        fast.total = float(self.layer1.weight.detach().sum())
        return fast

    def after(self, first):
        total = self.layer1.weight.detach().sum()
        return super().after(first * (getattr(self, "total", total) / total))


@pytest.mark.parametrize(
    ("checks", "broken"),
    [
        ("features", NoFeatures),
        ("levels", NamesForLevels),
        ("levels", GridsForLevels),
        ("build", NoForward),
        ("build", PlainFunction),
        ("members", Misspelt),
        ("build", InTraining),
        ("build", InTrainingForGood),
        ("build", DropoutActive),
        ("generators, seed, state, batches, split", DropoutForGood),
        ("features", UndeclaredLevel),
        ("level layer1", ChannelsFirst),
        ("level layer1", HalfPrecision),
        ("level layer1", MovedGeometry),
        ("finite", NanFeatures),
        ("inputs", ChangesImages),
        ("batches", NormalizesBatch),
        ("seed", Unseeded),
        ("generators, seed", GlobalWeights),
        ("generators", SeedsGlobally),
        ("state", HiddenState),
        ("blocks", ForgottenBlock),
        ("blocks", SharedBlock),
        ("blocks", StrangeBlock),
        ("blocks", NamedBlocks),
        ("blocks", ListOfBlocks),
        ("classify", Classes),
        ("split", SplitsTooLate),
        ("split", SplitsCopies),
        ("split", SplitsWithoutActivation),
        ("split", SplitsIntoOne),
        ("split", TrunkOfLevels),
        ("for_inference", FasterInPlace),
        ("for_inference", FasterInPrivate),
        ("for_inference", OtherFeatures),
        ("for_inference: build", FasterInTraining),
        ("for_inference: build", NothingFaster),
        ("for_inference", DropsZeroWeights),
        ("for_inference", CannotBeLoaded),
    ],
)
def test_broken_extractor_trips(checks, broken):
    trips(checks, lambda: check_extractor(broken))


@pytest.mark.parametrize("honest", [TinyExtractor, Grays, Faster])
def test_honest_extractor_passes(honest):
    check_extractor(honest)


def test_extractor_may_say_that_its_weights_have_no_classifier():
    class Headless(TinyExtractor):
        def classify(self, images):
            raise UserError("extractor.weights: expected a classifier, found none: use other weights")

    check_extractor(Headless)


def test_what_the_guard_refuses_of_a_mode_hides_no_other_fault():
    class Both(InTraining):
        blocks = ForgottenBlock.blocks

    mode, blocks = failures(lambda: check_extractor(Both))
    assert mode.startswith("build: expected every module in evaluation mode, found layer2 in training mode")
    assert blocks == "blocks: expected every parameter in exactly one block, found none with layer2.weight, " + (
        "layer2.bias, head.weight, head.bias"
    )
