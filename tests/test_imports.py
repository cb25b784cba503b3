"""Imports run downward only, and what must start quickly imports nothing heavy."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

FOLDERS = 'docs/architecture.md, "Folders",'
"""Where the rules that are checked here are written down."""

LAYERS = (
    ("errors", "utils"),
    ("plugin", "metrics", "threshold"),
    ("bootstrap",),
    ("toolkit", "data"),
    ("report",),
    ("recipe",),
    ("inference", "logs"),
    ("training", "detector"),
    ("runner", "predict", "export"),
    ("init",),
    ("testing",),
    ("cli",),
    ("__main__",),
)
"""The folders and files of ``adkit/`` from the bottom up: each imports from itself and from the layers before it."""


def files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = ("adkit_plugins", *parts[1:]) if parts[0] == "plugins" else parts
    return ".".join(parts).removesuffix(".__init__")


def imports(path: Path) -> Iterator[str]:
    """Absolute names of the modules that a file imports, wherever in it."""
    package = module_of(path.parent / "__init__.py")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level < 2, f"{path}:{node.lineno}: write the import from the top: from adkit…"
            home = f"{package}.{node.module}" if node.level else node.module
            assert home is not None
            for alias in node.names:
                inner = f"{home}.{alias.name}"
                yield inner if is_module(inner) else home


def is_module(name: str) -> bool:
    top, _, rest = name.partition(".")
    path = ROOT.joinpath("plugins" if top == "adkit_plugins" else top, *rest.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def room_of(module: str) -> str:
    """The folder or file directly below ``adkit/`` that a module lives in; empty for the package itself."""
    return module.removeprefix("adkit").removeprefix(".").partition(".")[0]


def allowed(room: str) -> set[str]:
    """The rooms that ``room`` may import from."""
    depth = next((depth for depth, layer in enumerate(LAYERS) if room in layer), None)
    if depth is None:
        pytest.fail(
            f"adkit/{room}: expected a folder of LAYERS in tests/test_imports.py: {FOLDERS} says what each is for; put "
            "the file in one, or add the folder to both"
        )
    return {room, *(other for layer in LAYERS[:depth] for other in layer)}


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


MODULES = {module_of(path): path for path in files("adkit")}
PLUGINS = {module_of(path): path for path in files("plugins")}


def resolved(path: Path) -> list[str]:
    """The modules of adkit and its plugins that a file imports."""
    return [name for name in imports(path) if within(name, "adkit") or within(name, "adkit_plugins")]


@pytest.mark.parametrize("module", MODULES)
def test_the_core_imports_no_plugin(module):
    plugins = [name for name in resolved(MODULES[module]) if within(name, "adkit_plugins")]
    assert not plugins, f"{module} imports a plugin: built-in ones come in through entry points, as {FOLDERS} says"


@pytest.mark.parametrize("module", [module for module in MODULES if module != "adkit"])
def test_the_core_imports_downward_only(module):
    rooms = allowed(room_of(module))
    upward = [name for name in resolved(MODULES[module]) if room_of(name) not in {"", *rooms}]
    assert not upward, f"{module} imports upward or sideways: {FOLDERS} says which way is down"


@pytest.mark.parametrize("module", PLUGINS)
def test_a_plugin_imports_the_contract_the_toolkit_and_its_own_helpers(module):
    own = PLUGINS[module].parent
    inner = own.parent.parent.name == "plugins"  # a plugin of several files is a folder: they are all its own
    for name in resolved(PLUGINS[module]):
        if within(name, "adkit_plugins"):
            home, _, leaf = name.rpartition(".")
            assert home == ".".join(("adkit_plugins", *own.relative_to(ROOT / "plugins").parts)), (
                f"{module} imports {name} of another folder: {FOLDERS} says what a plugin may import"
            )
            assert inner or leaf.startswith("_"), (
                f"{module} imports {name}, another plugin: what two share stands beside them as _name.py, as {FOLDERS} "
                "says"
            )
        else:
            assert name == "adkit.plugin" or within(name, "adkit.toolkit") or within(name, "adkit.metrics"), (
                f"{module} imports {name}: {FOLDERS} says what a plugin may import"
            )


def test_no_module_imports_itself_by_way_of_others():
    graph = {module: set(resolved(path)) & MODULES.keys() - {"adkit", module} for module, path in MODULES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"{' < '.join(error.args[1])} import each other: {FOLDERS} says which way is down")


def test_every_room_of_the_layers_is_there():
    gone = [room for layer in LAYERS for room in layer if not is_module(f"adkit.{room}")]
    assert not gone, f"adkit/ has no such file or folder: take it out of LAYERS and of {FOLDERS}"


QUICK = 'import it in the function that needs it, as CONTRIBUTING.md, "Add an option of a command", says'

HEAVY = "print(sorted({'torch', 'timm', 'ignite', 'faiss', 'adkit_plugins'} & set(sys.modules)))"


def test_parsing_a_recipe_imports_no_pydantic():
    code = "import sys, adkit.recipe.document; print('pydantic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n", f"adkit/recipe/document.py loads pydantic: {QUICK}"


@pytest.mark.parametrize(
    "code",
    [
        "import sys, adkit",
        "import sys, adkit.recipe.reader, adkit.recipe.schema, adkit.recipe.reference",
        "import sys\nfrom adkit.cli.main import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass",
        "import sys\nfrom adkit.cli.main import main\nassert main(['check', sys.argv[1]]) == 2",
        "import sys\nfrom adkit.cli.main import main\nassert main(['run', sys.argv[1]]) == 2",
    ],
)
def test_nothing_heavy_is_imported(code, tmp_path):
    broken = tmp_path / "broken.toml"
    broken.write_text("[data\n")
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{HEAVY}", str(broken)], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]", f"what must start quickly loads these: {QUICK}"
