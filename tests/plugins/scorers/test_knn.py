from types import SimpleNamespace

import numpy as np
import pytest
import torch
from adkit_plugins.scorers.knn import Knn, KnnParams, adkit_scorers
from pydantic import ValidationError
from scipy.spatial.distance import cdist

from adkit import UserError
from adkit.plugin import POOL, Context, Features, Geometry, Level, NotFittedError
from adkit.testing import FeatureStream, check_component, feature_stream

QUERIES = feature_stream(images=6, seed=9).features


def fitted(stream=None, seed=0, **params):
    knn = Knn(KnnParams(**params), Context(seed=seed))
    knn.fit(stream or feature_stream())
    return knn


def pooled(values):
    """A stream of pooled features from a list of vectors."""
    tensor = torch.tensor(values)[:, None, None, :]
    return FeatureStream(Features({POOL: tensor}, {POOL: Geometry((12.0, 10.0), (24.0, 20.0))}))


def brute(stream, queries, level, k, metric="euclidean"):
    """Mean distance to the k nearest of all locations of all images, (n, h, w), by SciPy in float64."""
    bank = stream.features[level].flatten(0, 2).double()
    distances = np.sort(cdist(queries[level].flatten(0, 2).double(), bank, metric), axis=1)[:, :k].mean(1)
    return distances.reshape(queries[level].shape[:3])


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"metric": "cosine", "k": 3},
        pytest.param({"metric": "squared_l2", "aggregation": "mean"}, marks=pytest.mark.slow),
        pytest.param({"index": "torch"}, marks=pytest.mark.slow),
        pytest.param({"sample": 0.4}, marks=pytest.mark.slow),
        pytest.param({"centroids": 10}, marks=pytest.mark.slow),
        pytest.param({"coreset": 0.1, "reweight": 3}, marks=pytest.mark.slow),
        pytest.param({"sample": 0.4, "centroids": 5, "metric": "cosine"}, marks=pytest.mark.slow),
    ],
)
def test_contract(params):
    check_component(adkit_scorers()[0], params)


def test_dn2_is_the_mean_distance_to_two_pooled_features_by_hand():
    knn = fitted(pooled([[0.0, 0.0], [3.0, 4.0], [0.0, 10.0]]))
    scores = knn.score(pooled([[0.0, 0.0], [0.0, 8.0]]).features)
    assert scores.image.tolist() == pytest.approx([2.5, (2 + 5) / 2])
    assert scores.maps == {}


@pytest.mark.parametrize(("metric", "name"), [("l2", "euclidean"), ("squared_l2", "sqeuclidean"), ("cosine", "cosine")])
def test_maps_are_brute_force_distances_to_all_locations(metric, name):
    knn = fitted(metric=metric, k=3)
    for scorer in (knn, knn.for_export()):
        scores = scorer.score(QUERIES)
        assert list(scores.maps) == ["layer1", "layer2"]
        for level, found in scores.maps.items():
            np.testing.assert_allclose(found, brute(feature_stream(), QUERIES, level, 3, name), rtol=1e-5)


@pytest.mark.parametrize("aggregation", ["max", "mean"])
def test_score_is_the_mean_over_levels_of_the_largest_or_mean_distance(aggregation):
    maps = [brute(feature_stream(), QUERIES, level, 2) for level in QUERIES]
    expected = np.mean([getattr(m, aggregation)((1, 2)) for m in maps], axis=0)
    np.testing.assert_allclose(fitted(aggregation=aggregation).score(QUERIES).image, expected, rtol=1e-5)


def test_a_training_image_scores_exactly_zero_with_one_neighbor():
    assert fitted(k=1).score(feature_stream().features).image.tolist() == [0.0] * 24


def test_sample_keeps_its_share_of_every_images_locations():
    # 0.4 of 6×5 and of 3×3 cells: 12 and 4 of each of 24 images; a pooled feature is always kept.
    shapes = {name: tuple(rows.shape) for name, rows in fitted(sample=0.4).state_dict().items()}
    assert shapes == {"bank.pool": (24, 8), "bank.layer1": (288, 4), "bank.layer2": (96, 6)}


def test_sample_draws_different_locations_from_different_images():
    places = torch.arange(30.0).view(1, 6, 5, 1).expand(24, 6, 5, 1)
    stream = FeatureStream(Features({"a": places}, {"a": Geometry((2.0, 2.0), (4.0, 4.0))}))
    drawn = fitted(stream, sample=0.2).state_dict()["bank.a"].view(24, 6)
    assert all(len(set(image.tolist())) == 6 for image in drawn)
    assert len(set(drawn.flatten().tolist())) == 30


def test_another_seed_draws_another_sample():
    banks = [fitted(seed=seed, sample=0.4).state_dict()["bank.layer1"] for seed in (0, 1)]
    assert not torch.equal(*banks)


def test_centroids_of_separated_groups_are_their_means():
    groups = [[0.0, 0.1], [0.0, -0.1], [9.0, 0.2], [9.0, -0.2], [0.0, 9.3], [0.0, 8.7]]
    centroids = fitted(pooled(groups), centroids=3).state_dict()["bank.pool"]
    expected = [[0.0, 0.0], [0.0, 9.0], [9.0, 0.0]]
    assert np.array(sorted(centroids.tolist())) == pytest.approx(np.array(expected), abs=1e-6)


def test_cosine_centroids_have_length_1():
    """Two features at a right angle have one centroid between them, 1 − cos 45° from each, whatever their lengths."""
    stream = pooled([[3.0, 0.0], [0.0, 0.5]])
    knn = fitted(stream, metric="cosine", k=1, centroids=1)
    (centroid,) = knn.state_dict()["bank.pool"].tolist()
    assert centroid == pytest.approx([0.5**0.5, 0.5**0.5], rel=1e-6)
    assert knn.score(stream.features).image.tolist() == pytest.approx([1 - 0.5**0.5] * 2, rel=1e-5)


def test_as_few_features_as_centroids_are_kept_as_they_are():
    stream = pooled([[0.0, 1.0], [2.0, 3.0]])
    assert torch.equal(fitted(stream, centroids=5).state_dict()["bank.pool"], stream.features[POOL][:, 0, 0])


def test_fewer_features_than_k_are_refused():
    with pytest.raises(UserError) as error:
        fitted(pooled([[0.0, 1.0], [2.0, 3.0]]), k=3)
    assert str(error.value) == (
        "scorer.k: expected at most 2, the number of normal features of level pool, found 3: lower k or give more "
        "normal images"
    )


def test_a_fit_that_fails_leaves_no_older_fit_behind():
    knn = fitted(pooled([[0.0], [1.0], [2.0]]), k=3)
    with pytest.raises(UserError):
        knn.fit(pooled([[0.0]]))
    with pytest.raises(NotFittedError):
        knn.score(pooled([[0.0]]).features)


def test_fewer_centroids_than_k_are_refused():
    with pytest.raises(ValidationError, match="expected 0 or at least k = 4, found 3"):
        KnnParams(k=4, centroids=3)


def test_a_bank_that_does_not_fit_is_refused_before_anything_is_read():
    level = Level(1000, (1000, 1000), Geometry((0.5, 0.5), (1.0, 1.0)))
    unreadable = SimpleNamespace(levels={"layer1": level}, count=10**6)
    with pytest.raises(
        UserError, match=r"^scorer: knn's bank of 1,000,000,000,000 normal features needs 4032000\.0 GB"
    ):
        fitted(unreadable)


def test_features_without_a_fitted_level_are_refused():
    with pytest.raises(UserError, match="scorer: fitted on levels layer1, layer2, which the features lack"):
        fitted().score(Features({POOL: QUERIES[POOL]}, QUERIES.geometry))


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        ({}, "bank.* to be there, found no tensors at all"),
        ({"junk": torch.zeros(3, 2)}, "bank.* to be there, found only junk"),
        ({"bank.a": torch.zeros(3, 2), "junk": torch.zeros(3)}, "junk to be named bank.*, found that name"),
        ({"bank.a": torch.zeros(3)}, "bank.a to be 2-dimensional torch.float32, found (3,) torch.float32"),
        (
            {"bank.a": torch.zeros(3, 2).half()},
            "bank.a to be 2-dimensional torch.float32, found (3, 2) torch.float16",
        ),
        ({"bank.a": [[0.0], [1.0]]}, "bank.a to be 2-dimensional torch.float32, found list"),
        ({"bank.a": torch.zeros(3, 0)}, "bank.a to be of some values, found (3, 0) torch.float32"),
        ({"bank.a": torch.tensor([[0.0], [torch.nan]])}, "bank.a to be finite, found NaN or inf in it"),
        ({"bank.a": torch.tensor([[0.0], [-torch.inf]])}, "bank.a to be finite, found NaN or inf in it"),
        ({"bank.b": torch.zeros(2, 2), "bank.a": torch.zeros(1, 2)}, "bank.a to be at least k = 2 rows, found 1"),
    ],
)
def test_junk_is_refused_and_the_old_state_kept(state, sentence):
    knn = fitted()
    before = knn.score(QUERIES).image
    with pytest.raises(UserError) as error:
        knn.load_state_dict(state)
    assert str(error.value) == (
        f"scorer: state of knn: expected {sentence}: load what state_dict of a knn with equal parameters gave"
    )
    assert torch.equal(knn.score(QUERIES).image, before)


def test_a_coreset_leaves_no_normal_feature_far_from_it():
    line = pooled([[float(place), 0.0] for place in range(101)])
    kept = fitted(line, coreset=0.05, k=1).state_dict()["bank.pool"][:, 0]
    # Wherever the first one lies, the ends are among the first three, and two more halve what is left.
    assert len(kept) == 5
    assert {0.0, 100.0} <= set(kept.tolist())
    assert float((torch.arange(101.0)[:, None] - kept).abs().amin(1).max()) <= 25


def test_a_coreset_takes_at_most_a_distance_of_every_feature_from_every_chosen_one():
    levels = {"layer1": Level(152, (28, 28), Geometry.covering((28, 28), (224, 224)))}
    knn = Knn(KnnParams(coreset=0.01), Context())
    assert knn.operations(levels, 767) == 2 * 601_328 * 6_013 * 152  # 1.1e12, as the largest category of MVTec AD takes


def test_a_whole_bank_takes_no_operations_worth_a_word():
    levels = {"pool": Level(4, (1, 1), Geometry.covering((1, 1), (8, 8)))}
    assert Knn(KnnParams(), Context()).operations(levels, 100) is None


def test_a_projection_makes_it_as_many_directions_from_each():
    level = Level(32, (8, 8), Geometry.covering((8, 8), (64, 64)))
    operations = [
        Knn(KnnParams(coreset=0.01, projection=width), Context()).operations({"level": level}, 100)
        for width in (0, 8, 32, 99)
    ]
    assert operations == [2 * 6400 * 64 * width for width in (32, 8, 32, 32)]


def test_a_projection_chooses_by_distances_in_random_directions():
    rows = torch.randn(300, 6, generator=torch.Generator().manual_seed(1))
    rows[:, 2:] *= 1e-3
    bank = fitted(pooled(rows.tolist()), coreset=0.1, k=1, projection=3).state_dict()["bank.pool"]
    chosen = [int((rows - row).norm(dim=1).argmin()) for row in bank]
    directions = torch.randn(6, 3, generator=Context().generator("knn", "projection", "pool"))
    seen = (rows @ directions / 3**0.5).double()
    lengths = (seen - seen[chosen[0]]).norm(dim=1)
    for number in chosen[1:]:
        assert number == int(lengths.argmax())
        lengths = torch.minimum(lengths, (seen - seen[number]).norm(dim=1))
    assert bank.shape == (30, 6)


def test_a_coreset_begins_with_a_row_that_the_seed_draws():
    line = pooled([[float(place), 0.0] for place in range(101)])
    first = [float(fitted(line, seed, coreset=0.01, k=1).state_dict()["bank.pool"][0, 0]) for seed in range(5)]
    assert len(set(first)) > 2
    assert first[0] == float(fitted(line, coreset=0.01, k=1).state_dict()["bank.pool"][0, 0])


def test_a_coreset_keeps_at_least_k_features():
    assert len(fitted(coreset=0.001, k=2).state_dict()["bank.layer1"]) == 2


def test_a_coreset_of_copies_takes_no_more_than_it_needs():
    knn = fitted(pooled([[1.0, 0.0]] * 4 + [[5.0, 0.0]] + [[1.0, 0.0]] * 15), coreset=0.1, k=4)
    assert sorted(knn.state_dict()["bank.pool"][:, 0].tolist()) == [1, 1, 1, 5]


def test_a_coreset_of_copies_scores_as_all_of_them():
    copies = pooled([[1.0, 0.0]] * 5)
    scores = fitted(copies, coreset=0.4, k=2).score(pooled([[4.0, 4.0]]).features)
    assert scores.image.tolist() == [5.0]


def test_reweighted_score_by_hand():
    knn = fitted(pooled([[0.0, 0.0], [3.0, 0.0], [0.0, 50.0]]), k=1, reweight=2)
    # (0, 4) is 4 from its nearest (0, 0), and 5 from (3, 0), which is nearest to that beside itself.
    score = float(knn.score(pooled([[0.0, 4.0]]).features).image)
    assert score == pytest.approx(4 * (1 - np.exp(4) / (np.exp(4) + np.exp(5))))
    assert float(knn.for_export().score(pooled([[0.0, 4.0]]).features).image) == pytest.approx(score)


def test_a_small_coreset_keeps_as_many_features_as_are_weighed_by():
    """Of one alone, or of a weight by one, every score would be 0."""
    knn = fitted(pooled([[float(value), 0.0] for value in range(20)]), k=1, coreset=0.05, reweight=3)
    assert knn.state_dict()["bank.pool"].shape == (3, 2)
    assert float(knn.score(pooled([[30.0, 0.0]]).features).image) > 0


def test_a_saved_bank_with_too_few_features_to_weigh_by_is_refused():
    state = fitted(pooled([[0.0, 0.0], [1.0, 0.0]]), k=1).state_dict()
    with pytest.raises(UserError, match=r"at least reweight = 3 rows"):
        Knn(KnnParams(k=1, reweight=3), Context()).load_state_dict(state)


@pytest.mark.parametrize(
    ("params", "cells", "row", "left"),
    [
        ({}, 100, 4 * 20 + 32, 0),
        ({"sample": 0.4}, 40, 4 * 20 + 32, 0),
        ({"coreset": 0.1}, 100, 4 * 20 + 32 + 16, 100 * 4 * 20),
        ({"coreset": 0.1, "projection": 5}, 100, 4 * 20 + 32 + 16 + 4 * 5, 100 * 4 * 20),
        ({"coreset": 0.001, "reweight": 7}, 100, 4 * 20 + 32 + 16, 7 * 4 * 20),
    ],
    ids=str,
)
def test_memory_is_that_of_the_bank_before_it_is_thinned(params, cells, row, left):
    levels = {"layer1": Level(20, (10, 10), Geometry.covering((10, 10), (80, 80)))}
    assert Knn(KnnParams(k=2, **params), Context()).memory(levels, 10) == 10 * cells * row + left


def test_memory_of_centroids_is_that_of_the_features_they_are_learned_from():
    levels = {"layer1": Level(20, (10, 10), Geometry.covering((10, 10), (80, 80)))}
    knn = Knn(KnnParams(k=2, centroids=3), Context())
    assert knn.memory(levels, 8) == 256 * 3 * (4 * 20 + 32) + 3 * 4 * 20
    assert knn.memory(levels, 1_000) == knn.memory(levels, 8)


def test_only_an_images_highest_cell_weighs_its_score():
    plain, weighted = fitted(k=1), fitted(k=1, reweight=3)
    expected = []
    for level in QUERIES:
        bank = plain.state_dict()[f"bank.{level}"].double().numpy()
        for image, cells in enumerate(QUERIES[level].flatten(1, 2).double().numpy()):
            distances = cdist(cells, bank)
            cell = distances.min(1).argmax()
            around = np.argsort(cdist(bank[[distances[cell].argmin()]], bank)[0])[:3]
            share = np.exp(distances[cell].min()) / np.exp(distances[cell][around]).sum()
            expected.append((image, distances[cell].min() * (1 - share)))
    means = [np.mean([value for number, value in expected if number == image]) for image in range(6)]
    scores = weighted.score(QUERIES)
    np.testing.assert_allclose(scores.image, means, rtol=1e-4)
    for level, values in scores.maps.items():
        assert torch.equal(values, plain.score(QUERIES).maps[level])


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"projection": 8}, "expected 0 without a coreset, found 8"),
        ({"coreset": 0.5, "centroids": 4}, "expected 1 beside centroids = 4, found 0.5: set one of them"),
        (
            {"reweight": 3, "aggregation": "mean"},
            'expected 0 beside aggregation = "mean", found 3: it is for "max" alone',
        ),
        ({"centroids": 4, "reweight": 5}, "expected at most centroids = 4, found 5"),
        ({"reweight": 1}, "expected 0 or at least 2, found 1: beside itself alone, every feature weighs nothing"),
    ],
)
def test_parameters_that_exclude_each_other(params, message):
    with pytest.raises(ValidationError, match=message):
        KnnParams(**params)


@pytest.mark.parametrize("params", [{}, {"metric": "cosine"}, {"sample": 0.4}, {"coreset": 0.2}], ids=str)
def test_the_nearest_cells_are_named_by_their_place_in_the_stream(params):
    stream = feature_stream()
    knn = fitted(stream, **params)
    for name, values in stream.features.items():
        cells = values.flatten(0, 2)
        distances, numbers = knn.nearest(name, QUERIES[name].flatten(0, 2)[:5], 2)
        metric = "cosine" if params.get("metric") == "cosine" else "euclidean"
        for query, row, near in zip(QUERIES[name].flatten(0, 2)[:5], distances, numbers, strict=True):
            # What is named is as far away as is said.
            named = cdist(query[None].double(), cells[near].double(), metric)[0]
            assert row.tolist() == pytest.approx(named.tolist(), abs=1e-5)
        if not {"sample", "coreset"} & params.keys():  # all cells are in the bank, so the nearest is the nearest of all
            whole = cdist(QUERIES[name].flatten(0, 2)[:5].double(), cells.double(), metric)
            assert numbers[:, 0].tolist() == whole.argmin(1).tolist()


def test_centroids_and_loaded_banks_know_no_cells():
    stream = feature_stream()
    name, values = next(iter(stream.features.items()))
    cells = values.flatten(0, 2)[:1]
    assert fitted(stream, centroids=4).nearest(name, cells, 1) is None
    knn = fitted(stream)
    assert knn.nearest(name, cells, 1) is not None
    knn.load_state_dict(knn.state_dict())
    assert knn.nearest(name, cells, 1) is None
