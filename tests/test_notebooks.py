"""Every notebook runs from top to bottom; a file of its own that begins first (`conftest.py`), for it takes longest."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted(
    p for p in (Path(__file__).parents[1] / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts
)


@pytest.mark.slow
@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_runs_from_top_to_bottom(file, tmp_path):
    nb = nbformat.read(file, 4)
    nb.cells = [c for c in nb.cells if not re.search(r"^#\|\s*eval:\s*false", c.source, re.M)]
    NotebookClient(nb, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
