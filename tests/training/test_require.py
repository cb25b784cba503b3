"""What a scorer cannot be fitted with is refused before anything is trained, and by `adkit check`."""

from __future__ import annotations

from typing import Any

import pytest

import adkit
from adkit import UserError
from adkit.cli.check import check
from adkit.utils.progress import Display

POOLED = {"use": "timm", "backbone": "test_resnet", "weights": "none", "levels": ["pool"]}
BOTH = POOLED | {"levels": ["pool", "layer1"]}  # 16 × 16 cells
TRAINED = {"adapter": {"use": "panda", "blocks": 1}, "training": {"batch_size": 2, "minibatches": 1}}
"""An adapter, which would be trained first."""
COUNT = "the number of normal features of level pool"


class Stages(Display):
    """Notes the stages that are begun."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.begun: list[str] = []

    def stage(self, name: str, subject: str, total: int | None = None) -> Any:
        self.begun.append(name)
        return super().stage(name, subject, total)


@pytest.mark.parametrize(
    ("extractor", "scorer", "sentence"),
    [
        (POOLED, {"use": "knn", "k": 7}, f"scorer.k: expected at most 6, {COUNT}, found 7"),
        (POOLED, {"use": "whitening", "k": 7}, f"scorer.k: expected at most 6, {COUNT}, found 7"),
        (BOTH, {"use": "spade", "k": 7}, "scorer.k: expected at most 6, the number of normal images, found 7"),
        (
            BOTH,
            {"use": "spade", "k": 2, "retrieve": 2, "kappa": 513},  # 2 images of 256 cells
            "scorer.kappa: expected at most 512, the number of normal features that a location of layer1 is compared "
            "with, found 513",
        ),
        (
            POOLED,
            {"use": "gaussian", "reduction": "pca", "components": 10_000},
            "scorer.components: expected at most 96, the number of channels of level pool, found 10000",
        ),
        (POOLED, {"use": "logit"}, "scorer.use: logit reads levels of one channel"),
        (POOLED, {"use": "glance"}, "scorer.use: glance reads the levels local, global, mismatch"),
        (POOLED, {"use": "knn", "reweight": 7}, f"scorer.reweight: expected at most 6, {COUNT}, found 7"),
    ],
    ids=lambda value: value.get("use") if isinstance(value, dict) else None,
)
def test_it_is_refused_before_the_training(small_recipe, extractor, scorer, sentence) -> None:
    """Of eight normal images, a quarter calibrates."""
    del small_recipe["localizer"]
    small_recipe |= {"extractor": extractor, "scorer": scorer, **TRAINED}
    display = Stages()
    with pytest.raises(UserError) as caught:
        adkit.run(small_recipe, display=display)
    assert str(caught.value).startswith(sentence)
    assert display.begun == ["data", "weights"]
    with pytest.raises(UserError, match=r"^scorer\."):
        check(small_recipe)


@pytest.mark.parametrize(
    ("tables", "most"),
    [
        ({}, 6),
        ({"threshold": {"method": "cross", "folds": 3}}, 5),  # of 8 images, the largest fold of 3
        ({"run": {"folds": 2}}, 3),  # of 6
        ({"run": {"folds": 2, "fold_test": True}}, 5),  # of 8 and 3 good ones of the test, before calibration
    ],
    ids=str,
)
def test_folds_are_not_fitted_on(small_recipe, tables, most) -> None:
    del small_recipe["localizer"]
    small_recipe["run"] |= tables.get("run", {})
    small_recipe |= {"extractor": POOLED, "threshold": tables.get("threshold", {})}
    check(small_recipe | {"scorer": {"use": "knn", "k": most}})
    with pytest.raises(UserError, match=rf"scorer\.k: expected at most {most}, .* found {most + 1}"):
        check(small_recipe | {"scorer": {"use": "knn", "k": most + 1}})
