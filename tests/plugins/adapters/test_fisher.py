import copy
import logging
from dataclasses import replace

import pytest
import torch
from adkit_plugins.adapters._fisher import Sampled, compute_fisher, fisher
from torch import nn

from adkit import UserError
from adkit.plugin import POOL, Batch, Context, Features
from adkit.testing import TinyExtractor, sample_images
from adkit.testing.samples import SIZE, ImagedStream

CONTEXT = Context(image_size=SIZE)
KINDS = ("ant", "bee", "cat", "dog", "elk")


class Counting(TinyExtractor):
    """Counts how many images it classified."""

    classified = 0

    def classify(self, images):
        self.classified += len(images)
        return super().classify(images)


class Softmax(nn.Module):
    """p(y|x) = softmax(W x + b) over the three channels of an image of one pixel."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.weight = nn.Parameter(torch.randn(4, 3, generator=generator))
        self.bias = nn.Parameter(torch.randn(4, generator=generator))

    def blocks(self):
        return {"classifier": [self.weight, self.bias]}

    def classify(self, images):
        return nn.functional.linear(images[:, :, 0, 0], self.weight, self.bias)


def stream(*batches):
    nothing = Features({POOL: torch.zeros(sum(map(len, batches)), 1, 1, 1)}, {})
    return ImagedStream(nothing, shown=batches)


def labelled(count=10, classes=5):
    """Images of every kind, in batches of four."""
    found = sample_images(count, SIZE, 6, batch_size=4)
    names = [KINDS[(3 * number) % classes] for number in range(count)]
    return stream(*(replace(b, kinds=tuple(names[4 * i : 4 * i + len(b)])) for i, b in enumerate(found)))


def trained(extractor):
    return [*extractor.layer2.parameters(), *extractor.head.parameters()]


def kept(extractor):
    """Names of the parameters that ask for gradients."""
    return {name for name, parameter in extractor.named_parameters() if parameter.requires_grad}


def computed(extractor, parameters, shown, labels, count=100, context=CONTEXT):
    return compute_fisher(extractor, parameters, Sampled(shown, count, context), labels)


def test_of_a_softmax_model_it_is_the_exact_fisher_information():
    # Many images show the same, so that the mean over drawn labels comes to the sum over y of p(y|x) (∂ log p / ∂θ)²:
    # of b_j that is p_j (1 − p_j), and of W_jk the same times x_k².
    model, draws = Softmax(), 4000
    x = torch.tensor([0.9, 0.2, 0.5])
    shown = stream(Batch(x.view(1, 3, 1, 1).expand(draws, -1, -1, -1), ("image",) * draws))
    weight, bias = computed(model, [model.weight, model.bias], shown, "predicted", draws)
    p = model.classify(x.view(1, 3, 1, 1)).softmax(1)[0].detach()
    exact = p * (1 - p)
    error = (p * (1 - p) * (1 - 2 * p) ** 2 / draws).sqrt()  # standard deviation of a mean of (1{y = j} − p_j)²
    assert (bias - exact).abs().le(4 * error).all()
    torch.testing.assert_close(weight, bias[:, None] * x.square())


def test_labels_are_drawn_as_predicted():
    # Every F of b_j is a mean of (1{y = j} − p_j)², from which the number of images drawn as j follows.
    model, draws = Softmax(), 400
    x = torch.tensor([0.9, 0.2, 0.5]).view(1, 3, 1, 1)
    shown = stream(Batch(x.expand(draws, -1, -1, -1), ("image",) * draws))
    (bias,) = computed(model, [model.bias], shown, "predicted", draws)
    p = model.classify(x).softmax(1)[0].detach().double()
    counts = draws * (bias.double() - p**2) / (1 - 2 * p)
    torch.testing.assert_close(counts, counts.round(), atol=0.05, rtol=0)
    assert counts.sum().item() == pytest.approx(draws, abs=0.1)


def test_with_classes_it_is_the_mean_of_squared_gradients_image_by_image():
    extractor, shown = TinyExtractor(), labelled()
    squares = []
    for batch in shown.batches():
        for image, kind in zip(batch.images, batch.kinds, strict=True):
            extractor.zero_grad()
            logits = extractor.classify(image[None])
            nn.functional.cross_entropy(logits, torch.tensor([KINDS.index(kind)])).backward()
            squares.append([parameter.grad.square() for parameter in trained(extractor)])
    found = computed(extractor, trained(extractor), shown, "classes")
    for values, *each in zip(found, *squares, strict=True):
        torch.testing.assert_close(values, torch.stack(each).mean(0))


def test_batches_make_no_difference():
    whole = sample_images(10, SIZE, 6)
    cut = sample_images(10, SIZE, 6, batch_size=3)
    found = []
    for batches in (whole, cut):
        extractor = TinyExtractor()
        found.append(computed(extractor, trained(extractor), stream(*batches), "predicted", 6))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_the_images_are_drawn_from_all_of_the_stream():
    shown = stream(*sample_images(200, SIZE, 6, batch_size=16))
    found = [batch.ids[0] for batch in Sampled(shown, 50, CONTEXT)]
    numbers = [int(name.partition("#")[2]) for name in found]
    assert numbers == sorted(set(numbers))
    assert len(numbers) == 50
    assert 70 < sum(numbers) / 50 < 130


def test_another_seed_draws_other_images():
    shown = stream(*sample_images(200, SIZE, 6, batch_size=16))
    one, other = ([batch.ids for batch in Sampled(shown, 50, replace(CONTEXT, seed=seed))] for seed in (0, 1))
    assert one != other


def test_the_extractor_stays_as_it_was():
    extractor = TinyExtractor().requires_grad_(False)
    extractor.layer1.requires_grad_(True)
    before, wanted = copy.deepcopy(extractor.state_dict()), kept(extractor)
    fisher(extractor, trained(extractor), labelled(), "predicted", 100, CONTEXT)
    assert kept(extractor) == wanted
    assert not extractor.training
    assert all(parameter.grad is None for parameter in extractor.parameters())
    assert all(torch.equal(before[name], values) for name, values in extractor.state_dict().items())


def test_a_parameter_that_the_classifier_does_not_read_does_not_matter():
    extractor = TinyExtractor()
    extractor.idle = nn.Linear(2, 2)

    values = computed(extractor, [extractor.head.bias, extractor.idle.bias], labelled(), "predicted")
    assert values[0].gt(0).all()
    assert values[1].tolist() == [0, 0]


def test_a_second_call_computes_nothing():
    extractor = Counting()
    first = fisher(extractor, trained(extractor), labelled(), "predicted", 100, CONTEXT)
    assert extractor.classified == 10
    again = fisher(extractor, trained(extractor), labelled(), "predicted", 100, CONTEXT)
    assert extractor.classified == 10
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))


def test_what_is_cached_is_told_apart_by_name():
    extractor = Counting()
    parameters = trained(extractor)
    first = fisher(extractor, parameters, labelled(), "predicted", 100, CONTEXT)
    turned = fisher(extractor, parameters[::-1], labelled(), "predicted", 100, CONTEXT)
    assert extractor.classified == 10
    assert all(torch.equal(one, other) for one, other in zip(first, turned[::-1], strict=True))


def brighter(shown):
    first, *others = shown.shown
    return replace(shown, shown=(replace(first, images=first.images * 0.99), *others))


def renamed(shown):
    """The same images, said to show something else."""
    first, *others = shown.shown
    return replace(shown, shown=(replace(first, kinds=("bee", *first.kinds[1:])), *others))


@pytest.mark.parametrize(
    "change",
    [
        {"extractor": Counting(seed=1)},
        {"shown": brighter},
        {"shown": renamed},
        {"labels": "predicted"},
        {"context": Context(image_size=SIZE, seed=1)},
        {"count": 9},
        {"parameters": lambda extractor: list(extractor.head.parameters())},
    ],
    ids=["weights", "images", "kinds", "labels", "seed", "count", "parameters"],
)
def test_whatever_it_depends_on_makes_it_new(change):
    def found(extractor, shown=lambda shown: shown, labels="classes", context=CONTEXT, count=100, parameters=trained):
        fisher(extractor, parameters(extractor), shown(labelled()), labels, count, context)
        return extractor.classified

    found(Counting())
    assert found(Counting()) == 0
    assert found(**{"extractor": Counting(), **change}) > 0


def test_kinds_of_images_that_are_not_drawn_number_the_classes_too():
    shown = labelled()
    (drawn,) = Sampled(shown, 1, CONTEXT)
    (other, *_) = (kind for kind in KINDS if (kind,) != drawn.kinds)
    changed = tuple(
        replace(batch, kinds=tuple("zebra" if kind == other else kind for kind in batch.kinds)) for batch in shown.shown
    )
    extractor = Counting()
    for one in (shown, replace(shown, shown=changed)):
        fisher(extractor, trained(extractor), one, "classes", 1, CONTEXT)
    assert extractor.classified == 2


def test_a_damaged_file_is_computed_again(cache, caplog):
    extractor = Counting()
    first = fisher(extractor, trained(extractor), labelled(), "predicted", 100, CONTEXT)
    (path,) = cache.glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-1])
    with caplog.at_level(logging.WARNING, "adkit"):
        again = fisher(extractor, trained(extractor), labelled(), "predicted", 100, CONTEXT)
    assert extractor.classified == 20
    assert "damaged" in caplog.text
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))


def refused(*arguments):
    with pytest.raises(UserError) as found:
        computed(*arguments)
    return str(found.value)


def test_as_many_kinds_as_classes():
    extractor = TinyExtractor()
    assert refused(extractor, trained(extractor), labelled(classes=4), "classes") == (
        "[auxiliary]: expected images of 5 kinds, one per class of the pretrained classifier, which "
        'adapter.fisher = "classes" needs, found 4: name the data set that the weights were trained on, or set '
        'adapter.fisher = "predicted"'
    )


def test_an_image_without_a_kind():
    extractor, shown = TinyExtractor(), labelled()
    unknown = replace(shown, shown=(replace(shown.shown[0], kinds=None), *shown.shown[1:]))
    assert refused(extractor, trained(extractor), unknown, "classes") == (
        '[auxiliary]: expected images whose kinds are known, which adapter.fisher = "classes" needs, found '
        'image#0 without one: use a data set of classes, or set adapter.fisher = "predicted"'
    )


def test_gradients_that_are_not_finite():
    extractor = TinyExtractor()
    with torch.no_grad():
        extractor.head.weight[0] = 1e30
        extractor.layer2.weight *= 1e20
    assert refused(extractor, trained(extractor), labelled(), "classes").endswith(
        'found NaN or inf: use other weights, or set adapter.fisher = "uniform"'
    )


class Roots(Softmax):
    """A classifier whose first class has √s₁ + √s₂ more: the gradient by s is ½/√s, infinite where s is 0."""

    def __init__(self):
        super().__init__()
        self.roots = nn.Parameter(torch.tensor([1.0, 0.0]))

    def classify(self, images):
        return super().classify(images) + torch.eye(4)[0] * self.roots.sqrt().sum()


@pytest.mark.parametrize("order", [1, -1])
def test_one_gradient_that_is_not_finite_is_enough(order):
    model = Roots()
    shown = stream(Batch(torch.full((1, 3, 1, 1), 0.5), ("image",)))
    assert computed(model, [model.weight], shown, "predicted")[0].isfinite().all()
    parameters = [model.weight, model.roots][::order]
    assert "expected a classifier whose gradients are finite, found NaN or inf" in refused(
        model, parameters, shown, "predicted"
    )


def test_no_image_that_can_be_read():
    extractor = TinyExtractor()
    assert refused(extractor, trained(extractor), stream(), "predicted") == (
        "data: expected images for the Fisher information, found none that can be read: add some"
    )
