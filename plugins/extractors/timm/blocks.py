"""The blocks of a timm network, from input to output."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch import nn

from adkit.toolkit.blocks import classifiers_of


def blocks_of(model: Any) -> dict[str, list[nn.Parameter]]:
    """The blocks of a timm model, which have every parameter in exactly one of them.

    Returns:
        Block name → its parameters: ``stem``, the stages by their own names (``layer2``, ``blocks.4``), ``head`` and
        ``classifier``, in this order; blocks without parameters are left out.
    """
    classifier = tuple(f"{name}." for name in classifiers_of(model))
    stages = _stages(model)
    blocks: dict[str, list[nn.Parameter]] = {name: [] for name in ("stem", *stages, "head", "classifier")}
    outside = "stem"  # the block of what is in no stage: "head" once a stage was seen
    for name, parameter in model.named_parameters():
        stage = next((stage for stage in stages if name.startswith(f"{stage}.")), None)
        if stage is not None:
            outside = "head"
        blocks["classifier" if name.startswith(classifier) else stage or outside].append(parameter)
    return {name: parameters for name, parameters in blocks.items() if parameters}


def _stages(model: Any) -> list[str]:
    """The names of the modules after which timm reads features, and of their siblings between and behind them."""
    named = [entry["module"] for entry in getattr(model, "feature_info", ())]
    parents = Counter(name.rpartition(".")[0] for name in named)
    parent = parents.most_common(1)[0][0] if parents else ""
    siblings = [
        f"{parent}.{name}".lstrip(".")
        for name, module in model.get_submodule(parent).named_children()
        if next(module.parameters(), None) is not None
    ]
    first = next((index for index, name in enumerate(siblings) if name in named), 0)
    return siblings[first:]
