"""The notebooks run from top to bottom on the bundled model and still say what their kept outputs say."""

import copy

import nbformat
import pytest
from nbclient import NotebookClient

from memorization.bundled import ROOT

NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


def kinds_of_output(notebook):
    """What each cell shows: pictures, tables and text, whatever is in them."""
    return [
        {kind for output in cell.get("outputs", []) for kind in output.get("data", {"text": None})}
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


# The last two take most of the time; what they call is tested elsewhere as well.
CASES = [pytest.param(p, marks=[pytest.mark.slow] if p.stem[0] in "34" else [], id=p.stem) for p in NOTEBOOKS]


@pytest.mark.parametrize("path", CASES)
def test_notebook_runs_and_keeps_its_outputs(path):
    kept = nbformat.read(path, as_version=4)
    notebook = copy.deepcopy(kept)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    NotebookClient(
        notebook, timeout=1200, kernel_name="python3", resources={"metadata": {"path": ROOT / "examples"}}
    ).execute()
    shown = kinds_of_output(notebook)
    assert shown == kinds_of_output(kept) and any(shown)


def test_there_are_four_of_them():
    assert [path.name[0] for path in NOTEBOOKS] == list("1234")
