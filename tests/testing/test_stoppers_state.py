"""What ``check_stopper`` asks of held-out images, of the first check and of a stopper's memory."""

import time

import pytest
import torch

from adkit.plugin import Verdict
from adkit.testing import check_stopper
from tests.testing.components import Fixed, failures, trips


class Counting(Fixed):
    """Stops at its third check, and says which one it is."""

    def __init__(self):
        self.checks = 0

    def check(self, look):
        self.checks += 1
        return Verdict(keep=False, stop=self.checks == 3, reason=f"check {self.checks}")

    def state_dict(self):
        return {"checks": float(self.checks)}

    def load_state_dict(self, state):
        self.checks = int(state["checks"])


class Forgetful(Counting):
    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


class ForgetsInSilence(Counting):
    """What it forgets, no verdict of a short training shows."""

    def check(self, look):
        self.checks += 1
        return Verdict(keep=False, stop=self.checks == 300, reason="goes on")

    def load_state_dict(self, state):
        self.checks = 0


class KeepsWithoutState(Fixed):
    """Remembers the best loss, which no verdict of a short training shows, and gives no state."""

    def __init__(self):
        self.losses = []

    def check(self, look):
        self.losses.append(look.progress.loss)
        return super().check(look)


class ForgetsOneOfTwo(Counting):
    def __init__(self):
        super().__init__()
        self.bests = torch.zeros(2)

    def check(self, look):
        self.bests = self.bests + 1
        return super().check(look)


class KeepsTheLast(Fixed):
    """Honest: what it keeps is made anew at every check, or is no part of what it says."""

    def check(self, look):
        self.last, self.asked = look.progress.loss, time.perf_counter()
        self.shown = look
        return super().check(look)


class RemembersText(Counting):
    def state_dict(self):
        return {"checks": str(self.checks)}


class RemembersNothing(Counting):
    def state_dict(self):
        return None


class RefusesItsState(Counting):
    def load_state_dict(self, state):
        raise KeyError("check")


class NoState(Fixed):
    state_dict = None


class NeedsLoss(Fixed):
    def check(self, look):
        return Verdict(keep=False, stop=look.progress.loss > 1, reason="loss")


class DarkensImages(Fixed):
    validation = 0.2

    def check(self, look):
        for batch in look.held_out:
            batch.images.mul_(0.5)
        return super().check(look)


class HoldsOutAll(Fixed):
    validation = 1.0


class HoldsOutText(Fixed):
    validation = "0.2"


class NeedsImages(Fixed):
    """Looks at images that it did not ask for."""

    def check(self, look):
        next(iter(look.held_out))
        return super().check(look)


@pytest.mark.parametrize(
    ("checks", "broken"),
    [
        ("state", Forgetful),
        ("state", ForgetsInSilence),
        ("state_dict: checks", RemembersText),
        ("state_dict", RemembersNothing),
        ("load_state_dict", RefusesItsState),
        ("state_dict", NoState),
        ("check", NeedsLoss),
        ("check", NeedsImages),
        ("inputs", DarkensImages),
        ("validation", HoldsOutAll),
        ("validation", HoldsOutText),
    ],
)
def test_broken_memory_trips(checks, broken):
    trips(checks, lambda: check_stopper(broken))


@pytest.mark.parametrize("honest", [Counting, KeepsTheLast])
def test_stopper_that_remembers_passes(honest):
    check_stopper(honest)


@pytest.mark.parametrize(
    ("broken", "name"),
    [(Forgetful, "checks"), (ForgetsInSilence, "checks"), (KeepsWithoutState, "losses"), (ForgetsOneOfTwo, "bests")],
)
def test_what_is_lost_is_named_with_what_to_do(broken, name):
    assert failures(lambda: check_stopper(broken)) == [
        f"state: expected a stopper that goes on from its state to have the same {name}, found another {name}: give it "
        "by state_dict, and take it over in load_state_dict"
    ]


def test_held_out_images_can_be_walked_twice():
    class Twice(Fixed):
        validation = 0.2

        def check(self, look):
            walks = [sum(len(batch) for batch in look.held_out) for _ in range(2)]
            return Verdict(keep=False, stop=False, reason=f"{walks}", value=float(walks[0] - walks[1]))

    values = []

    class Recorded(Twice):
        def check(self, look):
            verdict = super().check(look)
            values.append((verdict.reason, verdict.value))
            return verdict

    check_stopper(Recorded)
    assert set(values) == {("[12, 12]", 0.0)}


def test_the_features_that_a_stopper_sees_have_no_gradients():
    class Asks(Fixed):
        validation = 0.2

        def check(self, look):
            scores = look.adapter.score(look.extractor(next(iter(look.held_out)).images))
            assert not scores.requires_grad
            return super().check(look)

    check_stopper(Asks)
