"""``adkit plugins new``: a package with one working component, its contract test and a recipe, to change and publish.

The components are those of ``templates/``, which docs/plugins.md shows.
"""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import Final

from adkit.errors import UserError
from adkit.plugin.component import Kind
from adkit.plugin.registry import discover, is_name, kind_named
from adkit.utils.atomic import whole_folder
from adkit.utils.environment import DISTRIBUTION

PYPROJECT: Final = """\
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "{distribution}"
version = "0.1.0"
description = "An anomaly-detection {kind} for adkit"
readme = "README.md"
requires-python = ">=3.11"
dependencies = ["{adkit}"]

[project.optional-dependencies]
test = ["pytest", "ruff", "mypy"]

[project.entry-points.adkit]
{name} = "{module}"

[tool.setuptools]
py-modules = ["{module}"]

[tool.ruff]
line-length = 120

[tool.mypy]
strict = true
files = ["{module}.py", "test_{module}.py"]
"""

TEST: Final = '''\
"""The contract of adkit's plugins, checked."""

from adkit.testing import check_component

from {module} import adkit_{kind}s


def test_contract() -> None:
    for component in adkit_{kind}s():
        check_component(component)
'''

STEPS: Final = (
    ('pip install --editable ".[test]"', "adkit finds it by its entry point"),
    ("adkit plugins {kind} {name}", "its parameters, as a block to paste into a recipe"),
    ("pytest && ruff check . && mypy", "its contract, style and types"),
    ("adkit run recipe.toml", "a detector with it, on a photographed texture"),
)
"""Commands → what they show."""

README: Final = """\
# {distribution}

The {kind} `{name}` for adkit.

{steps}
"""

DATA: Final = """\
[data]
format = "textures" # three photographs with drawn defects, written to data/textures the first time
root = "data/textures"
category = "brick"
"""

LITE: Final = """\
[extractor]
use = "timm"
backbone = "tf_efficientnet_lite0"
weights = "packaged" # installed with adkit
levels = {levels}
"""

TRAINED: Final = """\
[training]
minibatches = {minibatches}
relative_steps = true
learning_rate = 1e-4
"""

RECIPES: Final[dict[Kind, str]] = {
    "extractor": '[extractor]\nuse = "{name}"\n\n[scorer]\nuse = "gaussian"\n',
    "adapter": LITE.format(levels='["pool"]')
    + '\n[adapter]\nuse = "{name}"\n\n'
    + TRAINED.format(minibatches=10)
    + '\n[scorer]\nuse = "knn"\n',
    "scorer": LITE.format(levels='["blocks.2", "blocks.4"]') + '\n[scorer]\nuse = "{name}"\n',
    "localizer": LITE.format(levels='["blocks.2", "blocks.4"]')
    + '\n[scorer]\nuse = "gaussian"\n\n[localizer]\nuse = "{name}"\n',
    "stopper": LITE.format(levels='["pool"]')
    + '\n[adapter]\nuse = "panda"\nblocks = 1\n\n'
    + TRAINED.format(minibatches=10)
    + '\n[stopper]\nuse = "{name}"\n\n[scorer]\nuse = "knn"\n',
}


def template(kind: Kind) -> str:
    """The source of a working component of a kind, whose name is ``mine`` and whose classes begin with ``Mine``."""
    return resources.files("adkit.cli").joinpath("templates", f"{kind}.py").read_text(encoding="utf-8")


def new_plugin(kind: str, name: str, folder: Path) -> str:
    """Write a package with one working component.

    Args:
        kind: of which kind it is.
        name: what recipes call it.
        folder: where the package's folder is made.

    Returns:
        What to do next, for the user.

    Raises:
        UserError: there is no such kind, the name is none, is taken or has a folder already.
    """
    of = kind_named(kind)
    if not is_name(name):
        raise UserError(
            f"plugins new: expected a name of lower-case letters, digits and underscores, found {name!r}: change it"
        )
    taken = [str(one.origin) for one in discover().found(of) if one.component.name == name]
    if taken:
        raise UserError(f"plugins new: expected a name that no {of} has, found {name!r} of {taken[0]}: choose another")
    distribution, module = f"adkit-{name.replace('_', '-')}", f"adkit_{name}"
    package = folder / distribution
    if package.exists():
        raise UserError(f"{package}: expected no such folder, found one: choose another name, or --dir")
    title = "".join(part.capitalize() for part in name.split("_"))
    source = re.sub(r"\bMine(?=[A-Z])", title, re.sub(r"\bmine\b", name, template(of)))
    words = {"kind": of, "name": name, "module": module, "distribution": distribution, "adkit": DISTRIBUTION}
    width = max(len(command.format(**words)) for command, _ in STEPS)
    steps = [f"{command.format(**words):<{width}}  # {why}" for command, why in STEPS]
    readme = README.format(**words, steps="\n".join(f"    {step}" for step in steps))
    files = {
        f"{module}.py": source,
        f"test_{module}.py": TEST.format(**words),
        "pyproject.toml": PYPROJECT.format(**words),
        "README.md": readme,
        "recipe.toml": f"# {name}, in a detector\n\n{DATA}\n{RECIPES[of].format(**words)}",
    }
    folder.mkdir(parents=True, exist_ok=True)
    with whole_folder(package) as draft:
        for file, text in files.items():
            (draft / file).write_text(text, encoding="utf-8")
    return "\n  ".join([f"{package}: a working {of}, its contract test and a recipe. Next:", f"cd {package}", *steps])
