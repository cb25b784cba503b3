"""The stages that a run expects are those that come."""

import pytest

import adkit
from adkit.runner.ahead import WEIGHTS
from tests.data.categories import write_category
from tests.logs.logged import TRAINING
from tests.recipe.small import write_small
from tests.runner.test_resume import Watch, interrupt

PANDA = {"use": "panda", "blocks": 2}


class Expecting(Watch):
    """Notes what was expected, and how many images were done of each stage."""

    def __init__(self):
        super().__init__()
        self.ahead = []

    def expect(self, ahead):
        self.ahead = [one for one in ahead if one.images]
        super().expect(ahead)


@pytest.mark.parametrize(
    "tables",
    [
        {},
        {"threshold": {"method": "cross", "folds": 3}},
        {"run": {"folds": 2}},
        {"run": {"folds": 2, "fold_members": True}},
        {"run": {"folds": 2, "fold_test": True}},
        {"adapter": PANDA, "training": TRAINING},
        {"adapter": PANDA, "training": TRAINING, "run": {"folds": 2}},
        {"adapter": PANDA, "training": TRAINING, "scorer": {"use": "knn", "k": 1, "fit": "initial"}},
        {"adapter": {"use": "mahalanobis"}, "training": TRAINING, "scorer": {"use": "gaussian"}},
        {"adapter": {"use": "ses", "blocks": 2}, "training": TRAINING},
    ],
    ids=str,
)
def test_the_stages_that_are_expected_come_in_their_order(tmp_path, tables):
    recipe = write_small(tmp_path)
    recipe["extractor"]["levels"] = ["layer4"]
    recipe |= {name: (recipe[name] if name == "run" else {}) | table for name, table in tables.items()}
    watch = Expecting()
    adkit.run(recipe, display=watch)
    came = [name for name, _ in watch.stages if name in {*WEIGHTS, "adapt", "trace"} and name != "synthetic"]
    assert [one.name for one in watch.ahead] == came


@pytest.mark.parametrize("stopper", [None, {"use": "plateau"}])
def test_a_training_counts_every_image_of_its_length_which_a_stopper_may_cut(tmp_path, stopper):
    recipe = write_small(tmp_path, adapter=PANDA, training=TRAINING, **({"stopper": stopper} if stopper else {}))
    recipe["extractor"]["levels"] = ["layer4"]
    watch = Expecting()
    adkit.run(recipe, display=watch)
    (adapt,) = (one for one in watch.ahead if one.name == "adapt")
    assert adapt.images == 12 * 4
    assert adapt.at_most == (stopper is not None)


def test_of_a_run_that_goes_on_only_what_is_left_is_expected(tmp_path):
    recipe = write_small(tmp_path)
    write_category(tmp_path / "data" / "waves")
    interrupt(recipe, "fit", "waves")
    watch = Expecting()
    adkit.run(recipe, display=watch, interrupted="resume")
    assert {one.subject for one in watch.ahead} == {"waves"}
