"""What a plugin changes for all others as it is loaded is undone, told, and costs it its components."""

import json
import os
import random
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from adkit.plugin.registry import discover
from tests.plugin.registries import SCORER, install


def at_import(*lines):
    """A plugin whose module begins with these lines."""
    return "\n".join((*lines, SCORER.format(name="a")))


def in_hook(line):
    """A plugin whose hook begins with this line."""
    return SCORER.format(name="a").replace("    return", f"    {line}\n    return", 1)


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder that modules are imported from, beside all others."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.fixture
def library(site):
    """Writes ``library.py``, which is no plugin."""

    def write(source):
        sys.modules.pop("library", None)
        (site / "library.py").write_text(source, encoding="utf-8")

    return write


def fault(site):
    """Why the one plugin cannot be used."""
    registry = discover([str(site)])
    assert registry.found("scorer") == ()
    (failure,) = registry.failures
    assert str(failure.origin) == "rude 1.0 (rude_plugin)"
    return failure.reason


CHANGES = {
    "torch's default device": ("import torch; torch.set_default_device('meta')", torch.get_default_device),
    "torch's default dtype": ("import torch; torch.set_default_dtype(torch.float64)", torch.get_default_dtype),
    "torch's grad mode": ("import torch; torch.set_grad_enabled(False)", torch.is_grad_enabled),
    "torch's number of threads": ("import torch; torch.set_num_threads(7)", torch.get_num_threads),
    "torch's deterministic algorithms": (
        "import torch; torch.use_deterministic_algorithms(True, warn_only=True)",
        torch.is_deterministic_algorithms_warn_only_enabled,
    ),
    "torch.backends.cudnn.deterministic": (
        "import torch; torch.backends.cudnn.deterministic = True",
        lambda: torch.backends.cudnn.deterministic,
    ),
    "torch.backends.cudnn.benchmark": (
        "import torch; torch.backends.cudnn.benchmark = True",
        lambda: torch.backends.cudnn.benchmark,
    ),
    "the state of torch's generator": ("import torch; torch.manual_seed(5)", lambda: torch.get_rng_state().tolist()),
    "the state of numpy.random": (
        "import numpy; numpy.random.seed(5)",
        lambda: repr(np.random.get_state()[1].tolist()),  # noqa: NPY002  is watched,
    ),
    "the state of random": ("import random; random.random()", random.getstate),
    "os.environ (RUDE)": ("import os; os.environ['RUDE'] = '1'", lambda: dict(os.environ)),
    "os.environ (ADKIT_A, ADKIT_B)": (
        "import os; os.environ['ADKIT_A'] = '2'; del os.environ['ADKIT_B']",
        lambda: dict(os.environ),
    ),
    "the signal handlers (SIGUSR1)": (
        "import signal; signal.signal(signal.SIGUSR1, signal.SIG_IGN)",
        lambda: signal.getsignal(signal.SIGUSR1),
    ),
}
"""What is told → a line that changes it, and what tells its state."""


@pytest.fixture(params=CHANGES)
def change(request, monkeypatch):
    monkeypatch.setenv("ADKIT_A", "1")
    monkeypatch.setenv("ADKIT_B", "1")
    return request.param, *CHANGES[request.param]


@pytest.mark.parametrize("plugin", [at_import, in_hook])
def test_a_change_is_undone_and_told(site, change, plugin):
    name, line, state = change
    install(site, "rude", plugin(line))
    before = state()
    assert fault(site) == (
        f"as it is loaded it changes {name}, which all plugins share: that was changed back, and none of its "
        "components is used; remove it from its modules and hooks"
    )
    assert state() == before


def test_every_change_is_told(site):
    install(site, "rude", at_import("import os, random", "os.environ['RUDE'] = '1'", "random.seed(1)"))
    assert "changes os.environ (RUDE) and the state of random, which" in fault(site)


def test_a_later_discovery_which_imports_nothing_tells_it_again(site):
    install(site, "rude", at_import("import os", "os.environ['RUDE'] = '1'"))
    first = fault(site)
    assert "changes os.environ (RUDE)" in first
    assert fault(site) == first


def test_what_a_plugin_that_cannot_be_imported_changed_is_undone(site):
    install(site, "rude", at_import("import os", "os.environ['RUDE'] = '1'", "1 / 0"))
    reasons = [failure.reason for failure in discover([str(site)]).failures]
    assert len(reasons) == 2
    assert "ZeroDivisionError" in reasons[0]
    assert "os.environ (RUDE)" in reasons[1]
    assert "RUDE" not in os.environ


def test_another_module_of_its_package_is_its_own(site):
    (site / "rude").mkdir()
    (site / "rude" / "__init__.py").write_text("")
    (site / "rude" / "helper.py").write_text("import os\nos.environ['RUDE'] = '1'\n")
    (site / "rude" / "plugin.py").write_text(at_import("import rude.helper"))
    for name in ("rude", "rude.helper", "rude.plugin"):
        sys.modules.pop(name, None)
    install(site, "rude", None, entry="it = rude.plugin")
    (failure,) = discover([str(site)]).failures
    assert "os.environ (RUDE)" in failure.reason


def test_it_disables_no_other_plugin(site):
    install(site, "rude", at_import("import os", "os.environ['RUDE'] = '1'"))
    install(site, "fine", SCORER.format(name="b"))
    assert [entry.component.name for entry in discover([str(site)]).found("scorer")] == ["b"]


# What it imports ---------------------------------------------------------------------------------------------


def test_what_a_library_sets_for_itself_stays_and_is_no_fault(site, library, monkeypatch):
    monkeypatch.setenv("LIBRARY", "0")
    library("import os, random\nos.environ['LIBRARY'] = '1'\nrandom.random()\n")
    install(site, "fine", at_import("import library"))
    assert discover([str(site)]).failures == ()
    assert os.environ["LIBRARY"] == "1"


def test_what_a_library_is_asked_to_do_is_the_plugins_doing(site, library):
    library("import os\ndef setup():\n    os.environ['RUDE'] = '1'\n")
    install(site, "rude", at_import("import library", "library.setup()"))
    assert "os.environ (RUDE)" in fault(site)


def test_a_library_that_changes_how_torch_computes_is_the_plugins_fault(site, library):
    library("import torch\ntorch.set_default_dtype(torch.float64)\n")
    install(site, "rude", at_import("import library"))
    assert "torch's default dtype" in fault(site)
    assert torch.get_default_dtype() == torch.float32


def test_a_library_that_handles_a_signal_is_the_plugins_fault(site, library):
    library("import signal\nsignal.signal(signal.SIGUSR1, signal.SIG_IGN)\n")
    install(site, "rude", at_import("import library"))
    assert "the signal handlers (SIGUSR1)" in fault(site)
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL


def test_a_library_does_not_see_what_the_plugin_set(site, library):
    library("import os\nseen = os.environ.get('RUDE')\n")
    install(site, "rude", at_import("import os", "os.environ['RUDE'] = '1'", "import library"))
    assert "os.environ (RUDE)" in fault(site)
    assert sys.modules["library"].seen is None


def test_a_library_that_fails_is_none_of_its_faults(site, library):
    library("import os\nos.environ['LIBRARY'] = '1'\nimport not_there_at_all\n")
    install(site, "fine", at_import("try:", "    import library", "except ImportError:", "    pass"))
    try:
        assert discover([str(site)]).failures == ()
    finally:
        os.environ.pop("LIBRARY", None)


def test_a_library_is_imported_by_its_own_loader(site, library):
    library("")
    install(site, "fine", at_import("import library"))
    discover([str(site)])
    module = sys.modules["library"]
    assert type(module.__loader__).__name__ == type(module.__spec__.loader).__name__ == "SourceFileLoader"


def test_nothing_watches_imports_afterwards(site):
    before = list(sys.meta_path)
    install(site, "fine", SCORER.format(name="a"))
    discover([str(site)])
    assert sys.meta_path == before


# In a process of its own, where nothing has imported torch ---------------------------------------------------

ALONE = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
from adkit.plugin.registry import discover
registry = discover(None if sys.argv[1] == "" else [sys.argv[1]])
torch = sys.modules.get("torch")
print(json.dumps({
    "faults": [failure.reason for failure in registry.failures],
    "torch": "torch" in sys.modules,
    "numpy": "numpy" in sys.modules,
    "dtype": torch and str(torch.get_default_dtype()),
}))
"""


def alone(folder, **environment):
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(folder)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def test_watching_imports_neither_torch_nor_numpy(tmp_path):
    install(tmp_path, "rude", at_import("import os", "os.environ['RUDE'] = '1'"))
    found = alone(tmp_path)
    assert "os.environ (RUDE)" in found["faults"][0]
    assert not found["torch"]
    assert not found["numpy"]


@pytest.mark.slow
def test_the_first_to_import_torch_is_not_to_blame_for_its_initial_state(tmp_path):
    install(tmp_path, "fine", at_import("import numpy.random", "import torch"))
    found = alone(tmp_path, OMP_NUM_THREADS="3")
    assert found["torch"]
    assert found["faults"] == []


@pytest.mark.slow
def test_the_first_to_import_torch_is_to_blame_for_what_it_changes_then(tmp_path):
    lines = ("import numpy", "import torch", "numpy.random.seed(5)", "torch.set_default_dtype(torch.float64)")
    install(tmp_path, "rude", at_import(*lines))
    found = alone(tmp_path)
    assert "torch's default dtype" in found["faults"][0]
    assert "the state of numpy.random" in found["faults"][0]
    assert found["dtype"] == "torch.float32"


@pytest.mark.slow
def test_a_library_that_imports_torch_first_and_changes_it_is_the_plugins_fault(tmp_path):
    (tmp_path / "library.py").write_text("import torch\ntorch.set_default_dtype(torch.float64)\n")
    install(tmp_path, "rude", at_import("import library"))
    found = alone(tmp_path)
    assert "torch's default dtype" in found["faults"][0]
    assert found["dtype"] == "torch.float32"


@pytest.mark.slow
def test_what_cannot_be_undone_is_told(tmp_path):
    install(tmp_path, "rude", at_import("import torch", "torch.set_num_interop_threads(1)"))
    (fault,) = alone(tmp_path, OMP_NUM_THREADS="2")["faults"]
    assert "changes torch's number of interop threads (which cannot be changed back), which all" in fault


@pytest.mark.slow
def test_libraries_that_set_variables_are_not_blamed_on_who_imports_them(tmp_path):
    install(tmp_path, "fine", at_import("import sklearn.svm, cv2, timm"))  # KMP_*, LD_LIBRARY_PATH, TORCHINDUCTOR_*
    assert alone(tmp_path)["faults"] == []


@pytest.mark.slow
def test_the_built_in_plugins_change_nothing():
    assert alone("")["faults"] == []
