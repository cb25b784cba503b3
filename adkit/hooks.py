"""The five hooks. A plugin is a module with one of these functions, named by an entry point in group ``adkit``.

A complete plugin, for a package index:

    # my_package/plugin.py
    import torch
    from adkit import Component, Params, Scores, hookimpl

    class Brightness:
        def fit(self, stream): ...
        ...

    @hookimpl
    def adkit_scorers():
        return [Component("brightness", "scorer", Params, lambda params, context: Brightness())]

    # pyproject.toml
    [project.entry-points.adkit]
    brightness = "my_package.plugin"
"""

from __future__ import annotations

from typing import Any

import pluggy

from adkit.contracts import Component

hookspec = pluggy.HookspecMarker("adkit")
hookimpl = pluggy.HookimplMarker("adkit")


@hookspec
def adkit_extractors() -> list[Component[Any]]:
    """What does a picture look like as features?"""
    raise AssertionError("a hook specification is never called")


@hookspec
def adkit_adapters() -> list[Component[Any]]:
    """How are those features fitted to the normal pictures?"""
    raise AssertionError("a hook specification is never called")


@hookspec
def adkit_scorers() -> list[Component[Any]]:
    """How far from normal is a feature?"""
    raise AssertionError("a hook specification is never called")


@hookspec
def adkit_localizers() -> list[Component[Any]]:
    """Where in the picture?"""
    raise AssertionError("a hook specification is never called")


@hookspec
def adkit_stoppers() -> list[Component[Any]]:
    """When has adapting gone far enough?"""
    raise AssertionError("a hook specification is never called")
