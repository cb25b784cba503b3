"""Mistakes that authors make: each is found when the component is built or first called, and told as the plugin's."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import adkit
import adkit.recipe.reader
from adkit.cli.check import check
from adkit.errors import PluginError, UserError
from adkit.plugin import (
    Adapter,
    Component,
    Extractor,
    Features,
    Geometry,
    Group,
    Level,
    Params,
    Schedule,
    Scorer,
    Scores,
    Stage,
    Stopper,
    Verdict,
)
from adkit.plugin.registry import Origin, Registered, Registry, component_fault, discover
from adkit.runner.folder import RunFault
from tests.plugin.right import GRID, SIDE, Compact, Never, Repeats, Sizes, Sums

ORIGIN = Origin("clumsy", "1.0", "clumsy_plugin")


RIGHT = {"extractor": Sums, "adapter": Compact, "scorer": Sizes, "localizer": Repeats, "stopper": Never}


def changed(kind, **members):
    """The right component of a kind, with members of its own."""
    return type("Mine", (RIGHT[kind],), members)


def without(kind, *names):
    """An object of a kind that inherits from nothing and lacks some members."""
    members = {name: value for name, value in vars(RIGHT[kind]).items() if name not in names}
    base = nn.Module if kind == "extractor" else object
    return type("Mine", (base,), {**members, "__init__": lambda self, params, context: base.__init__(self)})


def built(change):
    """An ``__init__`` that changes the component after it was made the right way."""

    def init(self, params, context):
        super(type(self), self).__init__(params, context)
        change(self)

    return init


def level(of=Level, **values):
    return property(lambda self: {"cells": replace(Level(5, GRID, Geometry.covering(GRID, (SIDE, SIDE))), **values)})


def forwards(change):
    return lambda self, images: change(Sums.forward(self, images)["cells"])


def scores(change):
    return lambda self, features: change(Sizes.score(self, features))


def once(stage):
    return lambda self, extractor: [stage(list(extractor.parameters()))]


class Dropping(Sums):
    def __init__(self, params, context):
        super().__init__(params, context)
        self.drop = nn.Dropout(0.5)


class Unseeded(Sums):
    def __init__(self, params, context):
        super().__init__(params, context)
        self.head = nn.Linear(5, 5)
        self.eval()


class Numpy(Sizes):
    def __init__(self, params, context):
        super().__init__(params, context)
        self.at = np.random.rand()  # noqa: NPY002  the mistake


MISTAKES = {
    # kind, class, what the sentence says after the component's name
    "levels a list": (
        "extractor",
        changed("extractor", levels=property(lambda self: ["cells"])),
        "levels: expected a dict of at least one Level, found a list",
    ),
    "levels empty": (
        "extractor",
        changed("extractor", levels=property(lambda self: {})),
        "levels: expected a dict of at least one Level, found an empty dict",
    ),
    "no module": (
        "extractor",
        type("Mine", (), {"__init__": lambda self, params, context: None, "levels": {}}),
        "build: expected an nn.Module, whose weights are saved, found a Mine",
    ),
    "train mode": (
        "extractor",
        changed("extractor", __init__=built(lambda self: self.train())),
        "build: expected every module in evaluation mode, found itself in training mode: call self.eval()",
    ),
    "dropout that is active": (
        "extractor",
        Dropping,
        "build: expected every module in evaluation mode, found drop in training mode",
    ),
    "unseeded weights": (
        "extractor",
        Unseeded,
        "build: expected random numbers of the recipe's seed alone, found draws from the global generator of torch: "
        "draw from context.generator",
    ),
    "float16": (
        "extractor",
        changed("extractor", forward=forwards(lambda cells: {"cells": cells.half()})),
        "level cells: expected float32, found float16: convert it: .float()",
    ),
    "features a tensor": (
        "extractor",
        changed("extractor", forward=forwards(lambda cells: cells)),
        "features: expected a dict of levels, found a tensor",
    ),
    "channels first": (
        "extractor",
        changed("extractor", forward=forwards(lambda cells: {"cells": cells.permute(0, 3, 1, 2)})),
        "level cells: expected shape (4, 4, 4, 5), found a tensor (4, 5, 4, 4) float32: channels come last",
    ),
    "a level that was not stated": (
        "extractor",
        changed("extractor", forward=forwards(lambda cells: {"cells": cells, "more": cells})),
        "features: expected the levels cells, found cells, more",
    ),
    "another geometry": (
        "extractor",
        changed(
            "extractor", forward=forwards(lambda cells: Features({"cells": cells}, {"cells": Geometry((0, 0), (1, 1))}))
        ),
        "level cells: expected the geometry that levels states",
    ),
    "an exception": (
        "extractor",
        changed("extractor", forward=lambda self, images: images[99]),
        "IndexError: index 99 is out of bounds",
    ),
    "for_inference that returns None": (
        "extractor",
        changed("extractor", for_inference=lambda self: None),
        "for_inference: expected an nn.Module, whose weights are saved, found None",
    ),
    "the class itself": (
        "scorer",
        lambda params, context: Sizes,
        "build: expected an instance of Scorer, found the class Sizes",
    ),
    "nothing built": ("scorer", lambda params, context: None, "build: expected an instance of Scorer, found None"),
    "no state_dict": (
        "scorer",
        without("scorer", "state_dict"),
        "build: expected a scorer with fit, score, state_dict, load_state_dict, found a Mine without state_dict",
    ),
    "scores a tensor": (
        "scorer",
        changed("scorer", score=scores(lambda found: found.image)),
        "score: expected an adkit.plugin.Scores, found a tensor (2,) float32: return Scores(image)",
    ),
    "scores of two dimensions": (
        "scorer",
        changed("scorer", score=scores(lambda found: Scores(found.image[:, None]))),
        "scores: expected shape (2,), found (2, 1)",
    ),
    "scores in float64": (
        "scorer",
        changed("scorer", score=scores(lambda found: Scores(found.image.double()))),
        "scores: expected float32, found float64: convert it: .float()",
    ),
    "NaN scores": (
        "scorer",
        changed("scorer", score=scores(lambda found: Scores(found.image * torch.nan))),
        "the score of image",
    ),
    "a map of other cells": (
        "scorer",
        changed("scorer", score=scores(lambda found: Scores(found.image, {"cells": found.maps["cells"][:, :3]}))),
        "map 'cells': expected its geometry in Scores.geometry, as no level has that name and 3 × 4 cells",
    ),
    "a map without a level": (
        "scorer",
        changed("scorer", score=scores(lambda found: Scores(found.image, {"mine": found.maps["cells"]}))),
        "map 'mine': expected its geometry in Scores.geometry",
    ),
    "maps a list": (
        "scorer",
        changed("scorer", score=scores(lambda found: Scores(found.image, list(found.maps.values())))),
        "Scores.maps: expected a dict by level, found a list",
    ),
    "a state with an int": (
        "scorer",
        changed("scorer", state_dict=lambda self: {"mean": self.mean, "k": 2}),
        "state_dict: k: expected a tensor, found a int: make a tensor of it",
    ),
    "a state with NaN": (
        "scorer",
        changed("scorer", state_dict=lambda self: {"mean": self.mean * torch.nan}),
        "state_dict: mean: expected finite values, found NaN or infinity",
    ),
    "a state that is None": (
        "scorer",
        changed("scorer", state_dict=lambda self: None),
        "state_dict: expected a dict of tensors, found None",
    ),
    "a state that lacks what scoring needs": (
        "scorer",
        changed("scorer", state_dict=lambda self: {}, load_state_dict=lambda self, state: None),
        "state_dict: expected a state that can be loaded, found",
    ),
    "a state of other scores": (
        "scorer",
        changed("scorer", state_dict=lambda self: {"mean": self.mean + 1}),
        "state_dict: expected the same scores once it is loaded, found scores that differ by",
    ),
    "memory that is a float": (
        "scorer",
        changed("scorer", memory=lambda self, levels, images: 0.5),
        "memory: expected a number of bytes or None, found 0.5: round it",
    ),
    "memory(self, levels)": ("scorer", changed("scorer", memory=lambda self, levels: 1), "TypeError:"),
    "nearest without numbers": (
        "scorer",
        changed("scorer", nearest=lambda self, level, cells, k: (cells[:, :k], cells[:, :k])),
        "nearest: expected distances and whole numbers of shape (6, at most 3), found shapes (6, 3) and (6, 3) of",
    ),
    "a generator of NumPy": (
        "scorer",
        Numpy,
        "build: expected random numbers of the recipe's seed alone, found draws from the global generator of NumPy",
    ),
    "a map of another size": (
        "localizer",
        changed("localizer", localize=lambda self, scores, size: scores.maps["cells"]),
        "map: expected shape (2, 64, 64), found (2, 4, 4)",
    ),
    "NaN maps": (
        "localizer",
        changed("localizer", localize=lambda self, scores, size: Repeats.localize(self, scores, size) * torch.nan),
        "the map of image",
    ),
    "no localize": (
        "localizer",
        without("localizer", "localize"),
        "build: expected a localizer with localize, found a Mine without localize",
    ),
    "stages empty": (
        "adapter",
        changed("adapter", stages=lambda self, extractor: []),
        "stages: expected a list of at least one Stage, found an empty list",
    ),
    "stages of parameters": (
        "adapter",
        changed("adapter", stages=lambda self, extractor: list(extractor.parameters())),
        "stages: expected a list of at least one Stage, found",
    ),
    "groups empty": (
        "adapter",
        changed("adapter", stages=once(lambda own: Stage([]))),
        "stages: stage adapt: groups: expected a list of at least one Group, found an empty list",
    ),
    "parameters empty": (
        "adapter",
        changed("adapter", stages=once(lambda own: Stage([Group([])]))),
        "stages: stage adapt: parameters: expected a list of at least one, found an empty list",
    ),
    "parameters of a list": (
        "adapter",
        changed("adapter", stages=once(lambda own: Stage([Group([own])]))),
        "stages: stage adapt: parameters: expected parameters alone, found a list",
    ),
    "parameters of a head that is lost": (
        "adapter",
        changed("adapter", stages=once(lambda own: Stage([Group([nn.Parameter(torch.zeros(1))])]))),
        "parameters of the extractor alone, found another one: a head that is trained belongs to the extractor",
    ),
    "no minibatches": (
        "adapter",
        changed("adapter", stages=once(lambda own: Stage([Group(own[:1])], minibatches=0))),
        "stages: stage adapt: minibatches: expected a whole number above 0 or None, found 0",
    ),
    "extend that returns None": (
        "adapter",
        changed("adapter", extend=lambda self, extractor: None),
        "extend: expected an extractor with the levels of the given one and more, found None",
    ),
    "loss not scalar": (
        "adapter",
        changed("adapter", loss=lambda self, step, features: self.score(features)),
        "loss: expected a scalar tensor, found a tensor (4,) float32: take the mean over images",
    ),
    "loss a number": (
        "adapter",
        changed("adapter", loss=lambda self, step, features: 1.0),
        "loss: expected a scalar tensor, found a float",
    ),
    "loss without gradient": (
        "adapter",
        changed("adapter", loss=lambda self, step, features: self.score(features).mean().detach()),
        "loss: expected a scalar that gradients flow through to the parameters of stage adapt, found one without a "
        "gradient: compute it",
    ),
    "no terms": (
        "adapter",
        changed("adapter", loss=lambda self, step, features: {}),
        "loss: expected at least one term, found none",
    ),
    'fuse = "median"': (
        "adapter",
        changed("adapter", fuse="median"),
        "fuse: expected None or one of mean, max_ratio, found 'median'",
    ),
    "need_scorer": (
        "adapter",
        type("Mine", (without("adapter"),), {"need_scorer": True}),
        "need_scorer is no member of Adapter (did you mean needs_scorer?)",
    ),
    "after_steps": (
        "adapter",
        type("Mine", (without("adapter"),), {"after_steps": lambda self, step, rates: None}),
        "after_steps is no member of Adapter (did you mean after_step?)",
    ),
    "needs_scorer that is a word": (
        "adapter",
        changed("adapter", needs_scorer="yes"),
        "needs_scorer: expected True or False, found 'yes'",
    ),
    "a schedule that is a dict": (
        "adapter",
        changed("adapter", schedule={"minibatches": 2}),
        "schedule: expected an adkit.plugin.Schedule, found a dict",
    ),
    "a schedule that cannot be": (
        "adapter",
        changed("adapter", schedule=Schedule(optimizer="lion", minibatches=2)),
        "schedule: expected optimizer one of sgd, adam, adamw, found 'lion'",
    ),
    "batch that returns images": (
        "adapter",
        changed("adapter", batch=lambda self, step: step.batch.images),
        "batch: expected an adkit.plugin.Batch, found a tensor",
    ),
    "a score of each level": (
        "adapter",
        changed(
            "adapter",
            score=lambda self, features: features["cells"].mean((1, 2)),
            loss=lambda self, step, features: features["cells"].mean(),
            schedule=replace(Compact.schedule, snapshot_epochs=0.1),
        ),
        "score: expected shape",
    ),
    "a stopper that returns a bool": (
        "stopper",
        changed("stopper", check=lambda self, look: True),
        "check: expected an adkit.plugin.Verdict, found a bool: return Verdict(keep=…, stop=…, reason=…)",
    ),
    "a verdict of NumPy": (
        "stopper",
        changed("stopper", check=lambda self, look: Verdict(np.bool_(True), False, "so")),
        "check: Verdict.keep: expected a bool, found",
    ),
    "a value that is NaN": (
        "stopper",
        changed("stopper", check=lambda self, look: Verdict(False, False, "so", float("nan"))),
        "check: Verdict.value: expected a finite number or None, found nan",
    ),
    "a share above 1": (
        "stopper",
        changed("stopper", validation=2.0),
        "validation: expected a share of the images in [0, 1), found 2.0",
    ),
    "a state with a list": (
        "stopper",
        changed("stopper", state_dict=lambda self: {"best": [1]}),
        "state_dict: best: expected a number, found a list: convert it: float(…)",
    ),
}


@pytest.fixture
def faulty(small_recipe, monkeypatch):
    """Makes the smallest recipe use a component of a kind that is installed beside the built-in ones."""
    there = discover()
    own = [entry for kind in RIGHT for entry in there.found(kind)]

    def use(kind, build):
        right = {**RIGHT, kind: build}
        made = [Registered(Component("mine", each, Params, one), ORIGIN) for each, one in right.items()]
        registry = Registry([*own, *made], [])
        monkeypatch.setattr(adkit.recipe.reader, "discover", lambda: registry)
        small_recipe["data"]["image_size"] = SIDE
        for each in ("extractor", "scorer", "localizer"):
            small_recipe[each] = {"use": "mine"}
        if kind in ("adapter", "stopper"):
            small_recipe["adapter"] = {"use": "mine"}
            small_recipe["stopper"] = {"use": "mine"}
        return small_recipe

    return use


@pytest.mark.parametrize("kind", RIGHT)
def test_the_right_way_runs(faulty, kind):
    recipe = faulty(kind, RIGHT[kind])
    assert "in order" in check(recipe)
    adkit.run(recipe)


def fault_of(recipe):
    """What is said of a recipe by ``adkit check`` or, if that finds nothing, by the run."""
    try:
        check(recipe)
    except (PluginError, UserError) as error:
        return str(error)
    with pytest.raises((RunFault, UserError)) as found:
        adkit.run(recipe)
    return str(found.value).removeprefix("plugin fault: ")


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_as_the_plugins_with_a_thing_to_do(faulty, mistake):
    kind, build, sentence = MISTAKES[mistake]
    recipe = faulty(kind, build)
    told = fault_of(recipe)
    assert told.startswith(f"{kind} mine of clumsy 1.0 (clumsy_plugin): "), told
    assert sentence in told
    if "Error" not in sentence:  # what a plugin raises is passed on as it is
        assert re.search(r"[:;] \S.*$", told.rpartition("found")[2]), told


@pytest.mark.parametrize(
    ("kind", "build", "sentence"),
    [
        (
            "scorer",
            type("Half", (Scorer,), {"fit": lambda self, stream: None}),
            "lacks score, state_dict, load_state_dict",
        ),
        ("adapter", type("Part", (Adapter,), {"prepare": lambda self, see: None}), "lacks stages, loss, score"),
        ("stopper", type("None", (Stopper,), {}), "lacks check"),
    ],
)
def test_a_class_that_lacks_a_member_is_found_at_discovery(kind, build, sentence):
    assert sentence in component_fault(Component("mine", kind, Params, build), f"adkit_{kind}s")


@pytest.mark.parametrize(
    ("base", "name", "meant"),
    [
        (Adapter, "need_scorer", "needs_scorer"),
        (Adapter, "after_steps", "after_step"),
        (Adapter, "read_images", "reads_images"),
        (Scorer, "for_exports", "for_export"),
        (Stopper, "validations", "validation"),
        (Extractor, "for_inferences", "for_inference"),
        (Stopper, "load_state", "load_state_dict"),
        (Stopper, "get_state_dict", "state_dict"),
        (Scorer, "make_for_export", "for_export"),
    ],
)
def test_a_misspelt_member_is_refused_when_the_class_is_made(base, name, meant):
    with pytest.raises(TypeError, match=rf"{name} is no member of {base.__name__} \(did you mean {meant}\?\)"):
        type("Mine", (base,), {name: True})


@pytest.mark.parametrize(
    ("base", "name"),
    [(Stopper, "state"), (Stopper, "dict"), (Adapter, "batch_size"), (Extractor, "split_at"), (Stopper, "load")],
)
def test_a_name_that_shares_one_word_with_a_member_is_the_authors_own(base, name):
    assert getattr(type("Mine", (base,), {name: 1}), name) == 1
