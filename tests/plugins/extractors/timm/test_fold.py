"""Folded networks give the features of the network they were made from."""

import copy

import pytest
import torch
from adkit_plugins.extractors.timm.extractor import TimmExtractor, TimmParams
from adkit_plugins.extractors.timm.fold import fold_batch_norms, keep_float32, redraw
from torch import nn

from adkit.plugin import Context


def conv_and_norm():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU()).eval()
    nn.init.normal_(network[1].weight)
    nn.init.normal_(network[1].bias)
    network[1].running_mean = torch.randn(4)
    network[1].running_var = torch.rand(4) + 0.5
    return network.requires_grad_(False)


def test_folding_changes_no_output():
    network, images = conv_and_norm(), torch.rand(2, 3, 8, 8)
    before = network(images)
    fold_batch_norms(network, [])
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    torch.testing.assert_close(network(images), before, rtol=1e-5, atol=1e-6)


def test_a_module_whose_output_is_read_is_spared():
    network = conv_and_norm()
    fold_batch_norms(network, ["0"])
    assert isinstance(network[1], nn.BatchNorm2d)


def test_float32_layers_keep_float32_under_autocast():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1))
    keep_float32(network, network[0].parameters())
    with torch.autocast("cpu", torch.bfloat16):
        first = network[0](torch.rand(1, 3, 2, 2))
        second = network[1](first)
    assert (first.dtype, second.dtype) == (torch.float32, torch.bfloat16)


# A network of each habit: norm after convolution, norm before it, norm beside TensorFlow padding, no batch norm.
@pytest.mark.parametrize(
    "backbone",
    [
        *("resnet18", "resnetv2_18d", "tf_efficientnet_lite0"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("densenet121", "vit_tiny_patch16_224")),
    ],
)
def test_inference_copy_has_the_features_of_the_original(backbone):
    parameters = TimmParams(backbone=backbone, weights="none", levels=("pool",))
    extractor = TimmExtractor(parameters, Context(image_size=(224, 224)))
    images = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected, found = extractor(images)["pool"], extractor.for_inference()(images)["pool"]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


# Beside those, networks whose heads have layers that their classifier's removal must leave.
@pytest.mark.parametrize(
    "backbone",
    [
        *("resnet18", "convnext_atto", "mobilenetv3_small_050"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("resnetv2_18d", "densenet121")),
    ],
)
def test_an_inference_copy_takes_the_state_of_one_with_other_weights(backbone):
    parameters = TimmParams(backbone=backbone, weights="none")
    trained = TimmExtractor(parameters, Context(image_size=(64, 64)))
    redraw(trained.model, torch.Generator().manual_seed(7))  # batch norms that do something, as training leaves them
    trained = trained.for_inference()
    fresh = TimmExtractor(parameters, Context(image_size=(64, 64), seed=1, pretrained=False)).for_inference()
    fresh.load_state_dict({name: value.contiguous() for name, value in trained.state_dict().items()})
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert torch.equal(fresh(images)["pool"], trained(images)["pool"])


def test_an_inference_copy_has_no_classifier():
    extractor = TimmExtractor(TimmParams(backbone="test_resnet", weights="none"), Context(image_size=(64, 64)))
    assert not [name for name in extractor.for_inference().state_dict() if name.startswith("model.fc")]


class NormsFirst(nn.Module):
    """Applies its norm before the convolution that it stands behind."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, values):
        return self.conv(self.norm(values))


def test_a_wrong_fold_shows_on_redrawn_weights():
    network = NormsFirst().eval()
    values = torch.rand(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))

    def change(network):
        folded = copy.deepcopy(network)
        fold_batch_norms(folded, [])
        with torch.no_grad():
            return torch.dist(folded(values), network(values)) / network(values).norm()

    assert change(network) < 1e-4  # fresh norms do nothing, wherever they are
    redraw(network, torch.Generator().manual_seed(0))
    assert change(network) > 1e-2


def test_inference_copy_leaves_the_original_alone():
    extractor = TimmExtractor(TimmParams(backbone="test_resnet", weights="none"), Context(image_size=(64, 64)))
    before = {name: value.clone() for name, value in extractor.state_dict().items()}
    folded = extractor.for_inference()
    assert "model.conv1.1.running_mean" in before.keys() - folded.state_dict().keys()
    assert all(torch.equal(value, before[name]) for name, value in extractor.state_dict().items())


def test_a_copy_computes_with_its_own_weights():
    network = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False))
    keep_float32(network, network.parameters())
    other = copy.deepcopy(network)
    nn.init.zeros_(other[0].weight)
    assert other(torch.ones(1, 1, 1, 1)).item() == 0
    assert network(torch.ones(1, 1, 1, 1)).item() != 0
