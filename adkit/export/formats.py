"""The file formats that detectors are exported to: what each needs, how it is written, and how its file is run."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adkit.errors import UserError
from adkit.export.graph import INPUT, Graph
from adkit.export.parity import Run
from adkit.inference.conversion import example_images, import_openvino, own_signal_stack, recorded, silent_torchscript
from adkit.utils.atomic import check_room
from adkit.utils.environment import DISTRIBUTION
from adkit.utils.text import did_you_mean


@dataclass(frozen=True)
class Format:
    """A file format: what it needs, how it is written, and how its file is run."""

    name: str
    file: str
    packages: tuple[str, ...]
    """The packages that the format needs besides torch; adkit's extra of the format's name installs them."""
    write: Callable[[Graph, Path], None]
    open: Callable[[Path], Run]
    runtime: str
    """How to load the file elsewhere, for people to read."""


def format_named(name: str) -> Format:
    """The format of that name, whose packages are installed.

    Raises:
        UserError: there is no such format, or a package is missing.
    """
    if name not in FORMATS:
        raise UserError(f"format: expected {' or '.join(FORMATS)}, found {name!r}{did_you_mean(name, FORMATS)}")
    wanted = FORMATS[name]
    missing = [package for package in wanted.packages if importlib.util.find_spec(package) is None]
    if missing:
        raise UserError(
            f"format {name}: expected the packages {', '.join(wanted.packages)}, found no {', '.join(missing)}: "
            f"pip install '{DISTRIBUTION}[{name}]'"
        )
    return wanted


def _write_onnx(graph: Graph, file: Path) -> None:
    program = torch.onnx.export(
        recorded(graph, graph.size), dynamo=True, input_names=[INPUT], output_names=list(graph.outputs), verbose=False
    )
    assert program is not None  # it is None without dynamo
    program.save(file)  # one file, unless it would be larger than the format allows


def _open_onnx(file: Path) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {INPUT: images})


def _write_openvino(graph: Graph, file: Path) -> None:
    openvino = import_openvino()
    model = openvino.convert_model(recorded(graph, graph.size))
    height, width = graph.size
    for port, name in zip((*model.inputs, *model.outputs), (INPUT, *graph.outputs), strict=True):
        port.get_tensor().set_names({name})
    model.reshape([-1, 3, height, width])
    try:
        openvino.save_model(model, file, compress_to_fp16=False)
    except RuntimeError:  # it says nothing that tells a full disk from another fault
        check_room(file.parent, sum(tensor.nbytes for tensor in graph.state_dict().values()))
        raise


def _open_openvino(file: Path) -> Run:
    # Left to itself, OpenVINO computes in bfloat16 on processors that can.
    with own_signal_stack():
        compiled = import_openvino().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda images: list(compiled(images).values())


def _write_torchscript(graph: Graph, file: Path) -> None:
    with silent_torchscript(), torch.no_grad():
        traced = torch.jit.trace(graph, (example_images(graph.size),), check_trace=False)  # type: ignore[no-untyped-call]
        data = io.BytesIO()  # torch aborts the process where it writes to a disk that is full
        torch.jit.save(torch.jit.freeze(traced), data)
    file.write_bytes(data.getbuffer())


def _open_torchscript(file: Path) -> Run:
    with silent_torchscript():
        module = torch.jit.load(file, map_location="cpu")  # type: ignore[no-untyped-call]

    def run(images: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        with torch.inference_mode():
            outputs: tuple[Tensor, ...] = module(torch.from_numpy(images))
        return [output.numpy() for output in outputs]

    return run


FORMATS = {
    known.name: known
    for known in (
        Format(
            "onnx",
            "model.onnx",
            ("onnx", "onnxscript", "onnxruntime"),
            _write_onnx,
            _open_onnx,
            "onnxruntime.InferenceSession(file)",
        ),
        Format(
            "openvino",
            "model.xml",
            ("openvino",),
            _write_openvino,
            _open_openvino,
            'openvino.compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}); without the hint, processors '
            "that can compute in bfloat16 do so, and scores differ",
        ),
        Format("torchscript", "model.pt", (), _write_torchscript, _open_torchscript, "torch.jit.load(file)"),
    )
}
