import pytest
import torch
from adkit_plugins.adapters._compactness import SCHEDULE, Compactness

from adkit.plugin.types import Features, Geometry
from adkit.testing import FeatureStream, TinyExtractor
from adkit.testing.samples import SIZE, stream_of


def features_of(**levels):
    """Features (n, h, w, c) written out."""
    geometry = Geometry((0.5, 0.5), (1.0, 1.0))
    return Features({n: torch.tensor(v) for n, v in levels.items()}, dict.fromkeys(levels, geometry))


NORMAL = features_of(
    a=[[[[0.0, 0.0]]], [[[2.0, 4.0]]]],  # a center of (1, 2)
    b=[[[[0.0], [10.0]]], [[[2.0], [12.0]]]],  # one center of 6 for both locations
)
FOUND = features_of(a=[[[[4.0, 6.0]]], [[[1.0, 2.0]]]], b=[[[[5.0], [8.0]]], [[[6.0], [9.0]]]])
A = (9 + 16, 0)
B = ((1 + 4) / 2, (0 + 9) / 2)


def test_terms_by_hand():
    terms = Compactness(FeatureStream(NORMAL)).terms(FOUND)
    assert {name: term.item() for name, term in terms.items()} == {"a": sum(A) / 4, "b": sum(B) / 4}


def test_score_by_hand():
    assert Compactness(FeatureStream(NORMAL)).score(FOUND).tolist() == [(A[0] + B[0]) / 2, (A[1] + B[1]) / 2]


def test_of_the_pooled_level_alone_it_is_equation_1_over_the_number_of_images():
    normal, found = torch.randn(10, 5, generator=torch.Generator().manual_seed(0)).split((7, 3))
    compactness = Compactness(FeatureStream(features_of(pool=normal[:, None, None].tolist())))
    loss = sum(compactness.terms(features_of(pool=found[:, None, None].tolist())).values())
    torch.testing.assert_close(loss, sum((x - normal.mean(0)).norm() ** 2 for x in found) / 3)


def test_gradient_is_that_of_the_written_formula():
    normal = stream_of(TinyExtractor(), 2, SIZE).features
    leaves = {name: values[:5].clone().requires_grad_() for name, values in normal.items()}
    loss = sum(Compactness(FeatureStream(normal)).terms(Features(leaves, normal.geometry)).values())
    for name, found in zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True):
        _, height, width, _ = leaves[name].shape
        center = normal[name].mean((0, 1, 2))
        torch.testing.assert_close(found, 2 * (leaves[name] - center).detach() / (5 * 3 * height * width))


def test_the_schedule_is_that_of_the_papers_supplement():
    found = (SCHEDULE.optimizer, SCHEDULE.momentum, SCHEDULE.weight_decay, SCHEDULE.clip_norm, SCHEDULE.batch_size)
    assert found == ("sgd", 0.9, 5e-5, 1e-3, 32)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_the_center_is_that_of_all_images_however_they_come(batch_size):
    normal = stream_of(TinyExtractor(), 2, SIZE)
    whole, cut = Compactness(normal), Compactness(normal.cut(batch_size))
    torch.testing.assert_close(cut.score(normal.features), whole.score(normal.features))
