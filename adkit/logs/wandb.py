"""``[log] wandb``: files for Weights & Biases in the folder of the run, which nothing uploads by itself."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from PIL import Image

from adkit.logs.log import Log, Parameter, scoped

_ENVIRONMENT: Final = {
    "WANDB_MODE": "offline",
    "WANDB_SILENT": "true",  # it would print into the tables of adkit run
    "WANDB_ERROR_REPORTING": "false",
    "WANDB_PROJECT": "adkit",
}


class WandbLog(Log):
    """A run of Weights & Biases; a run that is resumed adds one of the same group, for offline none can go on."""

    key = "wandb"

    def __init__(self, name: str, run: Path) -> None:
        self._scope = ExitStack()
        self._scope.enter_context(scoped(os.environ, _ENVIRONMENT))
        try:
            import wandb
            from ignite.handlers.wandb_logger import WandBLogger

            self._wandb = wandb
            settings = wandb.Settings(
                console="off",  # of what is shown, it is to copy nothing
                disable_git=True,
                disable_code=True,
                x_disable_stats=True,
                x_disable_meta=True,  # the arguments of the command, in which a password may stand
                symlink=False,  # the folder is renamed at the end of the run
            )
            self.logger = WandBLogger(dir=str(run), name=name, group=name, settings=settings)
            self._run: Any = wandb.run
        except BaseException:
            self._scope.close()
            raise

    def first_step(self) -> int:
        """Steps of such a run can only rise, over one training after the other."""
        return int(self._run.step)

    def parameters(self, values: Mapping[str, Parameter]) -> None:
        self._wandb.config.update(dict(values), allow_val_change=True)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._wandb.log({**values, "minibatch": step})

    def image(self, tag: str, picture: Image.Image) -> None:
        self._wandb.log({tag: self._wandb.Image(picture)})

    def means(self, values: Mapping[str, float]) -> None:
        """Log them as the summary of the run, by which its table compares runs."""
        self._run.summary.update({f"mean/{name}": value for name, value in values.items()})

    def close(self, *, whole: bool) -> None:
        with self._scope:
            self._wandb.finish(exit_code=0 if whole else 1)
