"""Extractor ``timm``: levels, geometry, blocks, and the sentences for names and sizes that do not fit."""

from __future__ import annotations

import copy

import pytest
import skimage.data
import torch
import torch.nn.functional as F
from adkit_plugins.extractors.timm.extractor import TimmExtractor, TimmParams
from pydantic import ValidationError
from torch import Tensor, nn

from adkit import UserError
from adkit.plugin import Extractor, Geometry
from adkit.toolkit.resample import pixel_centers
from tests.plugins.extractors.timm.backbones import LITE, RESNET, SWIN, VIT, make, refusal, sample_images

# --- levels


@pytest.mark.parametrize(
    ("backbone", "size", "levels"),
    [
        (LITE, (64, 96), {"conv_stem": (32, 32, 48), "blocks.4": (112, 4, 6), "pool": (1280, 1, 1)}),
        ("resnet18", (65, 96), {"layer2": (128, 9, 12), "pool": (512, 1, 1)}),
        (
            VIT,
            (224, 224),
            {"blocks.3": (192, 14, 14), "blocks.3.mlp.fc1": (768, 14, 14), "pool": (192, 1, 1)},
        ),
        ("test_vit", (64, 96), {"patch_embed": (64, 4, 6), "norm": (64, 4, 6)}),
        ("deit_tiny_distilled_patch16_224", (224, 224), {"blocks.1": (192, 14, 14), "pool": (192, 1, 1)}),
        pytest.param(
            *(SWIN, (224, 224), {"layers.0": (96, 56, 56), "layers.3": (768, 7, 7), "pool": (768, 1, 1)}),
            marks=pytest.mark.slow,
        ),
        ("mixer_s16_224", (64, 64), {"blocks.3": (512, 4, 4)}),
        ("test_convnext", (64, 64), {"stages.1": (32, 8, 8), "head.norm": (64, 1, 1)}),
    ],
)
def test_levels_state_what_calling_gives(
    backbone: str, size: tuple[int, int], levels: dict[str, tuple[int, int, int]]
) -> None:
    extractor = make(backbone, *levels, size=size)
    features = extractor(sample_images(2, size))
    assert list(features) == list(levels)
    for name, (channels, height, width) in levels.items():
        assert features[name].shape == (2, height, width, channels)
        assert features[name].dtype == torch.float32
        level = extractor.levels[name]
        assert (level.channels, level.grid) == (channels, (height, width))


def test_levels_come_in_the_order_of_the_recipe() -> None:
    assert list(make(RESNET, "layer2", "pool", "layer1")(sample_images(1))) == ["layer2", "pool", "layer1"]


def test_pool_is_what_the_classifier_reads() -> None:
    extractor = make(weights="packaged")
    pooled = extractor(sample_images(2))["pool"][:, 0, 0]
    torch.testing.assert_close(extractor.model.classifier(pooled), extractor.classify(sample_images(2)))


def test_channels_last_map_is_the_modules_output() -> None:
    extractor = make(RESNET, "layer1")
    model, images = extractor.model, (sample_images(2) - extractor.mean) / extractor.std
    expected = model.layer1(model.maxpool(model.act1(model.bn1(model.conv1(images)))))
    torch.testing.assert_close(extractor(sample_images(2))["layer1"], expected.permute(0, 2, 3, 1))


def test_tokens_fold_row_by_row_without_the_class_token() -> None:
    extractor = make("test_vit", "blocks.0", size=(32, 48))
    tokens = extractor.model.forward_intermediates(
        (sample_images(1, (32, 48)) - extractor.mean) / extractor.std,
        indices=[0],
        output_fmt="NLC",
        intermediates_only=True,
    )[0]  # (1, 6, 192)
    torch.testing.assert_close(extractor(sample_images(1, (32, 48)))["blocks.0"][0, 1, 2], tokens[0, 5])


def test_a_level_is_copied_where_the_backbone_writes_into_it() -> None:
    extractor = make(RESNET, "bn1", "layer1")
    assert extractor(sample_images(1))["bn1"].min() < 0  # the ReLU that follows works in place


def test_nothing_runs_behind_the_deepest_level() -> None:
    extractor = make(RESNET, "layer2", "layer1")
    ran: list[str] = []
    for name, module in extractor.model.named_children():
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
    extractor(sample_images(1))
    assert ran == ["conv1", "bn1", "act1", "maxpool", "layer1", "layer2"]


def test_a_copy_reads_its_own_weights() -> None:
    extractor = make(RESNET, "layer1")
    other = copy.deepcopy(extractor)
    for parameter in other.parameters():
        parameter.data.zero_()
    assert other(sample_images(1))["layer1"].abs().max() == 0
    assert extractor(sample_images(1))["layer1"].abs().max() > 0


@pytest.mark.parametrize("backbone", [LITE, "test_vit"])
def test_an_image_gives_the_same_features_in_any_batch(backbone: str) -> None:
    size = (64, 64)
    level = "blocks.1"
    extractor = make(backbone, level, "pool", size=size, weights="packaged" if backbone == LITE else "none")
    images = sample_images(16, size)
    with torch.inference_mode():
        whole = extractor(images)
        for split in (1, 7):
            parts = [extractor(batch) for batch in images.split(split)]
            for name in (level, "pool"):
                joined = torch.cat([part[name] for part in parts])
                assert (joined - whole[name]).abs().max() <= 1e-5 * whole[name].abs().max()


def test_gradients_reach_the_parameters_that_are_set_free() -> None:
    extractor = make(RESNET, "layer1", "pool")
    for parameter in extractor.blocks()["layer4"]:
        parameter.requires_grad_(True)
    extractor(sample_images(1))["pool"].sum().backward()
    assert all(parameter.grad is not None for parameter in extractor.blocks()["layer4"])
    assert all(parameter.grad is None for parameter in extractor.blocks()["layer3"])


# --- geometry


@pytest.mark.slow
@pytest.mark.parametrize("level", ["blocks.2", "blocks.4", "blocks.6"])
def test_cells_lie_where_trained_weights_see_small_changes(level: str) -> None:
    """A cell's center is the mean place of the pixels whose small changes change it, by the square of how much."""
    size = (224, 224)
    extractor = make(LITE, level, size=size, weights="packaged")
    grid, geometry = extractor.levels[level].grid, extractor.levels[level].geometry
    names = ("chelsea", "coffee", "rocket", "astronaut", "grass", "gravel", "brick")
    images = torch.stack([photograph(name, size) for name in names]).requires_grad_()
    features = extractor(images)[level]
    generator = torch.Generator().manual_seed(0)
    firsts = []
    for row, column in [(grid[0] * y // 7, grid[1] * x // 7) for y in (2, 3, 4) for x in (2, 3, 4)]:
        direction = torch.randn(features.shape[0], features.shape[3], generator=generator)
        (gradient,) = torch.autograd.grad((features[:, row, column] * direction).sum(), images, retain_graph=True)
        weight = gradient.square().sum(1)  # (n, H, W)
        weight = weight / weight.sum((1, 2), keepdim=True)
        along = [(weight.sum(2 - axis) * pixel_centers(size[axis])).sum(1) for axis in (0, 1)]
        firsts.append(torch.stack(along, 1) - torch.tensor([row, column]) * torch.tensor(geometry.step))
    first = torch.cat(firsts).mean(0)  # the center of the first cell, as each of these cells has it
    assert first.tolist() == pytest.approx(geometry.start, abs=geometry.step[0] / 4)


def photograph(name: str, size: tuple[int, int]) -> Tensor:
    """(3, height, width): a photograph that ships with scikit-image."""
    image = torch.from_numpy(getattr(skimage.data, name)()).float() / 255
    image = image.expand(3, *image.shape) if image.ndim == 2 else image.permute(2, 0, 1)
    return F.interpolate(image[None], size, mode="bilinear", antialias=True)[0]


@pytest.mark.parametrize(
    ("backbone", "level", "size", "start", "step"),
    [
        ("resnet18", "layer3", (224, 224), 8, 16),
        (LITE, "blocks.4", (224, 224), 8, 16),
        (LITE, "blocks.4", (225, 225), 7.5, 15),
        ("test_vit", "blocks.0", (160, 160), 8, 16),
        (SWIN, "layers.1", (224, 224), 4, 8),
    ],
)
def test_cells_tile_the_input(backbone: str, level: str, size: tuple[int, int], start: float, step: float) -> None:
    geometry = make(backbone, level, size=size).levels[level].geometry
    assert geometry == Geometry((start, start), (step, step))


def test_pool_covers_the_image() -> None:
    assert make(RESNET, "pool", size=(64, 96)).levels["pool"].geometry == Geometry((32, 48), (64, 96))


# --- blocks


@pytest.mark.parametrize(
    ("backbone", "names"),
    [
        ("resnet18", ["stem", "layer1", "layer2", "layer3", "layer4", "classifier"]),
        (LITE, ["stem", *(f"blocks.{index}" for index in range(7)), "head", "classifier"]),
        ("test_vit", ["stem", *(f"blocks.{index}" for index in range(6)), "head", "classifier"]),
    ],
)
def test_every_parameter_is_in_one_block(backbone: str, names: list[str]) -> None:
    extractor = make(backbone)
    assert isinstance(extractor, Extractor)
    blocks = extractor.blocks()
    assert list(blocks) == names
    held = [id(parameter) for parameters in blocks.values() for parameter in parameters]
    assert sorted(held) == sorted(map(id, extractor.parameters()))


def test_parameters_start_frozen_and_in_evaluation_mode() -> None:
    extractor = make(RESNET)
    assert not any(parameter.requires_grad for parameter in extractor.parameters())
    assert not any(module.training for module in extractor.modules())


# --- names and sizes


def test_an_unknown_backbone_names_the_nearest() -> None:
    assert "found 'resnet-18' (did you mean resnet18?)" in refusal("resnet-18")


def test_a_tag_of_weights_is_part_of_a_name() -> None:
    assert make("resnet18.tv_in1k", "layer1").levels["layer1"].channels == 64
    assert "(did you mean resnet18.tv_in1k?)" in refusal("resnet18.tv_in1kk")


def test_an_unknown_level_lists_the_blocks() -> None:
    assert refusal("resnet18", "layer5") == (
        "extractor.levels: resnet18 has no module 'layer5' (did you mean layer4?): name pool, the end of a "
        "block (layer1, layer2, layer3, layer4) or a module inside one"
    )


def test_every_unknown_level_is_told() -> None:
    with pytest.raises(UserError) as caught:
        make(RESNET, "layer5", "pool", "head")
    assert len(caught.value.problems) == 2


def test_a_module_that_does_not_run_is_no_level() -> None:
    assert refusal(RESNET, "fc") == (
        "extractor.levels: module 'fc' does not run before the classifier, or not as a whole: name another or one "
        "inside it"
    )


def test_a_module_that_gives_no_map_is_no_level() -> None:
    message = refusal("hrnet_w18_small", "stage2")
    assert message.startswith("extractor.levels: expected 'stage2' to give a map, patch tokens or a vector")


def test_an_image_size_that_the_backbone_refuses() -> None:
    message = refusal("test_maxvit", size=(100, 100))
    assert message.startswith("data.image_size: test_maxvit does not take images of 100 × 100 pixels")
    assert "use 160 × 160, which it was trained on" in message


def test_building_in_inference_mode_changes_nothing() -> None:
    with torch.inference_mode():
        extractor = make(RESNET, "layer1")
        assert extractor(sample_images(1))["layer1"].shape == (1, 16, 16, 32)


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected shape \(n, 3, 64, 64\), found \(1, 3, 32, 32\)"):
        make(RESNET)(sample_images(1, (32, 32)))


@pytest.mark.parametrize("levels", [(), ("layer1", "layer1")])
def test_levels_are_named_once_and_not_none(levels: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError):
        TimmParams(levels=levels)


# --- exporting


class Whole(nn.Module):
    """What an exporter is given: tensors in, tensors out."""

    def __init__(self, extractor: TimmExtractor) -> None:
        super().__init__()
        self.extractor = extractor

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return dict(self.extractor(images))


@pytest.mark.parametrize(
    ("backbone", "level"),
    [
        (RESNET, "layer2"),
        ("test_vit", "blocks.0"),
        ("test_convnext", "stages.1"),
        pytest.param(LITE, "blocks.2", marks=pytest.mark.slow),
    ],
)
def test_the_copy_for_export_can_be_recorded_for_any_number_of_images(backbone: str, level: str) -> None:
    extractor = make(backbone, level).for_inference()
    sizes = ({0: torch.export.Dim("n", min=1)},)
    with torch.no_grad():
        recorded = torch.export.export(
            Whole(extractor.for_export()), (sample_images(2),), dynamic_shapes=sizes, strict=False
        )
        for images in (sample_images(1), sample_images(3)):
            torch.testing.assert_close(recorded.module()(images), dict(extractor(images)))


def test_the_copy_for_export_computes_in_one_precision() -> None:
    copied = make().for_inference().for_export()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert copied.model.conv_stem(sample_images(1)).dtype == torch.bfloat16
