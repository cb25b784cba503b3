"""The five hooks that plugins implement.

A plugin is a module with one of these functions, named by an entry point of the group ``adkit``. This one is complete
and can be pasted:

    # brightness.py: how far the mean of an image's features is from normal
    import torch
    from adkit.plugin import Component, NotFittedError, Params, Scorer, Scores, hookimpl
    from adkit.toolkit.scoring import checked_state


    class Brightness(Scorer):
        mean = None

        def fit(self, stream):
            self.mean = torch.cat([features["pool"].mean((1, 2, 3)) for features in stream]).mean()

        def score(self, features):
            if self.mean is None:
                raise NotFittedError("brightness")
            return Scores((features["pool"].mean((1, 2, 3)) - self.mean).abs())  # (n, 1, 1, c) → (n,)

        def state_dict(self):
            return {} if self.mean is None else {"mean": self.mean}

        def load_state_dict(self, state):
            self.mean = checked_state("brightness", state, {"mean": 0})["mean"]


    @hookimpl
    def adkit_scorers():
        return [Component.scorer("brightness", Params, Brightness)]

    # pyproject.toml
    [project.entry-points.adkit]
    brightness = "brightness"
"""

from __future__ import annotations

from typing import Any

import pluggy

from adkit.plugin.component import Component

hookspec = pluggy.HookspecMarker("adkit")
hookimpl = pluggy.HookimplMarker("adkit")


@hookspec
def adkit_extractors() -> list[Component[Any]]:
    """What does an image look like as features?"""
    raise AssertionError("a hook specification is never called")


@hookspec
def adkit_adapters() -> list[Component[Any]]:
    """How are the features fitted to the normal images?"""
    raise AssertionError("a hook specification is never called")


@hookspec
def adkit_scorers() -> list[Component[Any]]:
    """How far from normal is a feature?"""
    raise AssertionError("a hook specification is never called")


@hookspec
def adkit_localizers() -> list[Component[Any]]:
    """Where is the image anomalous?"""
    raise AssertionError("a hook specification is never called")


@hookspec
def adkit_stoppers() -> list[Component[Any]]:
    """When has adapting gone far enough?"""
    raise AssertionError("a hook specification is never called")
