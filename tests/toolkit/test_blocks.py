import pytest
import torch
from adkit_plugins.extractors.timm.extractor import TimmExtractor, TimmParams
from pydantic import TypeAdapter, ValidationError

from adkit import UserError
from adkit.plugin import Context
from adkit.testing import TinyExtractor
from adkit.toolkit.blocks import Blocks, mean_terms, tuned


@pytest.fixture(scope="module")
def resnet():
    return TimmExtractor(TimmParams(backbone="test_resnet", weights="none"), Context(image_size=(64, 64)))


def owners(extractor, parameters):
    """The names of the blocks whose parameters these are, all of them and no others."""
    wanted = {id(parameter) for parameter in parameters}
    names = [name for name, block in extractor.blocks().items() if wanted >= {id(p) for p in block}]
    assert sum(len(extractor.blocks()[name]) for name in names) == len(parameters)
    return names


@pytest.mark.parametrize(
    ("blocks", "expected"),
    [
        ("all", ["stem", "layer1", "layer2", "layer3", "layer4"]),
        (2, ["layer3", "layer4"]),
        (5, ["stem", "layer1", "layer2", "layer3", "layer4"]),
        (("layer4", "layer2"), ["layer2", "layer4"]),
    ],
)
def test_blocks_of_a_network_but_never_its_classifier(resnet, blocks, expected):
    assert "classifier" in resnet.blocks()
    assert owners(resnet, tuned(resnet, blocks)) == expected


@pytest.mark.parametrize(
    ("blocks", "sentence"),
    [
        (
            ("layer5",),
            "adapter.blocks: expected blocks of the extractor, found 'layer5' (did you mean layer4?): name some of "
            "stem, layer1, layer2, layer3, layer4",
        ),
        (
            ("classifier",),
            "adapter.blocks: expected blocks of the extractor, found 'classifier': name some of stem, layer1, layer2, "
            "layer3, layer4",
        ),
        (
            6,
            "adapter.blocks: expected at most 5, which the extractor has (stem, layer1, layer2, layer3, layer4), found "
            '6: name fewer, or "all"',
        ),
    ],
)
def test_blocks_that_are_not_there_are_refused(resnet, blocks, sentence):
    with pytest.raises(UserError) as error:
        tuned(resnet, blocks)
    assert str(error.value) == sentence


def test_an_extractor_without_blocks_is_refused():
    class Bare(torch.nn.Module):
        pass

    with pytest.raises(
        UserError, match=r"extractor\.use: expected an extractor that offers blocks to adapters, found a Bare"
    ):
        tuned(Bare(), "all")


@pytest.mark.parametrize("written", ['"all"', "3", '["layer1"]'])
def test_blocks_as_a_recipe_writes_them(written):
    TypeAdapter(Blocks).validate_json(written)


@pytest.mark.parametrize("written", ['"layer1"', "0", "[]", "true"])
def test_other_choices_of_blocks_are_no_parameter(written):
    with pytest.raises(ValidationError):
        TypeAdapter(Blocks).validate_json(written, strict=True)


def test_blocks_below_the_last_level_get_no_gradient():
    extractor = TinyExtractor()
    parameters = tuned(extractor, "all")
    loss = extractor(torch.rand(1, 3, 24, 20))["layer1"].sum()
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    assert [gradient is not None for gradient in gradients] == [True, True, False, False]


def test_terms_sum_to_the_mean_over_images_and_levels():
    terms = mean_terms({"a": torch.tensor([1.0, 3.0]), "b": torch.tensor([10.0, 0.0])})
    assert {name: term.item() for name, term in terms.items()} == {"a": 1.0, "b": 2.5}
