"""The trainer: lengths, what a stopper's verdict does, and going on after a kill with the same bits."""

import itertools
import math

import pytest
import torch

import adkit.training
from adkit import Batch, Context, Group, Schedule, Stage, UserError, Verdict
from adkit.features import FeaturesTable, FeatureTransform
from adkit.inference import Embedding
from adkit.minibatches import Pictures
from adkit.testing import TinyAdapter, TinyExtractor
from adkit.testing.samples import SIZE, pictures, stream_of
from adkit.training import Lesson, train

CONTEXT = Context(image_size=SIZE)
COUNT, BATCH = 10, 4  # three minibatches an epoch, the last one of two pictures


class Scripted:
    """Keeps the state of the looks named, and stops at one of them."""

    def __init__(self, keep=(), stop=None):
        self.keep, self.stop, self.asked = keep, stop, []

    def check(self, progress, extractor, adapter, held_out, generator):
        look = len(self.asked)
        self.asked.append(progress)
        draw = float(torch.rand((), generator=generator))
        return Verdict(look in self.keep, look == self.stop, f"look {look} drew {draw}", draw)

    def state_dict(self):
        return {"asked": float(len(self.asked))}

    def load_state_dict(self, state):
        self.asked = [None] * int(state["asked"])


class TwoStages(TinyAdapter):
    """Trains one layer for so many minibatches, and then another."""

    def __init__(self, first, second):
        self.lengths = (first, second)

    def prepare(self, extractor, normal, auxiliary, scorer):
        super().prepare(extractor, normal, auxiliary, scorer)
        self.first = list(extractor.layer1.parameters())

    def stages(self):
        first, second = self.lengths
        return [
            Stage([Group(self.first)], minibatches=first, name="first"),
            Stage([Group(self._parameters)], minibatches=second, name="second"),
        ]


def images():
    (batch,) = pictures(COUNT, SIZE, seed=1)
    return batch


def minibatches(batch_size=BATCH, name="normal"):
    batch = images()

    def load(numbers):
        for first in range(0, len(numbers), batch_size):
            chosen = numbers[first : first + batch_size]
            yield Batch(batch.images[chosen], tuple(batch.ids[number] for number in chosen))

    return Pictures(load, COUNT, batch_size, CONTEXT, name)


def lesson(schedule=None, stopper=None, adapter=None, extractor=None):
    extractor = extractor or TinyExtractor()
    adapter = adapter or TinyAdapter()
    adapter.prepare(extractor, stream_of(extractor, 2, SIZE), None, None)
    transform = FeatureTransform(FeaturesTable(), extractor.levels, torch.Generator())
    return Lesson(
        extractor=extractor,
        embedding=Embedding(extractor, transform, CONTEXT),
        adapter=adapter,
        schedule=schedule or Schedule(learning_rate=0.05, epochs=4, batch_size=BATCH),
        stopper=stopper,
        pictures=minibatches(),
        auxiliary=None,
        held_out=[images()],
        context=CONTEXT,
    )


def weights(one):
    return {name: tensor.clone() for name, tensor in one.extractor.state_dict().items()}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def quiet(pictures):
    """Takes the count of pictures that are done."""


def test_training_lowers_the_loss():
    class Far(TinyAdapter):
        def prepare(self, extractor, normal, auxiliary, scorer):
            super().prepare(extractor, normal, auxiliary, scorer)
            self._center = self._center + 1

    looks = train(lesson(Schedule(learning_rate=0.01, epochs=8, batch_size=BATCH), adapter=Far()), quiet).looks
    assert looks[0].loss is None
    assert looks[-1].loss < 0.5 * looks[1].loss


def test_only_what_the_stages_name_is_trained():
    one = lesson()
    before = weights(one)
    train(one, quiet)
    after = weights(one)
    assert {name for name in before if not torch.equal(before[name], after[name])} == {"layer2.weight", "layer2.bias"}


@pytest.mark.parametrize(
    ("length", "minibatches"), [({"epochs": 2}, 6), ({"epochs": 1.5}, 4), ({"minibatches": 7}, 7), ({"epochs": 0.1}, 1)]
)
def test_length(length, minibatches):
    done = []
    course = train(lesson(Schedule(batch_size=BATCH, **length)), done.append)
    assert course.looks[-1].minibatches == len(done) == minibatches


def test_the_stopper_looks_before_the_first_step_and_after_every_epoch():
    stopper = Scripted()
    train(lesson(Schedule(batch_size=BATCH, minibatches=7), stopper), quiet)
    assert [look.minibatches for look in stopper.asked] == [0, 3, 6, 7]
    assert [look.epochs for look in stopper.asked] == pytest.approx([0, 1, 2, 7 / 3])


def test_every_picture_is_seen_once_an_epoch():
    batches = list(itertools.islice(minibatches().since(0), 6))
    for epoch in (batches[:3], batches[3:]):
        assert sorted(name for batch in epoch for name in batch.ids) == sorted(images().ids)
    assert [batch.ids for batch in batches[:3]] != [batch.ids for batch in batches[3:]]


@pytest.mark.parametrize("first", range(7))
def test_pictures_go_on_where_they_were(first):
    whole = [batch.ids for batch in itertools.islice(minibatches().since(0), 9)]
    assert [batch.ids for batch in itertools.islice(minibatches().since(first), 9 - first)] == whole[first:]


def test_the_state_that_was_kept_last_is_gone_back_to():
    reference = lesson(Schedule(learning_rate=0.05, epochs=2, batch_size=BATCH))
    train(reference, quiet)
    one = lesson(stopper=Scripted(keep=(0, 2)))
    course = train(one, quiet)
    assert course.kept.minibatches == 6
    assert same(weights(one), weights(reference))


def test_where_none_was_kept_the_last_state_counts():
    reference, one = lesson(), lesson(stopper=Scripted())
    train(reference, quiet)
    train(one, quiet)
    assert same(weights(one), weights(reference))


def test_a_stopper_ends_it():
    course = train(lesson(stopper=Scripted(stop=2)), quiet)
    assert course.looks[-1].minibatches == 6
    assert course.ended == course.looks[-1].reason


def test_a_loss_that_diverges_goes_back_to_what_was_kept():
    one = lesson(Schedule(learning_rate=1e30, epochs=4, batch_size=BATCH), Scripted(keep=(0,)))
    before = weights(one)
    course = train(one, quiet)
    assert same(weights(one), before)
    assert "went back to the state of minibatch 0" in course.ended


def test_a_loss_that_diverges_with_nothing_kept_is_refused():
    with pytest.raises(
        UserError, match=r"expected a finite loss, found (inf|nan) after .* lower training\.learning_rate"
    ):
        train(lesson(Schedule(learning_rate=1e30, epochs=4, batch_size=BATCH)), quiet)


def test_gradients_are_clipped():
    schedule = Schedule(learning_rate=0.5, momentum=0.0, clip_norm=1e-3, minibatches=1, batch_size=BATCH)
    one = lesson(schedule)
    before = weights(one)
    train(one, quiet)
    after = weights(one)
    moved = math.sqrt(sum(float((after[name] - before[name]).square().sum()) for name in before))
    assert moved == pytest.approx(0.5 * 1e-3, rel=1e-3)


def test_weight_decay_pulls_towards_zero():
    class Still(TinyAdapter):
        def loss(self, extractor, batch, features):
            return 0 * super().loss(extractor, batch, features)

    schedule = Schedule(learning_rate=0.1, momentum=0.0, weight_decay=0.5, minibatches=1, batch_size=BATCH)
    one = lesson(schedule, adapter=Still())
    before = weights(one)["layer2.weight"]
    train(one, quiet)
    torch.testing.assert_close(weights(one)["layer2.weight"], before * (1 - 0.1 * 0.5))


def test_terms_of_the_loss_are_summed_and_told():
    class Terms(TinyAdapter):
        def loss(self, extractor, batch, features):
            whole = super().loss(extractor, batch, features)
            return {"first": 0.25 * whole, "second": 0.75 * whole}

    plain, one = lesson(), lesson(adapter=Terms())
    looks, looked = train(plain, quiet).looks, train(one, quiet).looks
    assert looked[1].terms["second"] == pytest.approx(3 * looked[1].terms["first"])
    assert looked[-1].loss == pytest.approx(looks[-1].loss, rel=1e-4)


def test_stages_follow_each_other():
    course = train(lesson(adapter=TwoStages(2, 3), stopper=Scripted()), quiet)
    assert [look.minibatches for look in course.looks] == [0, 2, 5]


def test_parameters_that_are_not_the_extractors_are_refused():
    class Foreign(TinyAdapter):
        def stages(self):
            return [Stage([Group([torch.nn.Parameter(torch.zeros(1))])])]

    with pytest.raises(ValueError, match="an adapter that trains a head extends the extractor"):
        train(lesson(adapter=Foreign()), quiet)


# Going on after a kill ---------------------------------------------------------------------------------


class Killed(BaseException):
    pass


def killed_after(count):
    done = itertools.count(1)

    def advance(pictures):
        if next(done) == count:
            raise Killed

    return advance


def interrupted(make, folder, after):
    with pytest.raises(Killed):
        train(make(), killed_after(after), folder)
    one = make()
    return one, train(one, quiet, folder)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("after", [1, 2, 4, 5, 6, 7, 11, 12])
def test_killed_and_resumed_it_ends_with_the_same_bits(tmp_path, monkeypatch, optimizer, after):
    monkeypatch.setattr(adkit.training, "SAVE_EVERY", 2)

    def make():
        schedule = Schedule(optimizer, learning_rate=0.02, weight_decay=1e-3, epochs=4, batch_size=BATCH)
        return lesson(schedule, Scripted(keep=(1, 3)))

    whole = make()
    expected = train(whole, quiet, tmp_path / "whole")
    one, course = interrupted(make, tmp_path / "killed", after)
    assert same(weights(one), weights(whole))
    assert course.looks == expected.looks


def test_stages_resume_where_they_were(tmp_path, monkeypatch):
    monkeypatch.setattr(adkit.training, "SAVE_EVERY", 1)

    def make():
        return lesson(adapter=TwoStages(4, 4), stopper=Scripted(keep=(3,)))

    whole = make()
    expected = train(whole, quiet, tmp_path / "whole")
    for after in range(1, 8):
        one, course = interrupted(make, tmp_path / str(after), after)
        assert same(weights(one), weights(whole))
        assert course.looks == expected.looks


def test_what_a_kill_left_half_written_is_passed_over(tmp_path):
    def make():
        return lesson(stopper=Scripted(keep=(1,)))

    whole = make()
    train(whole, quiet, tmp_path / "whole")
    with pytest.raises(Killed):
        train(make(), killed_after(7), tmp_path / "killed")
    (tmp_path / "killed" / "tmp123abc").write_bytes(b"PK\x03\x04 half")
    one = make()
    train(one, quiet, tmp_path / "killed")
    assert same(weights(one), weights(whole))


def test_a_training_that_had_ended_is_not_begun_again(tmp_path):
    first = lesson(stopper=Scripted(keep=(1,), stop=2))
    train(first, quiet, tmp_path)
    done = []
    again = lesson(stopper=Scripted(keep=(1,), stop=2))
    course = train(again, done.append, tmp_path)
    assert same(weights(again), weights(first))
    assert course.looks[-1].minibatches == 6
    assert sum(done) == 6 * BATCH  # told as done, not done again


def test_a_checkpoint_that_a_power_cut_emptied_is_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr(adkit.training, "SAVE_EVERY", 1)

    def make():
        return lesson(stopper=Scripted(keep=(1,)))

    whole = make()
    train(whole, quiet, tmp_path / "whole")
    with pytest.raises(Killed):
        train(make(), killed_after(8), tmp_path / "killed")
    newest = max((tmp_path / "killed").glob("*.pt"), key=lambda path: int(path.stem.rpartition("_")[2]))
    newest.write_bytes(b"")
    one = make()
    train(one, quiet, tmp_path / "killed")
    assert same(weights(one), weights(whole))


def test_blocks_behind_the_levels_are_refused():
    class Behind(TinyAdapter):
        def prepare(self, extractor, normal, auxiliary, scorer):
            super().prepare(extractor, normal, auxiliary, scorer)
            self._parameters = list(extractor.head.parameters())

    with pytest.raises(UserError, match=r"adapter\.blocks: expected blocks that the levels are made of"):
        train(lesson(adapter=Behind()), quiet)
