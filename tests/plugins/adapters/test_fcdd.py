from dataclasses import replace
from math import exp, log

import pytest
import torch
from adkit_plugins.adapters.fcdd import Fcdd, FcddParams, adkit_adapters
from adkit_plugins.scorers.logit import Logit, LogitParams

from adkit import UserError
from adkit.plugin import POOL, Context, Features, Geometry, See
from adkit.testing import FeatureStream, TinyExtractor, check_component, sample_images
from adkit.testing.samples import SIZE, stream_of
from tests.plugins.adapters.descents import losses_of_descent, nothing, prepared, step_of, through

ADDED = ["fcdd.layer1", "fcdd.layer2", "fcdd.pool"]


def adapter(**params):
    return Fcdd(FcddParams(**params), Context(image_size=SIZE))


def made(**levels):
    """Features of the added levels written out, of which a cell is one pixel of the masks."""
    geometry = {f"fcdd.{name}": Geometry((0.5, 0.5), (1.0, 1.0)) for name in levels}
    return Features({f"fcdd.{name}": torch.tensor(values)[..., None] for name, values in levels.items()}, geometry)


def reading(one, *levels):
    one._levels = tuple(f"fcdd.{name}" for name in levels)
    return one


@pytest.mark.parametrize(
    "params", [{}, {"masks": False}, {"channels": 1}, {"blocks": 1, "augmentations": ["confetti"]}]
)
def test_contract(params):
    check_component(adkit_adapters()[0], params)


def test_levels_are_added_after_those_of_the_extractor():
    extractor = adapter().extend(TinyExtractor())
    levels = extractor.levels
    assert list(levels) == ["layer1", "layer2", POOL, *ADDED]
    assert levels["fcdd.layer1"] == replace(levels["layer1"], channels=1)


def test_added_levels_are_pseudo_huber_norms_of_a_projection():
    extractor = adapter(channels=3).extend(TinyExtractor())
    (batch,) = sample_images(2)
    with torch.no_grad():
        found = through(extractor, batch.images)
        projected = found["layer2"].double() @ extractor.head.weights[1].double().T
        expected = (projected.square().sum(3) + 1).sqrt() - 1
    torch.testing.assert_close(found["fcdd.layer2"][..., 0].double(), expected, rtol=1e-5, atol=1e-7)


def test_the_mean_normal_feature_is_projected_to_zero():
    one = adapter()
    extractor = prepared(one)
    mean = stream_of(extractor, 2, SIZE).features["layer1"].mean((0, 1, 2))
    projected = extractor.head.weights[0] @ mean + extractor.head.biases[0]
    torch.testing.assert_close(projected, torch.zeros(128), rtol=0, atol=1e-6)


def test_loss_without_masks_by_hand():
    features = made(a=[[[1.0, 3.0]], [[1.0, 3.0]]], b=[[[1.0]], [[4.0]]])
    one = reading(adapter(masks=False), "a", "b")
    normal = one.loss(step_of(nothing(2)), features)
    assert {name: term.item() for name, term in normal.items()} == {"fcdd.a": 2.0 / 2, "fcdd.b": 2.5 / 2}
    mixed = one.loss(step_of(replace(nothing(2), labels=torch.tensor([0, 1]))), features)
    expected = {"fcdd.a": (2 - log(1 - exp(-2))) / 4, "fcdd.b": (1 - log(1 - exp(-4))) / 4}
    assert {name: term.item() for name, term in mixed.items()} == pytest.approx(expected, abs=1e-6)


def test_loss_with_masks_by_hand():
    """A cell that is changed is driven away by itself; at a level of one cell the image is."""
    features = made(a=[[[1.0, 3.0]]], b=[[[0.5]]])
    batch = replace(nothing(1), labels=torch.tensor([1]), masks=torch.tensor([[[True, False]]]))
    terms = reading(adapter(), "a", "b").loss(step_of(batch), features)
    expected = {"fcdd.a": (-log(1 - exp(-1)) + 3) / 4, "fcdd.b": -log(1 - exp(-0.5)) / 2}
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected, abs=1e-5)


def test_a_cell_that_is_changed_in_part_is_so_by_its_share():
    features = Features({"fcdd.a": torch.tensor([[[[2.0], [1.0]]]])}, {"fcdd.a": Geometry((1.0, 1.0), (2.0, 2.0))})
    masks = torch.tensor([[[True, False, False, False], [False, False, False, False]]])  # a quarter of the first cell
    batch = replace(nothing(1), labels=torch.tensor([1]), masks=masks)
    term = reading(adapter(), "a").loss(step_of(batch), features)["fcdd.a"]
    assert term.item() == pytest.approx((0.75 * 2 - 0.25 * log(1 - exp(-2)) + 1) / 2, abs=1e-6)


def test_cells_at_points_are_changed_where_they_lie():
    """Three columns at 0.5, 1.5 and 6.5, of which only the last is changed; evenly spaced, none would be there."""
    features = Features(
        {"fcdd.a": torch.tensor([[[[1.0], [1.0], [2.0]]] * 2])},
        {"fcdd.a": Geometry.at((0.5, 1.5), (0.5, 1.5, 6.5))},
    )
    masks = torch.zeros(1, 2, 8, dtype=torch.bool)
    masks[..., 5:] = True  # all that a cell of the mean width, 3, covers around 6.5
    term = reading(adapter(), "a").loss(step_of(replace(nothing(1), labels=torch.tensor([1]), masks=masks)), features)[
        "fcdd.a"
    ]
    assert term.item() == pytest.approx((1 + 1 - log(1 - exp(-2))) / 3, abs=1e-6)


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize("h", [0.0, 1e-30, 1e4])
def test_loss_and_gradient_are_finite(h, masks):
    values = torch.full((2, 2, 2, 1), h, requires_grad=True)
    features = Features({"fcdd.a": values}, {"fcdd.a": Geometry((0.5, 0.5), (1.0, 1.0))})
    where = torch.zeros(2, 2, 2, dtype=torch.bool)
    where[1] = True
    batch = replace(nothing(2), labels=torch.tensor([0, 1]), masks=where)
    term = reading(adapter(masks=masks), "a").loss(step_of(batch), features)["fcdd.a"]
    (gradient,) = torch.autograd.grad(term, values)
    assert term.isfinite() and gradient.isfinite().all()


def test_score_is_the_mean_over_locations_and_levels():
    one = reading(adapter(), "a", "b")
    assert one.score(made(a=[[[1.0, 3.0]]], b=[[[5.0]]])).tolist() == [3.5]


def test_the_scorer_logit_gives_the_same_score():
    one = adapter()
    extractor = prepared(one)
    scorer = Logit(LogitParams(aggregation="mean"), Context())
    scorer.fit(stream_of(extractor, 2, SIZE))
    features = stream_of(extractor, 7, SIZE).features
    torch.testing.assert_close(scorer.score(features).image, one.score(features))


def test_about_the_share_of_a_step_is_changed_and_labelled_and_masked():
    (normal,) = sample_images(60, size=(32, 32))
    batch = adapter(share=0.3).batch(step_of(normal))
    changed = (batch.images != normal.images).any(1)  # (n, H, W)
    assert torch.equal(changed.flatten(1).any(1), batch.labels == 1)
    assert 9 <= int(batch.labels.sum()) <= 27  # 18 ± 2.5 sd
    assert not (changed & ~batch.masks).any()
    assert batch.ids == normal.ids


def test_images_of_auxiliary_take_the_place_of_changed_ones():
    (normal,) = sample_images(40)
    (other,) = sample_images(30, seed=1)
    batch = adapter().batch(step_of(normal, None, other))
    taken = batch.labels == 1
    assert 5 < int(taken.sum()) < 25 and not taken[30:].any()
    assert torch.equal(batch.images[taken], other.images[taken[:30]])
    assert torch.equal(batch.images[~taken], normal.images[~taken])
    assert torch.equal(batch.masks, taken[:, None, None].expand_as(batch.masks))


def test_levels_that_were_joined_are_refused():
    one = adapter()
    extractor = one.extend(TinyExtractor())
    features = stream_of(extractor, 2, SIZE).features
    joined = Features(
        {"concat": features["layer1"], POOL: features[POOL]},
        {"concat": features.geometry["layer1"]} | {POOL: features.geometry[POOL]},
    )
    with pytest.raises(UserError) as error:
        one.prepare(See(extractor, FeatureStream(joined), None, None))
    assert str(error.value) == (
        "features.combine: expected the levels that adapter fcdd adds (fcdd.layer1, fcdd.layer2, fcdd.pool) to stay "
        'themselves, found concat, pool: set combine = "none"'
    )


@pytest.mark.parametrize("masks", [True, False])
def test_descent_reduces_the_loss(masks):
    one = adapter(masks=masks, augmentations=("confetti",))
    losses = losses_of_descent(one, prepared(one), rate=0.02)
    assert losses[-1] < 0.9 * losses[0]


def test_the_head_and_the_chosen_blocks_are_trained():
    one = adapter(blocks=("layer2",))
    extractor = prepared(one)
    trained = {id(parameter) for parameter in one.stages(extractor)[0].parameters}
    wanted = [*extractor.inner.layer2.parameters(), *extractor.head.parameters()]
    assert trained == {id(parameter) for parameter in wanted}


def test_the_head_starts_at_the_scale_of_the_features_mean_square():
    head = adapter(channels=4000).extend(TinyExtractor()).head
    values = torch.tensor([3.0, 0.0, 0.0, 0.0, 0.0, 0.0])  # of layer2's six channels
    assert (head.weights[1] @ values).square().sum().item() == pytest.approx(9 / 6, rel=0.1)
