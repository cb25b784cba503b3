import weakref

import pytest
import torch
from adkit_plugins.stoppers.vicinal import Vicinal, VicinalParams, adkit_stoppers
from pydantic import ValidationError
from sklearn.metrics import roc_auc_score

from adkit import UserError
from adkit.plugin import POOL, Batch, Context, Features, Geometry, Look, Progress
from adkit.testing import check_component
from adkit.toolkit.augment import vary

SIZE = (16, 16)
START = Progress(0, 0.0, None)


def features(images):
    """Each image as one descriptor: its own pixels."""
    return Features({POOL: images.flatten(1)[:, None, None]}, {POOL: Geometry.covering((1, 1), SIZE)})


class Scripted:
    """Scores pixels by a rule that a test may change."""

    def __init__(self, rule):
        self.rule = rule

    def score(self, features):
        return self.rule(features[POOL][:, 0, 0])


def unlike_its_first_pixel(pixels):
    """0 for an even image; more for one that anything was drawn on."""
    return (pixels - pixels[:, :1]).abs().amax(1)


def even(count, batch_size=4):
    """Images of one gray each, a little brighter than the one before."""
    levels = (torch.linspace(51, 204, count).round() / 255)[:, None, None, None].expand(-1, 3, *SIZE)
    return [
        Batch(levels[i : i + batch_size], tuple(f"even#{n}" for n in range(i, min(i + batch_size, count))))
        for i in range(0, count, batch_size)
    ]


def vicinal(seed=0, **params):
    return Vicinal(VicinalParams(**params), Context(seed=seed, image_size=SIZE))


def check(stopper, rule, held_out=None, seed=0, progress=START):
    return stopper.check(
        Look(progress, features, Scripted(rule), held_out or even(6), torch.Generator().manual_seed(seed))
    )


@pytest.mark.parametrize("params", [{}, {"redraw": True, "patience": 2}, {"augmentations": ["cutout"], "multiple": 2}])
def test_contract(params):
    check_component(adkit_stoppers()[0], {"multiple": 3} | params)


# The value ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cutout", "confetti"])
@pytest.mark.parametrize(("sign", "value"), [(1, 1.0), (-1, 0.0), (0, 0.5)])
def test_a_rule_that_sees_all_changes_has_1_its_opposite_0_and_a_blind_one_a_half(name, sign, value):
    verdict = check(vicinal(augmentations=(name,)), lambda pixels: sign * unlike_its_first_pixel(pixels))
    assert verdict.value == value


@pytest.mark.parametrize("augmentations", [("augmix",), ("cutout",), ("confetti",), ("augmix", "cutout", "confetti")])
@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_the_figure_is_that_of_scikit_learn_over_the_draws(augmentations, batch_size):
    held_out, rule = even(7, batch_size), lambda pixels: (pixels.mean(1) * 20).round()  # with many ties
    stopper = vicinal(augmentations=augmentations)
    draws = stopper.draw(7, Context().generator("vicinal"))
    images = torch.cat([batch.images for batch in held_out])
    normal = [image for image, times in zip(images, draws.normal.tolist(), strict=True) for _ in range(times)]
    changed = [
        (vary(name, images[image], torch.Generator().manual_seed(seed)).images * 255).round() / 255
        for image, changes in draws.changed.items()
        for name, seed in changes
    ]
    scores = rule(torch.stack(normal + changed).flatten(1))
    labels = [0] * len(normal) + [1] * len(changed)
    assert check(stopper, rule, held_out).value == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


def test_severity_is_that_of_augmix():
    mild, strong = (
        check(vicinal(augmentations=("augmix",), severity=severity, multiple=20), unlike_its_first_pixel).value
        for severity in (1, 10)
    )
    assert mild < strong


# The draws -----------------------------------------------------------------------------------------------


def counts(draws):
    return int(draws.normal.sum()), sum(len(changes) for changes in draws.changed.values())


@pytest.mark.parametrize(
    ("images", "multiple", "share", "expected"),
    [
        (40, 10, 0.7, (120, 280)),
        (7, 3, 0.5, (11, 10)),  # 10.5 is rounded to the even number
        (9, 10, 0.333, (60, 30)),
        (1, 2, 0.99, (1, 1)),
        (1, 2, 0.01, (1, 1)),
    ],
)
def test_exactly_the_share_is_changed_and_both_kinds_are_there(images, multiple, share, expected):
    assert counts(vicinal(share=share, multiple=multiple).draw(images, torch.Generator())) == expected


def test_images_are_drawn_with_replacement_and_equal_chance():
    draws = vicinal(multiple=10000).draw(5, torch.Generator().manual_seed(0))
    often = [len(draws.changed[image]) for image in range(5)]
    assert all(6600 < times < 7400 for times in often)  # 7000 ± 5 standard deviations of 75
    assert all(2750 < times < 3250 for times in draws.normal.tolist())


def test_augmentations_are_drawn_with_equal_chance():
    draws = vicinal(multiple=1000).draw(30, torch.Generator().manual_seed(0))
    names = [name for changes in draws.changed.values() for name, _ in changes]
    assert all(6650 < names.count(name) < 7350 for name in ("augmix", "cutout", "confetti"))  # of 21000


def test_each_draw_has_a_seed_of_its_own():
    draws = vicinal().draw(30, torch.Generator().manual_seed(0))
    seeds = [seed for changes in draws.changed.values() for _, seed in changes]
    assert len(set(seeds)) == len(seeds) == 210


def test_one_augmentation_alone_is_the_only_one_drawn():
    draws = vicinal(augmentations=("confetti",)).draw(9, torch.Generator())
    assert {name for changes in draws.changed.values() for name, _ in changes} == {"confetti"}


def seen(stopper, seed):
    """All images that one check takes through the extractor."""
    images = []

    def record(batch):
        images.append(batch)
        return features(batch)

    stopper.check(Look(START, record, Scripted(lambda p: p.mean(1)), even(6), torch.Generator().manual_seed(seed)))
    return torch.cat(images)


def test_every_check_sees_the_same_draws():
    stopper = vicinal()
    assert torch.equal(seen(stopper, seed=1), seen(stopper, seed=2))


@pytest.mark.parametrize(("room", "again"), [(2**30, 0), (0, 42), (42 * 3 * 16 * 16 // 2, None)])
def test_draws_are_made_once_as_far_as_there_is_room(monkeypatch, room, again):
    made = []

    def counting(*arguments):
        made.append(arguments)
        return vary(*arguments)

    monkeypatch.setattr("adkit_plugins.stoppers.vicinal.vary", counting)
    monkeypatch.setattr("adkit_plugins.stoppers.vicinal.KEPT", room)
    stopper = vicinal()
    first = seen(stopper, seed=0)
    assert len(made) == 42
    assert torch.equal(seen(stopper, seed=0), first)
    assert len(made) - 42 == again if again is not None else 0 < len(made) - 42 < 42


def test_another_seed_of_the_run_sees_other_draws():
    first, second = (seen(vicinal(seed), seed=1) for seed in (1, 2))
    assert first.shape != second.shape or not torch.equal(first, second)


def test_redrawn_every_check_sees_draws_of_its_own_generator():
    stopper = vicinal(redraw=True)
    first, second, again = (seen(stopper, seed) for seed in (1, 2, 1))
    assert torch.equal(first, again)
    assert first.shape != second.shape or not torch.equal(first, second)


def test_an_unchanged_image_goes_through_the_network_once_however_often_it_was_drawn():
    # Of 6 images 60 draws: 42 changed, and 18 unchanged that show 6 images at most.
    assert len(seen(vicinal(), seed=0)) <= 42 + 6


# Bounds --------------------------------------------------------------------------------------------------


def test_no_more_images_are_held_than_a_few_batches():
    alive, most = weakref.WeakSet(), 0

    def record(images):
        nonlocal most
        assert len(images) <= 4
        alive.add(images)
        most = max(most, len(alive))
        return features(images)

    vicinal().check(Look(START, record, Scripted(lambda pixels: pixels.mean(1)), even(24), torch.Generator()))
    assert most <= 2


def test_padding_is_not_drawn_on():
    batch = Batch(torch.zeros(4, 3, *SIZE), ("a", "b", "c", "d"), regions=torch.tensor([[4, 0, 12, 16]] * 4))
    outside = torch.ones(3, *SIZE, dtype=torch.bool)
    outside[:, 4:12] = False
    verdict = check(vicinal(), lambda pixels: pixels[:, outside.flatten()].abs().amax(1), [batch])
    assert verdict.value == 0.5  # whoever looks at the padding alone sees no difference


def test_without_images_it_says_so():
    with pytest.raises(UserError, match=r"^stopper\.validation: expected .* found none held out"):
        vicinal().check(Look(START, features, Scripted(unlike_its_first_pixel), [], torch.Generator()))


@pytest.mark.parametrize("augmentations", [(), ("mixup",), ("cutout", "cutout")])
def test_augmentations_are_those_that_there_are_each_once(augmentations):
    with pytest.raises(ValidationError):
        VicinalParams(augmentations=augmentations)


def test_it_holds_out_what_its_parameter_says():
    assert vicinal(validation=0.3).validation == 0.3


# The course ----------------------------------------------------------------------------------------------


def test_a_collapse_goes_back_to_the_starting_state_and_says_why():
    stopper = vicinal(augmentations=("confetti",), patience=2)
    rules = [unlike_its_first_pixel, lambda pixels: 0 * pixels[:, 0], lambda pixels: 0 * pixels[:, 0]]
    verdicts = [check(stopper, rule, progress=Progress(9 * n, float(n), None)) for n, rule in enumerate(rules)]
    assert [verdict.keep for verdict in verdicts] == [True, False, False]
    assert verdicts[-1].stop
    assert verdicts[-1].reason == (
        "validation AUROC 0.5 after epoch 2, best 1 before the first step, none better in 2 checks"
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_scores_that_are_not_finite_count_as_a_collapse(value):
    stopper = vicinal(augmentations=("confetti",))
    check(stopper, lambda pixels: 0 * pixels[:, 0])
    verdict = check(stopper, lambda pixels: pixels[:, 0] + value, progress=Progress(9, 1.0, None))
    assert (verdict.keep, verdict.value) == (False, None)
    assert verdict.reason == (
        "60 of 60 validation scores NaN or infinite after epoch 1, best 0.5 before the first step"
    )


def test_better_figures_are_kept():
    stopper = vicinal(augmentations=("confetti",))
    verdicts = [
        check(stopper, lambda pixels, sign=sign: sign * unlike_its_first_pixel(pixels)) for sign in (-1, 0, 0, 1)
    ]
    assert [verdict.value for verdict in verdicts] == [0.0, 0.5, 0.5, 1.0]
    assert [verdict.keep for verdict in verdicts] == [True, True, False, True]
