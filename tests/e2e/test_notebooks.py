"""The notebooks run as they stand, on a small budget, and show what they say."""

import os
import re
import shutil
import subprocess
import sys

import pytest

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")
pytest.importorskip("matplotlib")

# On a busy machine threads that wait for each other cost five times the work, in a run as small as this.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "IAM_NUM_THREADS": "1"}
NAMES = ["01_pythia_clt_training"]


def test_every_notebook_is_tested(repo_root):
    assert sorted(path.stem for path in (repo_root / "notebooks").glob("*.ipynb")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_what_is_committed_shows_a_whole_run(repo_root, name):
    path = repo_root / "notebooks" / f"{name}.ipynb"
    text = path.read_text(encoding="utf-8")
    notebook = nbformat.reads(text, as_version=4)
    nbformat.validate(notebook)
    assert len(text) <= 600_000
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), "executed in order, once"
    assert len(pictures(notebook)) >= 6
    outputs = [str(output) for cell in code for output in cell.outputs]
    assert not [
        output for output in outputs if re.search(r"/(home|root|tmp|usr|Users|work)/|Traceback|Warning", output)
    ]


@pytest.fixture(scope="module")
def run(repo_root, tmp_path_factory):
    """The notebook after a run on the small budget in a folder of its own."""
    folder = tmp_path_factory.mktemp("notebooks")
    for name in ("run.py", "01_pythia_clt_training.ipynb"):
        shutil.copy(repo_root / "notebooks" / name, folder)
    done = subprocess.run(
        [sys.executable, folder / "run.py", "01_pythia_clt_training"],
        env={**os.environ, "IAM_NOTEBOOK_BUDGET": "small", **ONE_THREAD},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return nbformat.read(folder / "01_pythia_clt_training.ipynb", as_version=4)


def pictures(notebook):
    return [
        output.data["image/png"]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]


def printed(notebook):
    return "".join(
        output.get("text", "") or output.get("data", {}).get("text/plain", "")
        for cell in notebook.cells
        for output in cell.get("outputs", [])
    )


@pytest.mark.slow
@pytest.mark.usefixtures("smollm2_gguf")
def test_a_tour_of_training(run):
    kinds = {output.output_type for cell in run.cells for output in cell.get("outputs", [])}
    assert kinds <= {"display_data", "execute_result", "stream"}, "no errors"
    assert not [o.text for cell in run.cells for o in cell.get("outputs", []) if o.get("name") == "stderr"]
    assert len(pictures(run)) >= 6
    text = printed(run)
    for coder in ("SAE", "transcoder", "cross-layer transcoder"):
        first, last = map(
            float, re.search(rf"FVU of the {coder}: ([\d.]+) at step \d+, ([\d.]+) at the end", text).groups()
        )
        assert last < 0.8 * min(first, 1), coder  # 1: a coder that always answers the mean
    assert re.findall(r"(?:codes|outputs) of .* are (.*)", text) == ["equal, to the last bit"] * 3
    as_it_is, spliced, without = map(
        float,
        re.search(r"MLPs replaced at once: ([\d.]+) \(as it is ([\d.]+), without them ([\d.]+)\)", text).group(2, 1, 3),
    )
    assert as_it_is <= spliced < without
