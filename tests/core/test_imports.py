"""Imports run downward only, and what must start quickly imports nothing heavy."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

LAYERS = (
    (
        "adkit.errors",
        "adkit.utils",
        "adkit.plugin.params",
        "adkit.plugin.types",
        "adkit.plugin.adapter",
        "adkit.plugin.component",
        "adkit.plugin.extractor",
        "adkit.plugin.hooks",
        "adkit.plugin.localizer",
        "adkit.plugin.context",
        "adkit.plugin.scorer",
        "adkit.plugin.stopper",
    ),
    (
        "adkit.plugin.guard",
        "adkit.toml_lines",
        "adkit.toolkit.resample",
        "adkit.device",
        "adkit.toolkit.neighbors",
        "adkit.toolkit.patience",
        "adkit.toolkit.memory",
        "adkit.toolkit.scoring",
        "adkit.toolkit.augment",
    ),
    (
        "adkit.blocks",
        "adkit.toolkit.kmeans",
        "adkit.cutting",
        "adkit.folding",
        "adkit.toolkit.heads",
        "adkit.follow",
        "adkit.hypersphere",
        "adkit.toolkit.covariance",
        "adkit.probe",
        "adkit.toolkit.blocks",
        "adkit.weights",
    ),
    ("adkit.toolkit.cache", "adkit.toolkit.centers", "adkit.toolkit.covariance", "adkit.pretraining"),
    ("adkit.compactness", "adkit.fisher"),
    ("adkit.problems", "adkit.document", "adkit.plugin.registry"),
    ("adkit.data", "adkit.toolkit.features", "adkit.metrics", "adkit.threshold", "adkit.regions"),
    ("adkit.core_tables", "adkit.recipe", "adkit.schema", "adkit.catalogue"),
    (
        "adkit.utils.progress",
        "adkit.utils.environment",
        "adkit.report",
        "adkit.inference",
        "adkit.engines",
        "adkit.checkpoints",
        "adkit.minibatches",
        "adkit.frozen",
        "adkit.optimizing",
        "adkit.training",
    ),
    ("adkit.bounds", "adkit.manifest", "adkit.tensor_files"),
    (
        "adkit.store",
        "adkit.assemble",
        "adkit.sources",
        "adkit.saving",
        "adkit.loading",
        "adkit.inputs",
        "adkit.detector",
    ),
    ("adkit.fingerprint", "adkit.resume", "adkit.folder"),
    (
        "adkit.auxiliary",
        "adkit.training_recipe",
        "adkit.trunks",
        "adkit.tracing",
        "adkit.adapting",
        "adkit.evaluating",
        "adkit.fitting",
    ),
    (
        "adkit.judging",
        "adkit.check",
        "adkit.runner",
        "adkit.heatmaps",
        "adkit.rows",
        "adkit.watching",
        "adkit.predicting",
    ),
    ("adkit.parity", "adkit.export_graph", "adkit.export_formats", "adkit.exporting"),
    ("adkit.testing",),
    ("adkit.commands",),
    ("adkit.cli",),
    ("adkit.__main__",),
)
"""From the bottom up: a module imports from its own layer and from those before it."""

FREE = {"adkit", "adkit.plugin"}
"""They hand names on: the package itself looks its own up when they are used."""


def files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = ("adkit_plugins", *parts[1:]) if parts[0] == "plugins" else parts
    return ".".join(parts).removesuffix(".__init__")


def imports(path: Path) -> Iterator[str]:
    """Absolute names of the modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: write the import from the top: from adkit…"
            assert node.module is not None
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if is_module(inner) else node.module


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def layer_of(module: str) -> int:
    for depth, layer in enumerate(LAYERS):
        if any(module == name or module.startswith(f"{name}.") for name in layer):
            return depth
    pytest.fail(f"{module}: add it to a layer in {Path(__file__).name}")


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def is_docstring_alone(path: Path) -> bool:
    body = ast.parse(path.read_text(encoding="utf-8")).body
    return len(body) == 1 and isinstance(body[0], ast.Expr)


CORE = [path for path in files("adkit") if module_of(path) not in FREE and not is_docstring_alone(path)]
PLUGINS = files("plugins")


@pytest.mark.parametrize("path", files("adkit"), ids=module_of)
def test_the_core_imports_no_plugin(path):
    assert not [name for name in imports(path) if within(name, "adkit_plugins") or within(name, "plugins")]


@pytest.mark.parametrize("path", CORE, ids=module_of)
def test_the_core_imports_downward_only(path):
    own = layer_of(module_of(path))
    mine = [name for name in imports(path) if within(name, "adkit") and name not in FREE]
    assert not [name for name in mine if layer_of(name) > own]


@pytest.mark.parametrize("path", PLUGINS, ids=module_of)
def test_a_plugin_imports_no_other_plugin(path):
    assert not [name for name in imports(path) if within(name, "adkit_plugins") or within(name, "plugins")]


@pytest.mark.parametrize("path", PLUGINS, ids=module_of)
def test_a_plugin_imports_no_private_name_of_adkit(path):
    mine = [name for name in imports(path) if within(name, "adkit")]
    assert not [name for name in mine if any(part.startswith("_") for part in name.split("."))]


def test_no_module_of_a_layer_is_gone():
    assert not [name for layer in LAYERS for name in layer if not is_module(name)]


HEAVY = "print(sorted({'torch', 'timm', 'ignite', 'faiss', 'adkit_plugins'} & set(sys.modules)))"


def test_parsing_a_recipe_imports_no_pydantic():
    code = "import sys, adkit.document; print('pydantic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize(
    "code",
    [
        "import sys, adkit",
        "import sys, adkit.recipe, adkit.schema, adkit.catalogue",
        "import sys\nfrom adkit.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass",
        "import sys\nfrom adkit.cli import main\nassert main(['check', sys.argv[1]]) == 2",
        "import sys\nfrom adkit.cli import main\nassert main(['run', sys.argv[1]]) == 2",
    ],
)
def test_nothing_heavy_is_imported(code, tmp_path):
    broken = tmp_path / "broken.toml"
    broken.write_text("[data\n")
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{HEAVY}", str(broken)], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
