"""``[log] tensorboard``: event files in the folder of the run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from adkit.logs.log import Log, Parameter

FOLDER: Final = "tensorboard"
"""The folder of a run that has its event files."""
_FLUSHED: Final = 10
"""Seconds after which an event can be read at the latest."""


class TensorBoardLog(Log):
    """Event files, of which every resumption of a run adds one."""

    key = "tensorboard"

    def __init__(self, run: Path) -> None:
        from ignite.handlers.tensorboard_logger import TensorboardLogger

        self._folder = run / FOLDER
        self._parameters: dict[str, Parameter] = {}
        self.logger = logger = TensorboardLogger(log_dir=str(self._folder), flush_secs=_FLUSHED)
        self._writer = logger.writer

    def parameters(self, values: Mapping[str, Parameter]) -> None:
        self._parameters = dict(values)
        rows = (f"| {name} | {str(value).replace('|', '&#124;')} |" for name, value in values.items())
        self._writer.add_text("recipe", "\n".join(("| key | value |", "|---|---|", *rows)), 0)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for tag, value in values.items():
            self._writer.add_scalar(tag, value, step)

    def image(self, tag: str, picture: Image.Image) -> None:
        self._writer.add_image(tag, np.asarray(picture), 0, dataformats="HWC")

    def means(self, values: Mapping[str, float]) -> None:
        """Log them with the recipe, so that TensorBoard's table of hyperparameters compares runs."""
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        super().means(values)
        # SummaryWriter.add_hparams would make a folder for these alone, which is another run to TensorBoard.
        with SummaryWriter(str(self._folder)) as writer:
            table = hparams(self._parameters, {f"mean/{name}": value for name, value in values.items()})  # type: ignore[no-untyped-call]
            for part in table:
                writer.file_writer.add_summary(part, 0)

    def close(self, *, whole: bool) -> None:
        self.logger.close()
