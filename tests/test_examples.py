"""The notebook in ``examples/``, executed by a real Jupyter kernel."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "examples" / "first_steps.ipynb"


@pytest.mark.slow
def test_first_steps_run_and_show_what_they_say(tmp_path, monkeypatch):
    monkeypatch.setenv("ADKIT_CACHE", str(tmp_path / "cache"))
    notebook = nbformat.read(NOTEBOOK, 4)
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    pages = [output.data["text/html"] for output in outputs if "text/html" in output.get("data", {})]
    printed = "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")
    assert len(pages) == 2  # the report and the predictions
    assert "report.html" in pages[0]
    assert pages[1].count("<tr>") == 4
    assert pages[1].count("<img") == 3
    assert "image AUROC 0.9" in printed
    assert "map of 224 × 224, highest (" in printed
    assert "AUROC of PaDiM less that of patch neighbors: " in printed


def test_the_notebook_is_kept_without_outputs():
    notebook = nbformat.read(NOTEBOOK, 4)
    assert not [cell for cell in notebook.cells if cell.cell_type == "code" and cell.outputs]
