from dataclasses import replace
from math import exp, log
from pathlib import Path

import numpy as np
import pytest
import torch
from adkit_plugins.adapters.oe import Oe, OeParams, adkit_adapters
from adkit_plugins.scorers.logit import Logit, LogitParams
from sklearn.linear_model import LogisticRegression
from torch.nn.functional import binary_cross_entropy_with_logits

import adkit
from adkit import Detector, UserError
from adkit.plugin import POOL, Context, Features, Geometry, See
from adkit.testing import TinyExtractor, check_component, sample_images
from adkit.testing.samples import SIZE, stream_of
from tests.data.categories import write_category
from tests.plugins.adapters.descents import nothing, step_of, through

NEEDED = (
    "auxiliary: expected images that resemble the anomalies, which oe learns to tell from the normal ones, found "
    "none: add a table [auxiliary] with their format and root, or use an adapter that needs none, such as panda"
)


def adapter(**params):
    return Oe(OeParams(**params), Context(image_size=SIZE))


def prepared(one):
    extractor = one.extend(TinyExtractor())
    one.prepare(See(extractor, stream_of(extractor, 2, SIZE), stream_of(extractor, 3, SIZE), None))
    return extractor


def logits(*values, grad=False):
    level = torch.tensor(values).reshape(-1, 1, 1, 1).requires_grad_(grad)
    return Features({"logit": level}, {"logit": Geometry((0.5, 0.5), (1.0, 1.0))})


def labelled(*labels):
    return replace(nothing(len(labels)), labels=torch.tensor(labels))


@pytest.mark.parametrize("params", [{}, {"blocks": "all"}, {"blocks": ["layer1"]}])
def test_contract(params):
    check_component(adkit_adapters()[0], params)


def test_a_level_is_added_after_those_of_the_extractor():
    extractor = adapter().extend(TinyExtractor())
    assert list(extractor.levels) == ["layer1", "layer2", POOL, "logit"]
    assert (extractor.levels["logit"].channels, extractor.levels["logit"].grid) == (1, (1, 1))


def test_the_level_is_a_linear_function_of_the_levels_means():
    extractor = adapter().extend(TinyExtractor())
    weight = torch.randn(extractor.head.weight.shape, generator=torch.Generator().manual_seed(0))
    extractor.head.load_state_dict({"weight": weight, "bias": torch.tensor(0.5)})
    with torch.no_grad():
        found = extractor(sample_images(3)[0].images)
    means = torch.cat([found[name].double().mean((1, 2)) for name in ("layer1", "layer2", POOL)], 1)
    torch.testing.assert_close(found["logit"][:, 0, 0, 0].double(), means @ weight.double() + 0.5, rtol=1e-5, atol=1e-5)


def test_it_starts_where_every_image_is_as_likely_normal_as_not():
    extractor = adapter().extend(TinyExtractor())
    with torch.no_grad():
        assert extractor(sample_images(3)[0].images)["logit"].tolist() == [[[[0.0]]]] * 3


def test_loss_by_hand():
    """Normal −log(1 − σ(z)), others −log σ(z), and the mean over both."""
    terms = adapter().loss(step_of(labelled(0, 1, 0)), logits(1.0, 1.0, -2.0))
    expected = {"normal": (log(1 + exp(1)) + log(1 + exp(-2))) / 3, "auxiliary": log(1 + exp(-1)) / 3}
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected, abs=1e-6)


def test_loss_and_gradient_are_torchs():
    labels, features = labelled(0, 1, 1, 0), logits(0.3, -4.0, 2.0, 1.5, grad=True)
    ours = sum(adapter().loss(step_of(labels), features).values())
    theirs = binary_cross_entropy_with_logits(features["logit"].flatten(), labels.labels.float())
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(loss, features["logit"]) for loss in (ours, theirs)))


def test_loss_and_gradient_are_finite_far_out():
    features = logits(1e4, -1e4, 1e4, -1e4, grad=True)
    loss = sum(adapter().loss(step_of(labelled(0, 0, 1, 1)), features).values())
    (gradient,) = torch.autograd.grad(loss, features["logit"])
    assert loss.item() == 5000.0
    assert gradient.flatten().tolist() == [0.25, 0.0, 0.0, -0.25]


def test_images_without_labels_are_normal():
    terms = adapter().loss(step_of(nothing(1)), logits(1.0))
    assert terms["normal"].item() == pytest.approx(log(1 + exp(1))) and terms["auxiliary"].item() == 0


def test_a_step_sees_the_normal_images_and_then_the_others():
    (normal,), (other,) = sample_images(4), sample_images(3, seed=1)
    batch = adapter().batch(step_of(normal, None, other))
    assert torch.equal(batch.images, torch.cat([normal.images, other.images]))
    assert batch.labels.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert batch.ids == (*normal.ids, *other.ids)


def test_without_auxiliary_images_it_is_refused():
    one = adapter()
    extractor = one.extend(TinyExtractor())
    with pytest.raises(UserError) as error:
        one.prepare(See(extractor, stream_of(extractor, 2, SIZE), None, None))
    assert str(error.value) == NEEDED
    with pytest.raises(UserError) as error:
        one.batch(step_of(sample_images(2)[0]))
    assert str(error.value) == NEEDED


def test_the_head_and_the_last_block_are_trained():
    one = adapter()
    extractor = prepared(one)
    trained = {id(parameter) for parameter in one.stages(extractor)[0].parameters}
    last = extractor.inner.blocks()["layer2"]
    assert trained == {id(parameter) for parameter in (*last, *extractor.head.parameters())}


def test_the_score_is_the_logit_as_scorer_logit_has_it():
    one = adapter()
    extractor = prepared(one)
    torch.nn.init.normal_(extractor.head.weight, generator=torch.Generator().manual_seed(0))
    scorer = Logit(LogitParams(), Context())
    scorer.fit(stream_of(extractor, 2, SIZE))
    features = stream_of(extractor, 7, SIZE).features
    assert torch.equal(scorer.score(features).image, features["logit"].flatten())
    assert torch.equal(one.score(features), features["logit"].flatten())


def test_descent_tells_the_two_kinds_apart_and_moves_the_blocks():
    one = adapter(blocks="all")
    extractor = prepared(one)
    (normal,), (other,) = sample_images(6), sample_images(6, seed=1)
    other = replace(other, images=other.images / 2)
    batch = one.batch(step_of(normal, None, other))
    parameters = list(one.stages(extractor)[0].parameters)
    before = [parameter.clone() for parameter in parameters]
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.SGD(parameters, 0.1, momentum=0.9)
    for _ in range(60):
        loss = sum(one.loss(step_of(batch, extractor), through(extractor, batch.images)).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    scores = one.score(through(extractor, batch.images))
    assert loss.item() < 0.5 * log(2)
    assert scores[6:].min() > scores[:6].max()
    assert not torch.equal(before[0], parameters[0])


def test_it_separates_what_logistic_regression_separates():
    """With the blocks as they are, its minimum is scikit-learn's."""
    one = adapter()
    extractor = prepared(one)
    (normal,), (other,) = sample_images(20), sample_images(20, seed=1)
    batch = one.batch(step_of(normal, None, other))
    with torch.no_grad():
        given = through(extractor.inner, batch.images)
    head = extractor.head.double().requires_grad_(True)
    doubled = Features({name: level.double() for name, level in given.items()}, given.geometry)
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=500, line_search_fn="strong_wolfe", tolerance_grad=1e-9)

    def loss():
        optimizer.zero_grad()
        found = Features(head(doubled), {})
        value = sum(one.loss(step_of(batch, extractor), found).values()) + head.weight.square().sum() / 2 / 40
        value.backward()
        return value

    optimizer.step(loss)
    rows = torch.cat([level.mean((1, 2)) for level in doubled.values()], 1)
    theirs = LogisticRegression(C=1.0, tol=1e-8, max_iter=5000).fit(rows, batch.labels)
    np.testing.assert_allclose(head.weight.detach(), theirs.coef_[0], atol=1e-3)
    assert head.bias.item() == pytest.approx(theirs.intercept_[0], abs=1e-3)


# Whole runs --------------------------------------------------------------------------------------------


@pytest.fixture
def exposed(small_recipe, tmp_path):
    """Stripes with dark squares, others like them to learn from, and pretrained weights."""
    write_category(tmp_path / "other" / "stripes", train=1, good=0, bad=8, seed=9)
    small_recipe["extractor"] = {"use": "timm", "levels": ["pool"]}
    small_recipe["adapter"] = {"use": "oe", "blocks": ["blocks.6", "head"]}
    small_recipe["training"] = {"epochs": 6, "batch_size": 4, "clip_norm": 0.1}
    small_recipe["auxiliary"] = {"format": "folder", "root": str(tmp_path / "other/stripes/test"), "normal": "square"}
    small_recipe["scorer"] = {"use": "logit"}
    return small_recipe


@pytest.mark.slow
def test_images_like_the_anomalies_teach_what_an_anomaly_is(exposed, stripes):
    report = adkit.run(exposed)
    assert report.categories["stripes"].metrics["image_auroc"] == 1.0
    checks = report.categories["stripes"].trainings[0].checks
    assert checks[-1].loss < 0.1 * checks[1].loss and set(checks[1].terms) == {"normal", "auxiliary"}
    assert Path(report.folder, "detector").is_dir()


def test_a_detector_keeps_the_head(exposed, stripes):
    exposed["training"]["epochs"] = 1
    detector = Detector.load(adkit.run(exposed).folder, "cpu")
    found = detector.predict(sorted((stripes / "stripes" / "test").rglob("*.png")))
    assert len(set(found.scores.tolist())) == 6 and found.maps is None


def test_a_run_without_the_table_is_refused(exposed):
    del exposed["auxiliary"]
    with pytest.raises(UserError, match=r"auxiliary: expected images that resemble the anomalies"):
        adkit.run(exposed)
