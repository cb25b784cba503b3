"""An interrupted run never goes on with another component than the one that began it, nor with what a fault left."""

import copy
import shutil
import sys
from pathlib import Path

import pytest

import adkit
from adkit import UserError
from adkit.data.dataset import open_dataset
from adkit.inference.assemble import assemble
from adkit.recipe.reader import read_recipe
from adkit.runner.fingerprint import Fingerprint
from adkit.runner.folder import RunFault
from tests.plugin import right
from tests.plugin.registries import install
from tests.recipe.small import write_small
from tests.runner.test_resume import Watch, go_on, interrupt

SOURCE = Path(right.__file__).read_text(encoding="utf-8")
SOURCE += """

from pydantic import Field

from adkit.plugin import Component, Params, hookimpl


class Mine(Params):
    gain: float = Field(1.0, gt=0, description="a factor that nothing depends on")


def two(kind, build):
    return [Component(name, kind, Mine, build) for name in ("mine", "other")]


@hookimpl
def adkit_extractors():
    return two("extractor", Sums)


@hookimpl
def adkit_adapters():
    return two("adapter", Compact)


@hookimpl
def adkit_stoppers():
    return two("stopper", Never)


@hookimpl
def adkit_scorers():
    return two("scorer", Sizes)


@hookimpl
def adkit_localizers():
    return two("localizer", Repeats)
"""
KINDS = ("extractor", "adapter", "stopper", "scorer", "localizer")


class Begun:
    """A run of five components of one distribution, interrupted after its training."""

    def __init__(self, folder):
        self.folder = folder
        self.module = install(folder, "clumsy", SOURCE)
        tables = {kind: {"use": "clumsy:mine"} for kind in KINDS}
        self.recipe = write_small(folder, **tables)

    def installed(self, source=SOURCE, version="1.0"):
        """Install the distribution anew, as an author who is at work on it does."""
        shutil.rmtree(next(self.folder.glob("clumsy-*.dist-info")))
        install(self.folder, "clumsy", source, version)

    def refusal(self, recipe):
        """What is said where the run is to go on by ``recipe``; it says nowhere that it goes on."""
        watch = Watch()
        with pytest.raises(UserError) as refused:
            adkit.run(recipe, display=watch, interrupted="resume")
        assert not [text for text in watch.said if "going on" in text or "goes on" in text]
        partial = self.folder / "runs" / ".small.partial"
        begin = f"{partial}: expected to go on with the run that was interrupted, found that "
        end = ": undo that, or start over with --fresh"
        told = str(refused.value)
        assert told.startswith(begin), told
        assert told.endswith(end), told
        return told.removeprefix(begin).removesuffix(end)


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("begun")
        patch.syspath_prepend(str(folder))
        patch.setattr(sys, "dont_write_bytecode", True)  # which is told from newer source by whole seconds alone
        run = Begun(folder)
        interrupt(run.recipe, "fit", "stripes")
        assert list((folder / "runs" / ".small.partial" / "work").rglob("*.pt"))
        yield run
        sys.modules.pop(run.module, None)


@pytest.mark.parametrize("kind", KINDS)
def test_another_component_is_refused(begun, kind):
    recipe = copy.deepcopy(begun.recipe)
    recipe[kind]["use"] = "clumsy:other"
    expected = f"the recipe changed: {kind}.use was 'clumsy:mine' and is 'clumsy:other'"
    assert begun.refusal(recipe) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_another_parameter_is_refused(begun, kind):
    recipe = copy.deepcopy(begun.recipe)
    recipe[kind]["gain"] = 2.0
    assert begun.refusal(recipe) == f"the recipe changed: {kind}.gain was 1.0 and is 2.0"


def test_another_default_is_refused(begun):
    begun.installed(SOURCE.replace("Field(1.0", "Field(3.0"))
    try:
        told = begun.refusal(begun.recipe)
    finally:
        begun.installed()
    gains = ", ".join(f"{kind}.gain was 1.0 and is 3.0" for kind in ("extractor", "adapter", "stopper"))
    assert told == f"the recipe changed: {gains} and 2 more; the code of clumsy_plugin changed"


def test_other_code_of_the_same_version_is_refused(begun):
    begun.installed(SOURCE.replace("self.score(features).mean()", "2 * self.score(features).mean()"))
    try:
        assert begun.refusal(begun.recipe) == "the code of clumsy_plugin changed"
    finally:
        begun.installed()


def test_another_version_is_refused(begun):
    begun.installed(version="2.0")
    try:
        assert begun.refusal(begun.recipe) == "versions changed: clumsy was '1.0' and is '2.0'"
    finally:
        begun.installed()


def test_the_same_components_go_on(begun, tmp_path):
    shutil.copytree(begun.folder / "runs", tmp_path / "runs")
    report, watch = go_on(begun.recipe, output=tmp_path / "runs")
    assert f"{tmp_path / 'runs' / 'small'}: going on after part of the training" in watch.said
    assert report.resumed == 1
    assert ("frozen blocks", "stripes") not in watch.stages


FAULTY = """
from typing import Literal

from pydantic import Field

from adkit.plugin import Adapter, Component, Group, Params, Schedule, Stage, Stopper, UserError, Verdict, hookimpl


class Place(Params):
    at: Literal["nowhere", "prepare", "check", "loss", "refuses", "late"] = Field("nowhere", description="the fault")


class Pulls(Adapter):
    reads_images = False
    schedule = Schedule(epochs=2, batch_size=2, learning_rate=1e-3)

    def prepare(self, see):
        if self.params.at == "prepare":
            raise ValueError("prepare")

    def stages(self, extractor):
        return [Stage([Group(extractor.blocks()["layer4"])])]

    def loss(self, step, features):
        if self.params.at == "refuses":
            raise UserError("adapter.at: expected another place, found this: choose one")
        if self.params.at == "loss" or self.params.at == "late" and step.minibatch == 4:
            raise ValueError(f"minibatch {step.minibatch}")
        return self.score(features).mean()

    def score(self, features):
        return features["pool"].square().sum((1, 2, 3))


class Judges(Stopper):
    def check(self, look):
        if self.params.at == "check":
            raise ValueError("check")
        return Verdict(keep=False, stop=False, reason="never")


@hookimpl
def adkit_adapters():
    return [Component.adapter("pulls", Place, Pulls)]


@hookimpl
def adkit_stoppers():
    return [Component.stopper("judges", Place, Judges)]
"""


@pytest.fixture
def faulty(tmp_path, monkeypatch):
    """A recipe of an adapter and a stopper that fail where they are told to, whose frozen blocks give rows."""
    monkeypatch.syspath_prepend(str(tmp_path))
    module = install(tmp_path, "clumsy", FAULTY)
    recipe = write_small(tmp_path, adapter={"use": "clumsy:pulls"}, stopper={"use": "clumsy:judges"})
    recipe["extractor"]["levels"] = ["pool"]
    yield recipe
    sys.modules.pop(module, None)


@pytest.mark.parametrize(
    ("kind", "at", "error"),
    [
        ("adapter", "prepare", RunFault),
        ("stopper", "check", RunFault),
        ("adapter", "loss", RunFault),
        ("adapter", "refuses", UserError),
    ],
)
def test_a_fault_before_the_first_checkpoint_leaves_nothing_to_go_on_from(faulty, tmp_path, kind, at, error):
    faulty[kind]["at"] = at
    watch = Watch()
    with pytest.raises(error):
        adkit.run(faulty, display=watch)
    assert ("frozen blocks", "stripes") in watch.stages or at == "prepare"
    assert not [text for text in watch.said if "kept" in text]
    assert not (tmp_path / "runs" / ".small.partial").exists()


def test_a_fault_after_a_checkpoint_keeps_it(faulty, tmp_path):
    faulty["adapter"]["at"] = "late"
    watch = Watch()
    with pytest.raises(RunFault, match="loss: ValueError: minibatch 4"):
        adkit.run(faulty, display=watch)
    kept = f"{tmp_path / 'runs' / 'small'}: kept part of the training; adkit run --resume goes on from there"
    assert watch.said[-1] == kept


def test_a_package_within_a_namespace_is_told_from_its_neighbors(tmp_path, monkeypatch):
    """``acme`` belongs to several distributions: what lies beside ``acme.vision`` is none of its code."""
    monkeypatch.syspath_prepend(str(tmp_path))
    vision, beside = tmp_path / "acme" / "vision", tmp_path / "acme" / "beside.py"
    vision.mkdir(parents=True)
    beside.write_text("ONE = 1\n")
    (vision / "__init__.py").write_text(SOURCE)
    (vision / "helper.py").write_text("ONE = 1\n")
    install(tmp_path, "acme-vision", None, entry="it = acme.vision")
    recipe = write_small(tmp_path, scorer={"use": "acme-vision:mine"}, extractor={"use": "acme-vision:mine"})
    recipe["localizer"] = {"use": "acme-vision:mine"}

    def code():
        parts = assemble(read_recipe(recipe))
        found = Fingerprint.of(parts, open_dataset(parts.recipe.data, 0)).root
        return {key: value for key, value in found.items() if key.startswith("code.")}

    before = code()
    assert list(before) == ["code.acme.vision"]
    beside.write_text("ONE = 2\n")
    assert code() == before
    (vision / "helper.py").write_text("ONE = 2\n")
    assert code() != before
    for name in ("acme.vision", "acme"):
        sys.modules.pop(name, None)
