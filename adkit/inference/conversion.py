"""How each runtime is given the network of an extractor, and how it computes it."""

from __future__ import annotations

import copy
import ctypes
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal
from xml.etree import ElementTree

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from adkit.plugin.context import Precision
from adkit.plugin.contract import member
from adkit.plugin.extractor import Extractor

RuntimeName = Literal["torch", "openvino", "onnx", "compile"]
Files = Mapping[str, bytes]
"""What a network was converted to: the name of each file → its contents."""
AT_ONCE: Final = 8
"""Images that OpenVINO computes at a time: of more, what is between its layers leaves the processor's caches."""
Run = Callable[[Tensor], Sequence[Tensor]]
"""A function from images (n, 3, H, W) on the device to the levels (n, h, w, c), in their order, which it keeps no
more."""


class LevelsOf(nn.Module):
    """An extractor as a network from images to its levels, in their order."""

    def __init__(self, extractor: Extractor, size: tuple[int, int]) -> None:
        """
        Args:
            size: (height, width) of the images in pixels.
        """
        super().__init__()
        self.extractor, self.size, self._names = extractor, size, tuple(extractor.levels)
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        found = self.extractor(images)
        return tuple(found[name] for name in self._names)


def example_images(size: tuple[int, int]) -> Tensor:
    """Make images to record a network with: two, since exporters take a batch of one for a constant."""
    return torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))


def recorded(network: nn.Module, size: tuple[int, int]) -> torch.export.ExportedProgram:
    """Record a network of images (n, 3, height, width) for any number of them."""
    any_number = torch.export.Dim("n", min=1)
    with torch.no_grad():
        return torch.export.export(network, (example_images(size),), dynamic_shapes=({0: any_number},), strict=False)


def reason(error: BaseException) -> str:
    """The error that stopped an exporter or a runtime, in one line.

    It is the innermost one: those wrapped around it hold advice for the exporter's developers.
    """
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1] if "TorchScript interpreter" in lines[0] else lines[0]  # which shows a traceback of its own first


def import_openvino() -> Any:
    """Import the package openvino without the one by which it would report each import to its maker."""
    reporter = "openvino_telemetry"
    before = sys.modules.get(reporter)
    sys.modules[reporter] = None  # type: ignore[assignment]
    try:
        import openvino
    finally:
        del sys.modules[reporter]
        if before is not None:
            sys.modules[reporter] = before
    return openvino


@contextmanager
def silent_torchscript() -> Iterator[None]:
    """Silence torch's warnings that TorchScript is deprecated and that a trace passes Python conditions.

    Who asks for it knows the first, and compares what it gives with what torch gives.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.jit")
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"torch\.jit")
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)  # type: ignore[attr-defined]
        yield


def _to_openvino(network: LevelsOf) -> Files:
    openvino = import_openvino()
    shape = [-1, 3, *network.size]
    # A trace is converted in a tenth of the time, but has for constants what a network does by what it sees.
    if _depends_on_values(network):
        model = openvino.convert_model(recorded(network, network.size))
        model.reshape(shape)
    else:
        with silent_torchscript(), torch.no_grad():
            example = (example_images(network.size),)
            traced = torch.jit.trace(network, example, check_trace=False)  # type: ignore[no-untyped-call]
        model = openvino.convert_model(traced, input=[(shape, np.float32)])
    with tempfile.TemporaryDirectory(prefix="adkit-") as folder:
        openvino.save_model(model, Path(folder, "model.xml"), compress_to_fp16=False)
        return {name: Path(folder, name).read_bytes() for name in ("model.xml", "model.bin")}


def _depends_on_values(network: LevelsOf) -> bool:
    """Whether what a network does may depend on values, by computing it with tensors that have none.

    A copy is computed, since networks keep what they make, and then whatever cannot be computed so counts as well.
    """
    try:
        from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode

        fake = FakeTensorMode()
        with FakeCopyMode(fake):
            copied, images = copy.deepcopy((network, example_images(network.size)))
        with fake, torch.no_grad():
            copied(images)
    except Exception:  # noqa: BLE001  # that of a number that is asked for among them
        return True
    return False


def _by_openvino(network: LevelsOf, files: Files, precision: Precision) -> Run:
    if precision == "float32":
        return _OpenVino(files["model.xml"], files["model.bin"], "f32")
    first = _first_layers(network.extractor)
    # Where the layers that stay in float32 end between some pairs of layers, OpenVINO 2026.4 computes nothing.
    for number in (first, first + 1, first + 2) if first else ():
        run = _OpenVino(_in_float32(files["model.xml"], number), files["model.bin"], "bf16")
        with suppress(RuntimeError):
            run(torch.zeros(1, 3, *network.size))
            return run
    return _OpenVino(files["model.xml"], files["model.bin"], "bf16")


class _SignalStack(ctypes.Structure):
    """``stack_t`` of Linux."""

    _fields_ = (("place", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextmanager
def own_signal_stack() -> Iterator[None]:
    """Give this thread back the stack on which it handles signals.

    As it compiles, OpenVINO 2026.4 sets one that it frees with the network: Ctrl-C would then be a segmentation fault.
    """
    if sys.platform != "linux":
        yield
        return
    system, before = ctypes.CDLL(None), _SignalStack()
    system.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        system.sigaltstack(ctypes.byref(before), None)


class _OpenVino:
    """A network that OpenVINO computes; implements ``Run``."""

    def __init__(self, model: bytes, weights: bytes, precision: str) -> None:
        core = import_openvino().Core()
        settings = {
            "INFERENCE_PRECISION_HINT": precision,  # left to itself, it is bfloat16 on processors that can
            "PERFORMANCE_HINT": "LATENCY",  # one batch at a time, on all cores
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        with own_signal_stack():
            self._compiled = core.compile_model(core.read_model(model, weights), "CPU", settings)
        self._request = self._compiled.create_infer_request()

    def __call__(self, images: Tensor) -> list[Tensor]:
        pixels = images.contiguous().numpy()
        levels: list[NDArray[np.float32]] = []
        for first in range(0, len(pixels), AT_ONCE):
            found = self._request.infer([pixels[first : first + AT_ONCE]], share_inputs=True, share_outputs=True)
            few = [found[port] for port in self._compiled.outputs]  # which the next ones are written over
            levels = levels or [np.empty((len(pixels), *level.shape[1:]), np.float32) for level in few]
            for level, some in zip(levels, few, strict=True):
                level[first : first + AT_ONCE] = some
        with torch.inference_mode(False):
            return [torch.from_numpy(level) for level in levels]


def _first_layers(extractor: Extractor) -> int:
    """The number of convolutions and linear layers in the first two blocks: where rounding costs most."""
    blocks = list(member(extractor, Extractor, "blocks")().values())
    first = {id(parameter) for block in blocks[:2] for parameter in block}
    layers = (module for module in extractor.modules() if isinstance(module, nn.Conv2d | nn.Linear))
    return sum(id(layer.weight) in first for layer in layers)


def _in_float32(model: bytes, layers: int) -> bytes:
    """An OpenVINO model whose first so many convolutions and linear layers are computed in float32."""
    root = ElementTree.fromstring(model)
    found = 0
    for layer in root.find("layers") or ():
        found += layer.get("type") in ("Convolution", "GroupConvolution", "MatMul")
        if found > layers:
            break
        if layer.get("type") not in ("Const", "Parameter"):
            notes = layer.find("rt_info")
            if notes is None:
                notes = ElementTree.Element("rt_info")
                layer.insert(1 if layer.find("data") is not None else 0, notes)
            ElementTree.SubElement(notes, "attribute", name="precise", version="0")
    return ElementTree.tostring(root)


def _to_onnx(network: LevelsOf) -> Files:
    program = torch.onnx.export(recorded(network, network.size), dynamo=True, verbose=False)
    assert program is not None  # it is None without dynamo
    return {"model.onnx": program.model_proto.SerializeToString()}


def _by_onnx(network: LevelsOf, files: Files, precision: Precision) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(files["model.onnx"], options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: [torch.from_numpy(found) for found in session.run(None, {name: images.contiguous().numpy()})]


def _by_compile(network: LevelsOf, files: Files, precision: Precision) -> Run:
    compiled = torch.compile(network)

    def run(images: Tensor) -> Sequence[Tensor]:
        if len(images) > 1:  # the last batch may have fewer
            torch._dynamo.mark_dynamic(images, 0)
        found: Sequence[Tensor] = compiled(images)
        return found

    return run


@dataclass(frozen=True)
class Conversion:
    """How a runtime is given a network, and how it computes it."""

    packages: tuple[str, ...]
    """The packages that it needs; the version of the first is that of the runtime."""
    precisions: tuple[Precision, ...]
    devices: tuple[str, ...]
    convert: Callable[[LevelsOf], Files]
    open: Callable[[LevelsOf, Files, Precision], Run]
    keeps: bool = True
    """Whether it is worth keeping what the network was converted to; else it is given the extractor itself."""


CONVERSIONS: Final[Mapping[str, Conversion]] = {
    "openvino": Conversion(("openvino",), ("float32", "bfloat16"), ("cpu",), _to_openvino, _by_openvino),
    "onnx": Conversion(("onnxruntime", "onnx", "onnxscript"), ("float32",), ("cpu",), _to_onnx, _by_onnx),
    "compile": Conversion(
        ("torch",), ("float32", "bfloat16", "float16"), ("cpu", "cuda"), lambda network: {}, _by_compile, keeps=False
    ),
}
"""The runtimes besides torch."""


def precisions_of(name: str) -> Sequence[Precision]:
    """The precisions that a runtime computes in; none named where any may be."""
    return CONVERSIONS[name].precisions if name in CONVERSIONS else ()
