"""Devices and precisions: what a machine has, and the sentences where it has it not."""

from __future__ import annotations

import pytest
import torch

from adkit.errors import UserError
from adkit.inference.device import autocast, available_devices, resolve_device, resolve_precision
from adkit.plugin.context import Context


def test_every_machine_has_a_processor() -> None:
    assert available_devices()[-1] == "cpu"
    assert resolve_device("cpu") == "cpu"


def test_auto_is_the_fastest_device() -> None:
    assert resolve_device("auto") == available_devices()[0]


def test_a_device_that_is_not_there() -> None:
    with pytest.raises(UserError) as caught:
        resolve_device("cuda:77")
    assert str(caught.value) == (
        f"run.device: expected auto or a device that this machine has ({', '.join(available_devices())}), found "
        "'cuda:77': name one of those"
    )


def test_auto_precision_on_a_processor_is_bfloat16_where_it_multiplies_that() -> None:
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    assert resolve_precision("auto", "cpu") == ("bfloat16" if native else "float32")


def test_a_precision_that_is_named_is_kept() -> None:
    assert resolve_precision("float32", "cpu") == "float32"
    assert resolve_precision("bfloat16", "cpu") == "bfloat16"


def test_float16_needs_a_gpu() -> None:
    with pytest.raises(UserError, match="float16 needs a GPU, and the device is cpu: use bfloat16, float32 or auto"):
        resolve_precision("float16", "cpu")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_autocast_computes_in_the_precision(precision: str) -> None:
    with autocast(Context(precision=precision)):  # type: ignore[arg-type]
        assert torch.nn.Linear(2, 2)(torch.ones(1, 2)).dtype == getattr(torch, precision)
    assert torch.nn.Linear(2, 2)(torch.ones(1, 2)).dtype == torch.float32


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_float32_on_cuda_does_not_round_to_tf32() -> None:
    generator = torch.Generator().manual_seed(0)
    convolution = torch.nn.Conv2d(64, 64, 3)
    images = torch.randn(4, 64, 32, 32, generator=generator)
    expected = convolution.double()(images.double())
    before = torch.backends.cudnn.allow_tf32
    with autocast(Context(device="cuda")):
        found = convolution.float().cuda()(images.cuda()).double().cpu()
    assert (found - expected).abs().max() < 1e-5
    assert torch.backends.cudnn.allow_tf32 == before
