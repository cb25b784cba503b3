"""On which device and in which precision to compute, decided by what the machine can do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch

from adkit.errors import UserError
from adkit.plugin.context import Context, Precision


def available_devices() -> list[str]:
    """List the devices that this machine has, the fastest first: ``["cuda", "cuda:1", "cpu"]``."""
    cuda = [f"cuda:{index}" if index else "cuda" for index in range(torch.cuda.device_count())]
    return [*cuda, *(["mps"] if torch.backends.mps.is_available() else []), "cpu"]


def resolve_device(name: str) -> str:
    """Resolve a device's name: ``auto`` to the fastest device here, any other to itself (``cuda:0`` to ``cuda``).

    Raises:
        UserError: this machine does not have the device.
    """
    available = available_devices()
    if name == "auto":
        return available[0]
    device = "cuda" if name == "cuda:0" else name
    if device not in available:
        raise UserError(
            f"run.device: expected auto or a device that this machine has ({', '.join(available)}), "
            f"found {name!r}: name one of those"
        )
    return device


def resolve_precision(name: Literal["auto"] | Precision, device: str, among: Sequence[Precision] = ()) -> Precision:
    """Resolve a precision's name: ``auto`` to bfloat16 where ``device`` has it natively, else to float32.

    Any other name is returned as it is.

    Args:
        among: what ``auto`` may become; default: any.

    Raises:
        UserError: ``device`` cannot compute in that precision.
    """
    if name == "auto":
        return "bfloat16" if _native_bfloat16(device) and "bfloat16" in (among or ("bfloat16",)) else "float32"
    if name == "float16" and device == "cpu":
        raise UserError(
            "run.precision: float16 needs a GPU, and the device is cpu: use bfloat16, float32 or auto instead"
        )
    return name


def _native_bfloat16(device: str) -> bool:
    if device.startswith("cuda"):
        return torch.cuda.get_device_capability(device) >= (8, 0) or torch.version.hip is not None
    if device == "cpu":
        has: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.4 does not say
        return bool(has.get("avx512_bf16") or has.get("amx_bf16"))
    return False


@contextmanager
def autocast(context: Context) -> Iterator[None]:
    """Compute in the context's precision while entered; float32 keeps CUDA's convolutions from rounding to TF32."""
    kind = torch.device(context.device).type
    if context.precision != "float32":
        with torch.autocast(kind, dtype=getattr(torch, context.precision)):
            yield
    elif kind == "cuda":
        allowed = torch.backends.cudnn.allow_tf32
        torch.backends.cudnn.allow_tf32 = False
        try:
            yield
        finally:
            torch.backends.cudnn.allow_tf32 = allowed
    else:
        yield
