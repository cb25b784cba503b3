"""The trainer: lengths, what a stopper's verdict does, rates and snapshots."""

import itertools
import math
from dataclasses import replace

import pytest
import torch

from adkit import UserError
from adkit.plugin import Group, Schedule, Stage, Step
from adkit.testing import TinyAdapter
from adkit.training.checkpoints import read_snapshot
from adkit.training.trainer import train
from tests.training.trainings import (
    BATCH,
    Scripted,
    TwoStages,
    images,
    interrupted,
    minibatches,
    quiet,
    same,
    task,
    weights,
)


def test_training_lowers_the_loss():
    class Far(TinyAdapter):
        def prepare(self, see):
            super().prepare(see)
            self._center = self._center + 1

    checks = train(task(Schedule(learning_rate=0.01, epochs=8, batch_size=BATCH), adapter=Far()), quiet).checks
    assert checks[0].loss is None
    assert checks[-1].loss < 0.5 * checks[1].loss


def test_only_what_the_stages_name_is_trained():
    one = task()
    before = weights(one)
    train(one, quiet)
    after = weights(one)
    assert {name for name in before if not torch.equal(before[name], after[name])} == {"layer2.weight", "layer2.bias"}


@pytest.mark.parametrize(
    ("length", "minibatches"), [({"epochs": 2}, 6), ({"epochs": 1.5}, 4), ({"minibatches": 7}, 7), ({"epochs": 0.1}, 1)]
)
def test_length(length, minibatches):
    done = []
    state = train(task(Schedule(batch_size=BATCH, **length)), done.append)
    assert state.checks[-1].minibatches == len(done) == minibatches


def test_the_stopper_looks_before_the_first_step_and_after_every_epoch():
    stopper = Scripted()
    train(task(Schedule(batch_size=BATCH, minibatches=7), stopper), quiet)
    assert [check.minibatches for check in stopper.asked] == [0, 3, 6, 7]
    assert [check.epochs for check in stopper.asked] == pytest.approx([0, 1, 2, 7 / 3])


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_a_relative_step_changes_weights_by_a_share_of_their_norm_whatever_the_loss(scale):
    class Scaled(TinyAdapter):
        def loss(self, step, features):
            return scale * super().loss(step, features)

    schedule = Schedule(learning_rate=0.01, momentum=0.0, relative_steps=True, minibatches=1, batch_size=BATCH)
    one = task(schedule, adapter=Scaled())
    trained = [name for name in one.extractor.state_dict() if name.startswith("layer2")]
    before = torch.cat([weights(one)[name].flatten() for name in trained])
    train(one, quiet)
    after = torch.cat([weights(one)[name].flatten() for name in trained])
    assert float((after - before).norm() / before.norm()) == pytest.approx(0.01, rel=1e-4)


class Noting(TinyAdapter):
    """Two groups, of which the second has a rate of its own; notes the rates that act."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def stages(self, extractor):
        blocks = extractor.blocks()
        return [Stage([Group(blocks["layer1"]), Group(blocks["layer2"], 0.4)])]

    def after_step(self, step, rates):
        self.seen.append(sorted(set(rates.values())))


@pytest.mark.parametrize(
    ("changes", "shares"),
    [
        ({}, [1, 1, 1, 1]),
        ({"rate_decay": "linear"}, [1, 3 / 4, 2 / 4, 1 / 4]),
        ({"rate_decay": "cosine"}, [1, (1 + 0.5**0.5) / 2, 1 / 2, (1 - 0.5**0.5) / 2]),
        ({"warmup": 1}, [1 / 2, 1, 1, 1]),
        ({"rate_decay": "linear", "warmup": 2}, [1 / 3, 2 / 3, 1, 1 / 2]),
        ({"warmup": 9}, [1 / 10, 2 / 10, 3 / 10, 4 / 10]),
    ],
    ids=str,
)
def test_learning_rates_rise_and_go_down(changes, shares):
    """Of four minibatches."""
    adapter = Noting()
    schedule = Schedule(learning_rate=0.1, momentum=0.0, minibatches=4, batch_size=BATCH, **changes)
    train(task(schedule, adapter=adapter), quiet)
    assert adapter.seen == [pytest.approx([share * rate for rate in (0.1, 0.4)]) for share in shares]


def test_relative_steps_go_where_the_gradient_points():
    steps = []
    for relative in (False, True):
        one = task(Schedule(learning_rate=1e-3, momentum=0.0, relative_steps=relative, minibatches=1, batch_size=BATCH))
        before = weights(one)["layer2.weight"]
        train(one, quiet)
        steps.append((weights(one)["layer2.weight"] - before).flatten())
    assert float(torch.nn.functional.cosine_similarity(*steps, dim=0)) == pytest.approx(1, abs=1e-3)


def test_every_image_is_seen_once_an_epoch():
    batches = list(itertools.islice(minibatches().since(0), 6))
    for epoch in (batches[:3], batches[3:]):
        assert sorted(name for batch in epoch for name in batch.ids) == sorted(images().ids)
    assert [batch.ids for batch in batches[:3]] != [batch.ids for batch in batches[3:]]


@pytest.mark.parametrize("first", range(7))
def test_images_go_on_where_they_were(first):
    whole = [batch.ids for batch in itertools.islice(minibatches().since(0), 9)]
    assert [batch.ids for batch in itertools.islice(minibatches().since(first), 9 - first)] == whole[first:]


def test_the_state_that_was_kept_last_is_gone_back_to():
    reference = task(Schedule(learning_rate=0.05, epochs=2, batch_size=BATCH))
    train(reference, quiet)
    one = task(stopper=Scripted(keep=(0, 2)))
    state = train(one, quiet)
    assert state.kept.minibatches == 6
    assert same(weights(one), weights(reference))


def test_where_none_was_kept_the_last_state_counts():
    reference, one = task(), task(stopper=Scripted())
    train(reference, quiet)
    train(one, quiet)
    assert same(weights(one), weights(reference))


def test_a_stopper_ends_it():
    state = train(task(stopper=Scripted(stop=2)), quiet)
    assert state.checks[-1].minibatches == 6
    assert state.ended == state.checks[-1].reason


def shown(stopper):
    lines = []
    state = train(replace(task(Schedule(epochs=1, batch_size=BATCH), stopper), say=lines.append), quiet)
    return state, lines


def test_without_a_stopper_a_check_shows_the_loss_alone():
    state, lines = shown(None)
    assert lines == [f"epoch 1, loss {state.checks[-1].loss:.6g}"]
    assert [check.reason for check in state.checks] == ["", ""]


def test_a_stopper_shows_its_reason_at_every_check():
    state, lines = shown(Scripted())
    before, after = state.checks
    assert lines == [f"epoch 0: {before.reason}", f"epoch 1, loss {after.loss:.6g}: {after.reason}"]


def test_a_loss_that_diverges_goes_back_to_what_was_kept():
    one = task(Schedule(learning_rate=1e30, epochs=4, batch_size=BATCH), Scripted(keep=(0,)))
    before = weights(one)
    state = train(one, quiet)
    assert same(weights(one), before)
    assert "went back to the state of minibatch 0" in state.ended


def test_a_loss_that_diverges_with_nothing_kept_is_refused():
    with pytest.raises(
        UserError, match=r"expected a finite loss, found (inf|nan) after .* lower training\.learning_rate"
    ):
        train(task(Schedule(learning_rate=1e30, epochs=4, batch_size=BATCH)), quiet)


def test_gradients_are_clipped():
    schedule = Schedule(learning_rate=0.5, momentum=0.0, clip_norm=1e-3, minibatches=1, batch_size=BATCH)
    one = task(schedule)
    before = weights(one)
    train(one, quiet)
    after = weights(one)
    moved = math.sqrt(sum(float((after[name] - before[name]).square().sum()) for name in before))
    assert moved == pytest.approx(0.5 * 1e-3, rel=1e-3)


def test_weight_decay_pulls_towards_zero():
    class Still(TinyAdapter):
        def loss(self, step, features):
            return 0 * super().loss(step, features)

    schedule = Schedule(learning_rate=0.1, momentum=0.0, weight_decay=0.5, minibatches=1, batch_size=BATCH)
    one = task(schedule, adapter=Still())
    before = weights(one)["layer2.weight"]
    train(one, quiet)
    torch.testing.assert_close(weights(one)["layer2.weight"], before * (1 - 0.1 * 0.5))


def test_terms_of_the_loss_are_summed_and_reported():
    class Terms(TinyAdapter):
        def loss(self, step, features):
            whole = super().loss(step, features)
            return {"first": 0.25 * whole, "second": 0.75 * whole}

    plain, one = task(), task(adapter=Terms())
    checks, looked = train(plain, quiet).checks, train(one, quiet).checks
    assert looked[1].terms["second"] == pytest.approx(3 * looked[1].terms["first"])
    assert looked[-1].loss == pytest.approx(checks[-1].loss, rel=1e-4)


def test_stages_follow_each_other():
    state = train(task(adapter=TwoStages(2, 3)), quiet)
    assert [check.minibatches for check in state.checks] == [0, 2, 5]


def test_a_stopper_judges_the_last_stage_alone():
    """It would end the training before its last stage, or go back to a state from before it."""
    stopper = Scripted()
    state = train(task(adapter=TwoStages(2, 3), stopper=stopper), quiet)
    assert [check.minibatches for check in state.checks] == [0, 2, 2, 5]
    assert [progress.minibatches for progress in stopper.asked] == [2, 5]


def test_a_stage_has_minibatches_of_its_own_size():
    done = []
    train(task(adapter=TwoStages(2, 3, batch_size=5)), done.append)
    assert done == [4, 4, 5, 5, 5]


def test_a_stage_may_train_on_auxiliary_images():
    class Noting(TwoStages):
        seen = ()

        def loss(self, step, features):
            self.seen = (*self.seen, (step.stage, len(step.batch), step.auxiliary and len(step.auxiliary)))
            return super().loss(step, features)

    adapter = Noting(2, 2, images="auxiliary")
    train(task(adapter=adapter, auxiliary=minibatches(3, "auxiliary")), quiet)
    assert adapter.seen == ((0, 4, 3), (0, 4, 3), (1, 3, None), (1, 3, None))


def test_an_adapter_that_reads_no_features_runs_the_extractor_itself():
    class Itself(TinyAdapter):
        reads_features = False
        given = ()

        def loss(self, step, features):
            self.given = (*self.given, len(features))
            return step.extractor.layer2(step.extractor.layer1(step.batch.images)).square().mean()

    one = task(Schedule(minibatches=2, batch_size=BATCH), None, Itself())
    before = weights(one)["layer2.weight"]
    train(replace(one, forward=None), quiet)
    assert one.adapter.given == (0, 0)
    assert not torch.equal(weights(one)["layer2.weight"], before)


def test_an_adapter_that_reads_no_images_is_given_no_auxiliary_ones():
    class Blind(TinyAdapter):
        reads_images = False
        others = ()

        def loss(self, step, features):
            self.others = (*self.others, step.auxiliary)
            return super().loss(step, features)

    adapter = Blind()
    train(task(Schedule(minibatches=2, batch_size=BATCH), None, adapter, auxiliary=minibatches(3)), quiet)
    assert adapter.others == (None, None)


def test_epochs_are_rounds_through_the_images_of_each_stage():
    checks = train(task(adapter=TwoStages(3, 4, batch_size=5)), quiet).checks
    assert [check.epochs for check in checks] == pytest.approx([0, 1, 2, 3])  # 3 of 4, 4, 2, then 2 × 5


def test_a_group_that_the_loss_does_not_depend_on_is_warned_of(caplog):
    class Idle(TinyAdapter):
        def stages(self, extractor):
            blocks = extractor.blocks()
            return [Stage([Group(blocks["layer2"]), Group(blocks["classifier"])])]

    train(task(adapter=Idle()), quiet)
    (warning,) = caplog.messages
    assert warning.startswith("Idle: the loss does not depend on group 1 of stage adapt, which stays as it is")


def test_parameters_that_are_not_the_extractors_are_refused():
    class Foreign(TinyAdapter):
        def stages(self, extractor):
            return [Stage([Group([torch.nn.Parameter(torch.zeros(1))])])]

    with pytest.raises(ValueError, match="an adapter that trains a head extends the extractor"):
        train(task(adapter=Foreign()), quiet)


class Stepping(TinyAdapter):
    """Notes the rates that it is given after each step."""

    def prepare(self, see):
        super().prepare(see)
        self.rates = []

    def stages(self, extractor):
        weight, bias = extractor.blocks()["layer2"]
        return [Stage([Group([weight]), Group([bias], learning_rate=0.5)])]

    def after_step(self, step, rates):
        self.rates.append([rates[parameter] for parameter in step.extractor.blocks()["layer2"]])


def rates(**schedule):
    adapter = Stepping()
    train(task(Schedule(learning_rate=0.01, minibatches=1, batch_size=BATCH, **schedule), adapter=adapter), quiet)
    return adapter.rates[0]


def test_groups_step_at_rates_of_their_own():
    assert rates(momentum=0.0) == pytest.approx([0.01, 0.5])


def test_momentum_adds_up_to_a_larger_rate():
    assert rates(momentum=0.9) == pytest.approx([0.1, 5.0])


def test_adam_is_given_its_learning_rate():
    assert rates(optimizer="adam", clip_norm=1e-6) == pytest.approx([0.01, 0.5])


def test_what_clipping_takes_from_the_gradient_it_takes_from_the_rate():
    """By hand: the gradient of the first step, its norm, and the clip over it."""
    one = task()
    (batch,) = itertools.islice(one.normal.since(0), 1)
    one.extractor.requires_grad_(True)
    step = Step(one.extractor, batch, None, 0, 0, torch.Generator())
    found = torch.autograd.grad(one.adapter.loss(step, one.features(batch.images)), one.extractor.blocks()["layer2"])
    norm = float(torch.cat([gradient.flatten() for gradient in found]).norm())
    assert rates(momentum=0.0, clip_norm=norm / 4) == pytest.approx([0.01 / 4, 0.5 / 4], rel=1e-4)


def test_what_an_adapter_changes_after_a_step_stays():
    class Halving(Stepping):
        def after_step(self, step, rates):
            step.extractor.layer2.weight.mul_(0.5)

    plain, halving = task(Schedule(learning_rate=1e-9, minibatches=2, batch_size=BATCH), adapter=Stepping()), None
    halving = task(Schedule(learning_rate=1e-9, minibatches=2, batch_size=BATCH), adapter=Halving())
    train(plain, quiet)
    train(halving, quiet)
    ratio = halving.extractor.layer2.weight / plain.extractor.layer2.weight
    assert torch.allclose(ratio, torch.tensor(0.25), rtol=1e-4)


def test_a_snapshot_is_kept_before_training_at_every_interval_and_at_the_end(tmp_path):
    schedule = Schedule(learning_rate=0.05, minibatches=8, batch_size=BATCH, snapshot_epochs=1)
    state = train(task(schedule), quiet, tmp_path)
    assert state.snapshots == [0, 3, 6, 8]


def test_a_snapshot_has_the_state_of_its_minibatch(tmp_path):
    train(task(Schedule(learning_rate=0.05, minibatches=6, batch_size=BATCH, snapshot_epochs=1)), quiet, tmp_path)
    shorter = task(Schedule(learning_rate=0.05, minibatches=3, batch_size=BATCH))
    train(shorter, quiet)
    kept = read_snapshot(tmp_path, 3)
    assert kept and same(kept, weights(shorter))


def test_a_killed_training_goes_on_with_its_snapshots(tmp_path):
    def make():
        return task(Schedule(learning_rate=0.05, minibatches=9, batch_size=BATCH, snapshot_epochs=1))

    whole = train(make(), quiet, tmp_path / "whole").snapshots
    _, state = interrupted(make, tmp_path / "killed", 5)
    assert state.snapshots == whole
    for at in whole:
        assert same(read_snapshot(tmp_path / "whole", at), read_snapshot(tmp_path / "killed", at))


class Straight(TinyAdapter):
    """Its loss is the sum of the trained weights, whose gradient is 1."""

    def loss(self, step, features):
        return sum(parameter.sum() for parameter in self.stages(step.extractor)[0].parameters)


EMA = Schedule(learning_rate=1.0, momentum=0.0, minibatches=3, batch_size=BATCH, ema_decay=0.5)


def trained_weights(one):
    return torch.cat([weights(one)[name].flatten() for name in weights(one) if name.startswith("layer2")])


def test_the_mean_of_the_weights_is_what_is_left():
    """Weights go down by 0, 1, 2, 3; their mean by 0, 1/2, (1/2 + 2) / 2 and (5/4 + 3) / 2."""
    one = task(EMA, adapter=Straight())
    before = trained_weights(one)
    train(one, quiet)
    assert trained_weights(one) - before == pytest.approx(torch.full_like(before, -17 / 8), abs=1e-5)


def test_a_stopper_sees_and_keeps_the_mean_of_the_weights():
    one = task(EMA)
    before, seen = trained_weights(one), []

    class Seeing(Scripted):
        def check(self, look):
            seen.append(float((trained_weights(one) - before).mean()))
            return super().check(look)

    one = task(EMA, Seeing(keep=(1,)), Straight(), one.extractor)
    train(one, quiet)
    assert seen == pytest.approx([0, -17 / 8], abs=1e-5)
    assert float((trained_weights(one) - before).mean()) == pytest.approx(-17 / 8, abs=1e-5)


def test_snapshots_are_of_the_mean_of_the_weights(tmp_path):
    one = task(replace(EMA, snapshot_epochs=1 / 3), adapter=Straight())
    before = trained_weights(one)
    train(one, quiet, tmp_path)
    means = [
        float((torch.cat([tensor.flatten() for tensor in read_snapshot(tmp_path, number).values()]) - before).mean())
        for number in range(4)
    ]
    assert means == pytest.approx([0, -1 / 2, -5 / 4, -17 / 8], abs=1e-5)


def test_what_is_not_trained_is_left_alone_by_the_mean():
    one = task(replace(EMA, ema_decay=0.9), adapter=Straight())
    before = weights(one)
    train(one, quiet)
    after = weights(one)
    assert {name for name in before if not torch.equal(before[name], after[name])} == {"layer2.weight", "layer2.bias"}
