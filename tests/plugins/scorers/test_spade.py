from types import SimpleNamespace

import numpy as np
import pytest
import torch
from adkit_plugins.scorers.spade import Spade, SpadeParams, adkit_scorers
from pydantic import ValidationError
from scipy.spatial.distance import cdist

from adkit import UserError
from adkit.plugin import POOL, Context, Features, Geometry, Level
from adkit.testing import FeatureStream, check_component, feature_stream
from adkit.toolkit.resample import cell_centers, resample

NORMAL = feature_stream(images=15)
QUERIES = feature_stream(images=4, seed=9).features


def fitted(stream=NORMAL, seed=0, **params):
    spade = Spade(SpadeParams(**params), Context(seed=seed))
    spade.fit(stream)
    return spade


def joined(features):
    """All spatial levels on the grid of ``layer1``, one descriptor a location."""
    first = features.geometry["layer1"]
    rows, columns = (
        cell_centers(first.start[0], first.step[0], 6),
        cell_centers(first.start[1], first.step[1], 5),
    )
    second = resample(features["layer2"], features.geometry["layer2"], rows, columns)
    return {"concat": torch.cat([features["layer1"], second], 3)}


def ensemble(features):
    return {name: features[name] for name in ("layer1", "layer2")}


def loops(describe, k, retrieve, kappa):
    """SPADE as one would write it down: image by image, location by location, in float64."""
    bank, queries = describe(NORMAL.features), describe(QUERIES)
    pools, asked = (f[POOL].flatten(1).double().numpy() for f in (NORMAL.features, QUERIES))
    image, maps = [], {name: np.zeros(values.shape[:3]) for name, values in queries.items()}
    for n in range(len(asked)):
        distances = np.linalg.norm(pools - asked[n], axis=1)
        order = distances.argsort()
        image.append(distances[order[:k]].mean())
        for name, values in queries.items():
            gallery = bank[name][order[: retrieve or None].copy()].flatten(0, 2).double().numpy()
            for i, j in np.ndindex(*values.shape[1:3]):
                lengths = np.linalg.norm(gallery - values[n, i, j].double().numpy(), axis=1)
                maps[name][n, i, j] = np.sort(lengths)[:kappa].mean()
    return np.array(image), maps


@pytest.mark.parametrize(
    "params",
    [
        {},
        pytest.param({"retrieve": 5, "kappa": 3}, marks=pytest.mark.slow),
        pytest.param({"retrieve": 0}, marks=pytest.mark.slow),
        pytest.param({"combine": "concat", "retrieve": 3}, marks=pytest.mark.slow),
        pytest.param({"centroids": 4, "kappa": 2}, marks=pytest.mark.slow),
        pytest.param({"centroids": 4, "combine": "concat"}, marks=pytest.mark.slow),
        pytest.param({"centroids": 30}, marks=pytest.mark.slow),
    ],
)
def test_contract(params):
    check_component(adkit_scorers()[0], params)


@pytest.mark.parametrize(("combine", "describe"), [("ensemble", ensemble), ("concat", joined)])
@pytest.mark.parametrize(("k", "retrieve", "kappa"), [(2, 5, 1), (3, 1, 4), (1, 0, 2), (2, 50, 1)])
def test_scores_are_those_of_plain_loops(combine, describe, k, retrieve, kappa):
    spade = fitted(combine=combine, k=k, retrieve=retrieve, kappa=kappa)
    image, maps = loops(describe, k, retrieve, kappa)
    for scorer in (spade, spade.for_export()):
        scores = scorer.score(QUERIES)
        np.testing.assert_allclose(scores.image, image, rtol=1e-5)
        assert scores.maps.keys() == maps.keys()
        for name, expected in maps.items():
            np.testing.assert_allclose(scores.maps[name], expected, rtol=1e-5)


def test_with_centroids_the_exported_scores_are_the_same():
    spade = fitted(centroids=5, kappa=2)
    scores, exported = spade.score(QUERIES), spade.for_export().score(QUERIES)
    torch.testing.assert_close(exported.image, scores.image)
    torch.testing.assert_close(exported.maps, scores.maps)


def test_concatenated_map_lies_where_the_first_level_does():
    assert fitted(combine="concat").score(QUERIES).geometry == {"concat": NORMAL.features.geometry["layer1"]}


def test_a_training_image_finds_itself_in_its_map():
    assert all(not m.any() for m in fitted(retrieve=1).score(NORMAL.features).maps.values())


def test_all_images_are_searched_when_fewer_than_retrieve():
    few, all_of_them = fitted(retrieve=50).score(QUERIES), fitted(retrieve=0).score(QUERIES)
    assert all(torch.equal(few.maps[name], all_of_them.maps[name]) for name in few.maps)


def lloyd(level, start, iterations):
    """Each location's centroids from the images ``start``, in float64."""
    values = NORMAL.features[level].double().numpy()
    centroids = values[start].copy()  # (m, h, w, c)
    for _ in range(iterations):
        for i, j in np.ndindex(*values.shape[1:3]):
            nearest = cdist(values[:, i, j], centroids[:, i, j]).argmin(1)
            for m in set(nearest):
                centroids[m, i, j] = values[nearest == m, i, j].mean(0)
    return centroids


def chosen_images(level, count):
    """Which images the centroids start from, read off the context's generator as Algorithm R uses it."""
    draws = torch.rand(15, generator=Context().generator("spade", "pictures", level), dtype=torch.float64).tolist()
    kept = list(range(count))
    for number in range(count, 15):
        place = int(draws[number] * (number + 1))
        if place < count:
            kept[place] = number
    return kept


@pytest.mark.parametrize("iterations", [1, 3])
def test_locations_are_compared_with_their_own_centroids(iterations):
    scores = fitted(centroids=4, iterations=iterations, kappa=2).score(QUERIES)
    for level, found in scores.maps.items():
        centroids = lloyd(level, chosen_images(level, 4), iterations)
        for i, j in np.ndindex(*found.shape[1:]):
            lengths = np.sort(cdist(QUERIES[level][:, i, j].double(), centroids[:, i, j]), axis=1)[:, :2]
            np.testing.assert_allclose(found[:, i, j], lengths.mean(1), rtol=1e-4)


def test_centroids_leave_the_images_score_alone():
    assert torch.equal(fitted(centroids=4).score(QUERIES).image, fitted().score(QUERIES).image)


@pytest.mark.parametrize(("spread", "told"), [(0.0, True), (1.0, False)])
def test_centroids_of_images_that_are_not_aligned_are_warned_of(spread, told, caplog):
    """``spread``² of a variance of 1 + ``spread``² is that of the locations' means."""
    generator = torch.Generator().manual_seed(0)
    means = spread * torch.randn(1, 6, 5, 8, generator=generator)
    features = Features(
        {"layer1": torch.randn(40, 6, 5, 8, generator=generator) + means, POOL: torch.randn(40, 1, 1, 4)},
        {"layer1": Geometry((0.5, 0.5), (1.0, 1.0)), POOL: Geometry((3, 3), (6, 6))},
    )
    with caplog.at_level("WARNING", logger="adkit"):
        fitted(FeatureStream(features), centroids=20)
    assert ("set scorer.centroids = 0" in caplog.text) == told


def test_as_few_images_as_centroids_are_kept():
    stored = fitted(centroids=15).state_dict()["locations.layer1"]
    assert torch.equal(stored.permute(2, 0, 1, 3), NORMAL.features["layer1"])


def test_another_seed_starts_from_other_images():
    first, second = (fitted(seed=seed, centroids=4).state_dict()["locations.layer1"] for seed in (0, 1))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("names", [("layer1",), (POOL,)])
def test_levels_that_spade_needs_are_asked_for(names):
    features = Features({name: NORMAL.features[name] for name in names}, NORMAL.features.geometry)
    with pytest.raises(UserError) as error:
        fitted(FeatureStream(features))
    assert str(error.value) == (
        f"extractor.levels: spade expected pool and a spatial level, found {names[0]}: "
        'write, for a ResNet, levels = ["pool", "layer1", "layer2", "layer3"]'
    )


def test_fewer_images_than_k_are_refused():
    with pytest.raises(UserError) as error:
        fitted(k=16)
    assert str(error.value) == (
        "scorer.k: expected at most 15, the number of normal images, found 16: lower k or give more normal images"
    )


def test_fewer_locations_than_kappa_are_refused():
    with pytest.raises(
        UserError, match=r"^scorer\.kappa: expected at most 18, the number of .* layer2 is compared with, found 19"
    ):
        fitted(retrieve=2, kappa=19)


def test_fewer_centroids_than_kappa_are_refused():
    with pytest.raises(ValidationError, match="expected 0 or at least kappa = 4, found 3"):
        SpadeParams(kappa=4, centroids=3)


def test_a_bank_that_does_not_fit_is_refused_before_anything_is_read():
    levels = {
        POOL: Level(8, (1, 1), Geometry((500.0, 500.0), (1000.0, 1000.0))),
        "layer1": Level(1000, (1000, 1000), Geometry((0.5, 0.5), (1.0, 1.0))),
    }
    with pytest.raises(UserError) as error:
        fitted(SimpleNamespace(levels=levels, count=1000))
    assert str(error.value).startswith("scorer: spade's bank of 1,000 normal images needs 4000.0 GB of memory")
    assert str(error.value).endswith("set scorer.centroids to 250 or less, or name fewer or deeper extractor.levels")


def state(images=4):
    return {"images": torch.zeros(images, 8), "locations.a": torch.zeros(images, 6, 5, 3)}


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        ({}, "images to be there, found no tensors at all"),
        ({"images": torch.zeros(4, 8)}, "locations.* to be there, found only images"),
        ({"locations.a": torch.zeros(4, 6, 5, 3)}, "images to be there, found only locations.a"),
        (state() | {"junk": torch.zeros(1)}, "junk to be named images or locations.*, found that name"),
        (
            state() | {"images": torch.zeros(4, 1, 1, 8)},
            "images to be 2-dimensional torch.float32, found (4, 1, 1, 8) torch.float32",
        ),
        (
            state() | {"locations.b": torch.zeros(6, 5, 3)},
            "locations.b to be 4-dimensional torch.float32, found (6, 5, 3) torch.float32",
        ),
        (state() | {"images": torch.full((4, 8), torch.nan)}, "images to be finite, found NaN or inf in it"),
        (
            state() | {"images": torch.zeros(5, 8)},
            "locations.a to be of 5 images in dimension 0, found (4, 6, 5, 3)",
        ),
    ],
)
def test_junk_is_refused_and_the_old_state_kept(state, sentence):
    spade = fitted()
    before = spade.score(QUERIES).image
    with pytest.raises(UserError) as error:
        spade.load_state_dict(state)
    assert str(error.value) == (
        f"scorer: state of spade: expected {sentence}: load what state_dict of a spade with equal parameters gave"
    )
    assert torch.equal(spade.score(QUERIES).image, before)


def test_saved_images_and_centroids_agree_in_count():
    spade = fitted(centroids=4)
    with pytest.raises(
        UserError, match=r"expected locations\.a to be of 4 images in dimension 2, found \(6, 5, 3, 3\)"
    ):
        spade.load_state_dict({"images": torch.zeros(9, 8), "locations.a": torch.zeros(6, 5, 3, 3)})


def test_fewer_saved_images_than_k_are_refused():
    with pytest.raises(UserError, match=r"^scorer\.k: expected at most 1, the number of normal images, found 2"):
        fitted().load_state_dict(state(images=1))
