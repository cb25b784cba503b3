"""``[scorer] levels``: which levels a scorer reads."""

import numpy as np
import pytest

import adkit
from adkit import Detector, UserError
from adkit.cli.check import check
from tests.recipe.small import write_small

WHOLE = ["layer1", "layer2", "pool"]


def scores_of(folder, **tables):
    recipe = write_small(folder)
    recipe["extractor"] |= tables["extractor"]
    recipe["scorer"] = tables.get("scorer", recipe["scorer"])
    report = adkit.run(recipe)
    images = sorted((folder / "data").glob("stripes/test/*/*.png"))
    return Detector.load(report.folder).predict(images).scores


@pytest.mark.parametrize("scorer", [{"use": "knn", "k": 1}, {"use": "gaussian"}, {"use": "center"}])
def test_a_scorer_of_some_levels_scores_as_if_there_were_no_others(tmp_path, scorer):
    few = scores_of(tmp_path / "few", extractor={"levels": ["layer2"]}, scorer=scorer)
    some = scores_of(tmp_path / "some", extractor={"levels": WHOLE}, scorer={**scorer, "levels": ["layer2"]})
    assert np.array_equal(few, some)


def test_without_the_key_it_reads_all(tmp_path):
    one = scores_of(tmp_path / "one", extractor={"levels": ["layer2"]})
    both = scores_of(tmp_path / "both", extractor={"levels": ["layer1", "layer2"]})
    assert not np.array_equal(one, both)


SENTENCE = "scorer.levels: expected levels of the features, found 'layer3' (did you mean layer1?): name some of layer1"


def test_a_level_that_is_not_there_is_found_by_check(small_recipe):
    small_recipe["extractor"]["levels"] = ["layer1"]
    small_recipe["scorer"]["levels"] = ["layer3"]
    with pytest.raises(UserError) as error:
        check(small_recipe)
    assert str(error.value) == SENTENCE


def test_the_levels_of_a_head_are_there_with_its_adapter_alone(small_recipe):
    small_recipe["extractor"]["levels"] = ["layer1"]
    small_recipe["adapter"] = {"use": "fcdd", "augmentations": ["cutout"]}
    small_recipe["training"] = {"minibatches": 1}
    small_recipe["scorer"] = {"use": "logit", "levels": ["fcdd.layer1"]}
    assert "in order" in check(small_recipe)
    small_recipe["scorer"]["levels"] = ["fcdd.layer2"]
    with pytest.raises(UserError, match=r"name some of layer1, fcdd\.layer1"):
        check(small_recipe)


def test_any_scorer_can_read_the_levels_of_a_head(small_recipe):
    small_recipe["extractor"]["levels"] = ["layer1"]
    small_recipe["adapter"] = {"use": "fcdd", "augmentations": ["cutout"]}
    small_recipe["training"] = {"minibatches": 1}
    small_recipe["scorer"] = {"use": "gaussian", "levels": ["fcdd.layer1"]}
    report = adkit.run(small_recipe)
    assert report.categories["stripes"].metrics["image_auroc"] is not None
