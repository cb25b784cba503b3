"""What adapters share: which blocks they train, and losses that are means over levels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, Protocol

from pydantic import Field
from torch import Tensor, nn

from adkit.errors import UserError
from adkit.plugin.adapter import Group, Stage
from adkit.plugin.extractor import AdaptableExtractor, Extractor
from adkit.utils.text import did_you_mean

Blocks = Literal["all"] | Annotated[int, Field(ge=1)] | Annotated[tuple[str, ...], Field(min_length=1)]
"""The parameter ``blocks`` of an adapter: all blocks, a number of the last ones, or the names of some."""

BLOCKS = "blocks of the extractor to train: all, how many of the last ones, or their names"
"""Description of the parameter ``blocks``."""

CLASSIFIER = "classifier"
"""Name of the block that is never trained by a choice of blocks, since no level depends on it."""


def adaptable(extractor: Extractor) -> AdaptableExtractor:
    """Return ``extractor``, provided that it offers what adapters need besides features.

    Raises:
        UserError: it does not offer its blocks and classifier.
    """
    if not isinstance(extractor, AdaptableExtractor):
        raise UserError(
            f"extractor.use: expected an extractor that offers its blocks and classifier to adapters, found a "
            f"{type(extractor).__name__}: use another one, such as timm"
        )
    return extractor


def tuned(extractor: Extractor, blocks: Blocks) -> list[nn.Parameter]:
    """List the parameters of the blocks that an adapter's ``blocks`` names, from input to output.

    Those behind the last level that is read never get a gradient and stay as they are.

    Raises:
        UserError: the extractor has no such blocks.
    """
    offered = {name: block for name, block in adaptable(extractor).blocks().items() if name != CLASSIFIER}
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


class TunesBlocks(Protocol):
    """The parameters (``Params``) of an adapter that trains some blocks."""

    @property
    def blocks(self) -> Blocks: ...


class BlocksAdapter:
    """Base of adapters that train the blocks named by ``blocks`` in one stage; ``prepare`` sets ``_parameters``."""

    params: TunesBlocks
    _parameters: list[nn.Parameter]

    def trained(self, extractor: Extractor) -> list[nn.Parameter]:
        return tuned(extractor, self.params.blocks)

    def stages(self) -> Sequence[Stage]:
        return [Stage([Group(self._parameters)])]


def mean_terms(levels: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Split a loss, the mean over images and levels, into one term per level; the sum of the terms is that mean.

    Args:
        levels: level name → (n,) loss of each image.
    """
    return {name: values.mean() / len(levels) for name, values in levels.items()}
