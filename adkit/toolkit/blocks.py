"""What adapters share: which blocks they train, and losses that are means over levels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field
from torch import Tensor, nn

from adkit.errors import UserError
from adkit.plugin.adapter import Adapter, Group, Stage
from adkit.plugin.contract import member
from adkit.plugin.extractor import Extractor
from adkit.plugin.params import Params
from adkit.utils.text import did_you_mean

Blocks = Literal["all"] | Annotated[int, Field(ge=1)] | Annotated[tuple[str, ...], Field(min_length=1)]
"""The parameter ``blocks`` of an adapter: all blocks, a number of the last ones, or the names of some."""

BLOCKS = "blocks of the extractor to train: all, how many of the last ones, or their names"
"""Description of the parameter ``blocks``."""

CLASSIFIER = "classifier"
"""Name of the block that is never trained by a choice of blocks, since no level depends on it."""


def offered_blocks(extractor: Extractor) -> Mapping[str, Sequence[nn.Parameter]]:
    """Return the blocks that an extractor offers to adapters.

    Raises:
        UserError: it offers none.
    """
    found: Mapping[str, Sequence[nn.Parameter]] = member(extractor, Extractor, "blocks")()
    if not found:
        raise UserError(
            "extractor.use: expected an extractor that offers blocks to adapters, found a "
            f"{type(extractor).__name__} without: use another one, such as timm, or no adapter"
        )
    return found


def classified(extractor: Extractor, images: Tensor) -> Tensor:
    """Return the (n, classes) logits of the classifier that an extractor was pretrained with.

    Args:
        images: (n, 3, H, W) float32 RGB in [0, 1], on the extractor's device.

    Raises:
        UserError: it has no classifier.
    """
    found: Tensor | None = member(extractor, Extractor, "classify")(images)
    if found is None:
        raise UserError(
            "extractor.use: expected an extractor with a classifier, which this adapter needs, found a "
            f"{type(extractor).__name__} without: use another one, such as timm, or another adapter"
        )
    return found


def classifiers_of(model: Any) -> tuple[str, ...]:
    """The names of the modules of a timm model that turn pooled features into logits: one, or two in distilled ones."""
    names = model.pretrained_cfg.get("classifier") or ()
    return (names,) if isinstance(names, str) else tuple(names)


def tuned(extractor: Extractor, blocks: Blocks) -> list[nn.Parameter]:
    """List the parameters of the blocks that an adapter's ``blocks`` names, from input to output.

    Those behind the last level that is read never get a gradient and stay as they are.

    Raises:
        UserError: the extractor has no such blocks.
    """
    offered = {name: block for name, block in offered_blocks(extractor).items() if name != CLASSIFIER}
    if isinstance(blocks, int):
        if blocks > len(offered):
            raise UserError(
                f"adapter.blocks: expected at most {len(offered)}, which the extractor has ({', '.join(offered)}), "
                f'found {blocks}: name fewer, or "all"'
            )
        chosen = list(offered)[-blocks:]
    else:
        chosen = list(offered) if blocks == "all" else list(blocks)
    for name in chosen:
        if name not in offered:
            raise UserError(
                f"adapter.blocks: expected blocks of the extractor, found {name!r}{did_you_mean(name, offered)}: name "
                f"some of {', '.join(offered)}"
            )
    return [parameter for name, block in offered.items() if name in chosen for parameter in block]


class TunesBlocks(Params):
    """The parameters of an adapter that trains some blocks; a subclass gives ``blocks`` a default."""

    blocks: Blocks = Field(description=BLOCKS)


T = TypeVar("T", bound=TunesBlocks)


class BlocksAdapter(Adapter[T]):
    """Base of adapters that train the blocks named by ``blocks`` in one stage, by a loss of features alone."""

    reads_images = False

    def stages(self, extractor: Extractor) -> Sequence[Stage]:
        return [Stage([Group(tuned(extractor, self.params.blocks))])]


def mean_terms(levels: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Split a loss, the mean over images and levels, into one term per level; the sum of the terms is that mean.

    Args:
        levels: level name → (n,) loss of each image.
    """
    return {name: values.mean() / len(levels) for name, values in levels.items()}
