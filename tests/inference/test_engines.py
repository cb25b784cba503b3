"""The engines, with scripted extractors and scorers of a few lines instead of networks."""

import gc
import weakref

import pytest
import torch
from ignite.engine import Engine

from adkit import UserError
from adkit.inference.engines import ImageStream, outputs
from adkit.inference.pipeline import Embedding, Member, Pipeline
from adkit.metrics import PixelMetrics
from adkit.plugin import Batch, Context, Features, Geometry, Level, Scores
from adkit.runner.evaluate import Scored, create_evaluator, shown_pixels, to_metric_grid
from adkit.toolkit.features import FeaturesTable, FeatureTransform

LEVEL = Level(3, (2, 2), Geometry.covering((2, 2), (4, 4)))


class Colors:
    """The mean color of each quarter of an image."""

    levels = {"color": LEVEL}

    def __call__(self, images):
        cells = torch.nn.functional.adaptive_avg_pool2d(images, 2).permute(0, 2, 3, 1)  # (n, 2, 2, 3)
        return Features({"color": cells}, {"color": LEVEL.geometry})


class Red:
    """Scores how red each cell is."""

    def score(self, features):
        cells = features["color"][..., 0]
        return Scores(cells.amax((1, 2)), {"color": cells}, dict(features.geometry))


class Nearest:
    def localize(self, scores, size):
        return torch.nn.functional.interpolate(scores.maps["color"][:, None], size)[:, 0]


def batch(*reds, **targets):
    images = torch.zeros(len(reds), 3, 4, 4)
    images[:, 0] = torch.tensor(reds)[:, None, None]
    return Batch(images, tuple(f"{red}.png" for red in reds), **targets)


def embedding():
    transform = FeatureTransform(FeaturesTable(), Colors.levels, torch.Generator())
    return Embedding(Colors(), transform, Context())


def stream(batches):
    return ImageStream(lambda: batches, lambda: sum(map(len, batches)), [embedding()], lambda images: None)


def test_outputs_come_in_order():
    assert list(outputs(Engine(lambda engine, item: 2 * item), [1, 2, 3])) == [2, 4, 6]


def test_outputs_of_nothing_are_nothing():
    assert list(outputs(Engine(lambda engine, item: item), [])) == []


def test_outputs_pull_one_item_at_a_time():
    pulled = []

    def items():
        for item in range(3):
            pulled.append(item)
            yield item

    pull = outputs(Engine(lambda engine, item: item), items())
    assert next(pull) == 0
    assert pulled == [0]


def test_outputs_keep_no_output_alive():
    class Output:
        pass

    alive: list[weakref.ref[Output]] = []

    def step(engine, item):
        output = Output()
        alive.append(weakref.ref(output))
        return output

    for output in outputs(Engine(step), range(3)):
        del output
        gc.collect()
        assert [reference() for reference in alive] == [None] * len(alive)


def test_an_error_in_the_data_reaches_the_caller():
    def items():
        yield 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(outputs(Engine(lambda engine, item: item), items()))


def test_stream_walks_twice_with_equal_features():
    images = stream([batch(0.25, 0.5), batch(0.75)])
    first, second = ([features["color"].unique().tolist() for features in images] for _ in range(2))
    assert first == second == [[0, 0.25, 0.5], [0, 0.75]]  # green and blue are 0


def test_a_stream_holds_no_features_that_its_consumer_let_go_of():
    images = iter(stream([batch(0.25), batch(0.75)]))
    color = weakref.ref(next(images)["color"])
    assert color() is None


def test_stream_reports_every_image_as_progress():
    done = []
    images = ImageStream(lambda: [batch(0.1, 0.2), batch(0.3)], lambda: 3, [embedding()], done.append)
    list(images)
    assert done == [2, 1]


def test_nan_feature_names_level_and_image():
    with pytest.raises(UserError, match=r"level 'color' of image nan\.png: expected finite values, found NaN"):
        list(stream([batch(0.5, float("nan"))]))


def test_evaluator_scores_each_image():
    detector = Pipeline([Member(embedding(), Red())], Nearest())
    judged = next(outputs(create_evaluator(detector, 4, (4, 4), peaks=False), stream([batch(0.25, 0.5)]).embedded()))
    assert judged.scores.tolist() == [0.25, 0.5]


def test_evaluator_makes_maps_only_for_masks():
    detector = Pipeline([Member(embedding(), Red())], Nearest())
    plain = next(outputs(create_evaluator(detector, 4, (4, 4), peaks=False), stream([batch(0.5)]).embedded()))
    masks = torch.zeros(1, 8, 8, dtype=torch.bool)
    images = stream([batch(0.5, masks=masks)])
    masked = next(outputs(create_evaluator(detector, 8, (4, 4), peaks=False), images.embedded()))
    assert plain.maps is None
    assert masked.maps.shape == (1, 8, 8)


@pytest.mark.parametrize(("regions", "peak"), [(None, 1.0), (torch.tensor([[0, 0, 4, 2]]), 0.25)])
def test_the_highest_value_of_a_map_is_that_of_the_part_that_shows_the_image(regions, peak):
    images = torch.zeros(1, 3, 4, 4)
    images[:, 0] = torch.tensor([0.25, 0.25, 1, 1])  # the right half may be padding
    padded = stream([Batch(images, ("a.png",), regions=regions)])
    detector = Pipeline([Member(embedding(), Red())], Nearest())
    found = next(outputs(create_evaluator(detector, 4, (4, 4), peaks=True), padded.embedded()))
    assert found.peaks.tolist() == [peak]


def test_score_that_is_not_finite_names_the_image():
    class Broken(Red):
        def score(self, features):
            return Scores(torch.tensor([1.0, float("inf")]))

    detector = Pipeline([Member(embedding(), Broken())], Nearest())
    with pytest.raises(
        UserError, match=r"Broken: the score of image 0\.5\.png: expected finite values, found NaN or inf"
    ):
        list(outputs(create_evaluator(detector, 4, (4, 4), peaks=False), stream([batch(0.25, 0.5)]).embedded()))


def test_padding_is_left_out():
    maps = torch.tensor([[[9.0, 1, 1, 9], [9, 2, 2, 9]]]).repeat_interleave(2, 1)  # (1, 4, 4), sides are padding
    judged = Scored(("a",), torch.ones(1), torch.ones(1, 1), None, maps, maps > 1, torch.tensor([[0, 1, 4, 3]]))
    ((shown, mask),) = shown_pixels(judged, (4, 4), [False])
    assert shown.tolist() == [[[1, 1], [1, 1], [2, 2], [2, 2]]]
    assert mask.tolist() == [[[False, False], [False, False], [True, True], [True, True]]]


def test_padding_is_left_out_of_a_finer_grid():
    maps = torch.zeros(1, 8, 8)
    judged = Scored(("a",), torch.ones(1), torch.ones(1, 1), None, maps, maps > 1, torch.tensor([[0, 1, 4, 3]]))
    assert next(shown_pixels(judged, (4, 4), [False]))[0].shape == (1, 8, 4)


def test_an_image_without_its_mask_adds_no_pixels():
    maps = torch.arange(32.0).reshape(2, 4, 4)
    judged = Scored(("a", "b"), torch.ones(2), torch.ones(2, 1), None, maps, maps > 20, None)
    shown = list(shown_pixels(judged, (8, 8), [True, False]))
    assert [(tuple(one.shape), tuple(mask.shape)) for one, mask in shown] == [((1, 0, 0),) * 2, ((1, 4, 4),) * 2]
    pixels, alone = PixelMetrics(), PixelMetrics()
    for one, mask in shown:
        pixels.add(one.numpy(), mask.numpy())
    alone.add(maps[1:].numpy(), (maps[1:] > 20).numpy())
    assert pixels.counts().normal[:, 0].tolist() == [0, 5]
    assert pixels.compute() == alone.compute()


def test_maps_shrink_by_area():
    maps = torch.arange(16.0).reshape(1, 4, 4)
    assert to_metric_grid(maps, 2).tolist() == [[[2.5, 4.5], [10.5, 12.5]]]


def test_maps_of_the_metric_size_stay_as_they_are():
    maps = torch.rand(2, 4, 4)
    assert to_metric_grid(maps, 4) is maps
