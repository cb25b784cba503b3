"""A training that was killed goes on to the same bits."""

import pytest

import adkit.training.trainer
from adkit import UserError
from adkit.errors import PluginError
from adkit.plugin import Group, Schedule, Stage
from adkit.testing import TinyAdapter
from adkit.training.checkpoints import CheckpointFolder
from adkit.training.trainer import train
from tests.training.trainings import (
    BATCH,
    Killed,
    Scripted,
    TwoStages,
    interrupted,
    killed_after,
    minibatches,
    quiet,
    same,
    task,
    weights,
)


def require_resumed_as_whole(make, folder, after):
    """A training that is interrupted and taken up again ends with the bits, and the checks, of one that is not."""
    whole = make()
    expected = train(whole, quiet, folder / "whole")
    one, state = interrupted(make, folder / "killed", after)
    assert same(weights(one), weights(whole))
    assert state.checks == expected.checks


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("after", [1, 2, 4, 5, 6, 7, 11, 12])
def test_killed_and_resumed_it_ends_with_the_same_bits(tmp_path, monkeypatch, optimizer, after):
    monkeypatch.setattr(adkit.training.trainer, "SAVE_EVERY", 2)

    def make():
        schedule = Schedule(optimizer, learning_rate=0.02, weight_decay=1e-3, epochs=4, batch_size=BATCH)
        return task(schedule, Scripted(keep=(1, 3)))

    require_resumed_as_whole(make, tmp_path, after)


def test_stages_resume_where_they_were(tmp_path, monkeypatch):
    monkeypatch.setattr(adkit.training.trainer, "SAVE_EVERY", 1)

    def make():
        return task(adapter=TwoStages(4, 4), stopper=Scripted(keep=(3,)))

    whole = make()
    expected = train(whole, quiet, tmp_path / "whole")
    for after in range(1, 8):
        one, state = interrupted(make, tmp_path / str(after), after)
        assert same(weights(one), weights(whole))
        assert state.checks == expected.checks


def test_what_a_kill_left_half_written_is_passed_over(tmp_path):
    def make():
        return task(stopper=Scripted(keep=(1,)))

    whole = make()
    train(whole, quiet, tmp_path / "whole")
    with pytest.raises(Killed):
        train(make(), killed_after(7), tmp_path / "killed")
    (tmp_path / "killed" / "tmp123abc").write_bytes(b"PK\x03\x04 half")
    one = make()
    train(one, quiet, tmp_path / "killed")
    assert same(weights(one), weights(whole))


def test_a_training_that_had_ended_is_not_begun_again(tmp_path):
    first = task(stopper=Scripted(keep=(1,), stop=2))
    train(first, quiet, tmp_path)
    done = []
    again = task(stopper=Scripted(keep=(1,), stop=2))
    state = train(again, done.append, tmp_path)
    assert same(weights(again), weights(first))
    assert state.checks[-1].minibatches == 6
    assert sum(done) == 6 * BATCH  # reported as done, not done again


def test_a_checkpoint_that_a_power_cut_emptied_is_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr(adkit.training.trainer, "SAVE_EVERY", 1)

    def make():
        return task(stopper=Scripted(keep=(1,)))

    whole = make()
    train(whole, quiet, tmp_path / "whole")
    with pytest.raises(Killed):
        train(make(), killed_after(8), tmp_path / "killed")
    newest = max((tmp_path / "killed").glob("*.pt"), key=lambda path: int(path.stem.rpartition("_")[2]))
    newest.write_bytes(b"")
    one = make()
    train(one, quiet, tmp_path / "killed")
    assert same(weights(one), weights(whole))


@pytest.mark.parametrize("after", [1, 2, 3, 7, 11])
def test_changing_rates_go_on_where_they_were(tmp_path, monkeypatch, after):
    monkeypatch.setattr(adkit.training.trainer, "SAVE_EVERY", 1)

    def make():
        return task(Schedule(learning_rate=0.05, epochs=4, batch_size=BATCH, rate_decay="cosine", warmup=4))

    whole = make()
    train(whole, quiet, tmp_path / "whole")
    one, _ = interrupted(make, tmp_path / "killed", after)
    assert same(weights(one), weights(whole))


@pytest.mark.parametrize("after", [1, 2, 3, 5, 8, 11])
@pytest.mark.parametrize("stopper", [None, {"keep": (1, 2)}, {"stop": 3}])
def test_a_mean_of_weights_goes_on_where_it_was(tmp_path, monkeypatch, after, stopper):
    monkeypatch.setattr(adkit.training.trainer, "SAVE_EVERY", 1)

    def make():
        schedule = Schedule(learning_rate=0.05, epochs=4, batch_size=BATCH, ema_decay=0.9)
        return task(schedule, None if stopper is None else Scripted(**stopper), TwoStages(4, 8))

    require_resumed_as_whole(make, tmp_path, after)


def test_a_training_that_was_stopped_has_its_mean_again(tmp_path):
    schedule = Schedule(learning_rate=0.05, epochs=4, batch_size=BATCH, ema_decay=0.9)
    first, again = (task(schedule, Scripted(stop=2)) for _ in range(2))
    train(first, quiet, tmp_path)
    train(again, quiet, tmp_path)
    assert same(weights(again), weights(first))


@pytest.mark.parametrize("after", range(1, 8))
def test_stages_of_several_sizes_and_images_resume_where_they_were(tmp_path, monkeypatch, after):
    monkeypatch.setattr(adkit.training.trainer, "SAVE_EVERY", 1)

    def make():
        adapter = TwoStages(4, 4, batch_size=3, images="auxiliary")
        return task(adapter=adapter, stopper=Scripted(keep=(3,)), auxiliary=minibatches(2, "auxiliary"))

    require_resumed_as_whole(make, tmp_path, after)


class Behind(TinyAdapter):
    def stages(self, extractor):
        return [Stage([Group(list(extractor.head.parameters()))])]


def test_blocks_behind_the_levels_are_refused():
    with pytest.raises(UserError, match=r"adapter\.blocks: expected blocks that the levels are made of"):
        train(task(adapter=Behind(), tunes_blocks=True), quiet)


def test_a_loss_without_a_gradient_is_the_fault_of_an_adapter_that_chooses_what_it_trains():
    with pytest.raises(PluginError, match=r"loss: expected a scalar that gradients flow through .*without detach"):
        train(task(adapter=Behind()), quiet)


def test_checkpoints_that_take_longer_than_epochs_are_left_out_but_for_the_first_and_the_last(tmp_path, monkeypatch):
    monkeypatch.setattr(adkit.training.trainer, "SPARING", 1e12)
    written = []
    monkeypatch.setattr(CheckpointFolder, "__call__", lambda self, saved, name, meta=None: written.append(name))
    train(task(stopper=Scripted(stop=3)), quiet, tmp_path)
    assert [int(name.rpartition("_")[2].removesuffix(".pt")) for name in written] == [3, 9]
