"""A stage that depends on no normal image is trained once, and its outcome is that of training it again."""

from __future__ import annotations

from dataclasses import replace

import pytest

import adkit.training.trainer
from adkit.errors import PluginError
from adkit.plugin import Group, Schedule, Stage
from adkit.plugin.checks import check_stages
from adkit.testing import TinyAdapter, TinyExtractor
from adkit.toolkit.cache import cache_folder
from adkit.training.trainer import train
from tests.training.trainings import BATCH, CONTEXT, Scripted, interrupted, minibatches, quiet, same, task, weights


class Shared(TinyAdapter):
    """Trains one layer on auxiliary images, for all, and then another on normal ones; its loss has a factor."""

    def __init__(self, factor=1.0, shared=True, length=4):
        super().__init__()
        self.factor, self.shared, self.length, self.steps = factor, shared, length, []

    def stages(self, extractor):
        blocks = extractor.blocks()
        return [
            Stage([Group(blocks["layer1"])], self.length, 3, "auxiliary", "first", self.shared),
            Stage([Group(blocks["layer2"])], 4, name="second"),
        ]

    def loss(self, step, features):
        self.steps.append(step.stage)
        return self.factor * super().loss(step, features)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ADKIT_CACHE", str(tmp_path / "cache"))


def made(adapter, images=None, **others):
    schedule = Schedule(learning_rate=0.05, minibatches=4, batch_size=BATCH)
    return task(schedule, None, adapter, auxiliary=images or minibatches(2, "auxiliary"), **others)


def trained(adapter, **others):
    """How often each stage stepped, the weights and the checks."""
    one = made(adapter, **others)
    state = train(one, quiet)
    return [adapter.steps.count(stage) for stage in (0, 1)], weights(one), state.checks


def kept():
    return len(list((cache_folder() / "stages").glob("*.safetensors")))


def test_the_second_training_takes_the_stage_from_the_first():
    steps, first, checks = trained(Shared())
    again, second, looked = trained(Shared())
    plain, third, expected = trained(Shared(shared=False))
    assert (plain, steps) == ([4, 4], [5, 4])  # one more, to see what the loss is
    assert again == [1, 4]
    assert same(first, second)
    assert same(first, third)
    assert checks == looked == expected


@pytest.mark.parametrize(
    "other",
    [
        lambda: made(Shared(factor=1.5)),
        lambda: made(Shared(length=5)),
        lambda: made(Shared(), about="another adapter"),
        lambda: made(Shared(), extractor=TinyExtractor(seed=1)),
        lambda: replace(made(Shared()), context=replace(CONTEXT, seed=1)),
        lambda: replace(made(Shared()), schedule=Schedule(learning_rate=0.1, minibatches=4, batch_size=BATCH)),
        lambda: made(Shared(), minibatches(2, "auxiliary", darker=1)),
    ],
    ids=["loss", "length", "adapter", "weights", "seed", "rate", "images"],
)
def test_what_it_depends_on_makes_it_another_one(other):
    trained(Shared())
    train(other(), quiet)
    assert kept() == 2


@pytest.mark.parametrize("darker", [1, 1500, 2000])
def test_each_of_many_images_makes_it_another_one(darker):
    for number in (None, darker):
        trained(Shared(), images=minibatches(2, "auxiliary", darker=number, count=2001))
    assert kept() == 2


def test_a_killed_stage_goes_on_and_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(adkit.training.trainer, "SAVE_EVERY", 1)
    _, expected, checks = trained(Shared(shared=False))
    for after in range(1, 8):
        monkeypatch.setenv("ADKIT_CACHE", str(tmp_path / f"cache-{after}"))
        one, state = interrupted(lambda: made(Shared()), tmp_path / str(after), after)
        assert same(weights(one), expected)
        assert state.checks == checks
        assert kept() == 1
        assert same(trained(Shared())[1], expected)


def test_what_a_stopper_or_snapshots_look_into_is_not_shared():
    class Last(Shared):
        def stages(self, extractor):
            return super().stages(extractor)[:1]

    for one in (
        replace(made(Last()), stopper=Scripted()),
        replace(made(Shared()), schedule=Schedule(minibatches=4, batch_size=BATCH, snapshot_epochs=1)),
    ):
        train(one, quiet)
    assert not (cache_folder() / "stages").exists()


def test_a_stage_on_normal_images_is_never_shared():
    extractor = TinyExtractor()
    stage = Stage([Group(list(extractor.parameters()))], shared=True)
    with pytest.raises(
        PluginError, match=r'stage adapt: shared: expected True for a stage on "auxiliary" images alone'
    ):
        check_stages([stage], list(extractor.parameters()), "adapter mine")


def test_the_length_of_later_stages_does_not_matter():
    """Nor does their batch size, where the stage has its own."""
    trained(Shared())
    train(replace(made(Shared()), schedule=Schedule(learning_rate=0.05, minibatches=9, batch_size=3)), quiet)
    assert kept() == 1


def test_trainings_of_other_normal_images_share_it():
    trained(Shared())
    steps, *_ = trained(Shared(), normal=minibatches(4, "others"))
    assert steps == [1, 4]
