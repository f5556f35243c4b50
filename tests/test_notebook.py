"""The committed notebook, and a run of it on a tiny base in a copy of the repository."""

import ast
import inspect
import re
import shutil
from dataclasses import asdict
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from dpo import loss, train
from dpo.provenance import code_hash, file_hash
from sft.checkpoint import load_checkpoint, save_checkpoint, unpack

ROOT = Path(__file__).parents[1]
STEPS = [
    "Step 1: Install necessary packages",
    "Step 2: Package imports and configuration",
    "Step 3: Define helper functions",
    "Step 4: Load the pretrained NanoGPT model",
    "Step 5: Load data",
    "Step 6: Build the optimizer and scheduler",
    "Step 7: Begin training",
    "Step 8: Begin testing",
]


@pytest.fixture(scope="module")
def notebook():
    return nbformat.read(ROOT / "dpo/dpo.ipynb", as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(notebook):
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    return "".join(output.get("text", "") for output in outputs if output.output_type == "stream")


def parameters(notebook):
    return next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))


def assert_clean(notebook):
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for output in (output for cell in cells for output in cell.outputs):
        assert output.output_type != "error" and output.get("name") != "stderr", output
    assert sum("image/png" in o.get("data", {}) for cell in cells for o in cell.outputs) == 8


def test_committed_notebook_is_a_clean_run_of_the_committed_code(notebook):
    nbformat.validate(notebook)
    assert_clean(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}
    text = printed(notebook)
    used = re.search(r"base (\w+), pairs (\w+), code (\w+)", text).groups()
    now = file_hash(ROOT / "sft/gpt.pt"), file_hash(ROOT / "dpo/pos_neg_pairs.json"), code_hash()
    assert used == now, "the outputs are of other sources: run the notebook again"
    assert not re.search(r"(/home/|/root/|/Users/|/work/|C:\\)", str(notebook))
    assert (ROOT / "dpo/dpo.ipynb").stat().st_size < 800_000


def test_headings_and_shown_source(notebook):
    headings = [
        line.removeprefix("### ")
        for cell in notebook.cells
        if cell.cell_type == "markdown"
        for line in cell.source.splitlines()
        if line.startswith("### Step")
    ]
    assert headings == STEPS
    shown = "".join(o["data"].get("text/markdown", "") for c in code_cells(notebook) for o in c.outputs if "data" in o)
    for function in (loss.sequence_logps, loss.dpo_loss):
        assert inspect.getsource(function) in shown


def test_step_2_has_the_defaults_of_the_command_line(notebook):
    lines = ast.parse(parameters(notebook).source).body
    literals = {line.targets[0].id: ast.literal_eval(line.value) for line in lines}
    defaults = asdict(train.Config())
    assert literals.pop("n") == 1200 and literals.pop("resume") is True and defaults.pop("resume") is False
    assert literals == {name: value for name, value in defaults.items() if name != "device"}


@pytest.mark.parametrize("folder", ["dpo", "."])
def test_runs_top_to_bottom_on_a_tiny_base(notebook, tiny, pairs_file, tmp_path, folder):
    copy = tmp_path / "a repository with späces"
    for name in ("dpo", "sft"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("*.pt", "*.ipynb", "__pycache__"))
    shutil.copy(ROOT / "model.py", copy)
    shutil.copy(ROOT / "configurator.py", copy)
    save_checkpoint(copy / "sft/gpt.pt", tiny)
    shutil.copy(pairs_file, copy / "dpo/pos_neg_pairs.json")
    tried = nbformat.from_dict(notebook)
    tried = nbformat.reads(nbformat.writes(tried), as_version=4)
    place = tried.cells.index(parameters(tried)) + 1
    settings = "epochs, batch_size, base_lr, eval_every, eval_questions, n = 5, 4, 3e-3, 5, 4, 12"
    tried.cells.insert(place, nbformat.v4.new_code_cell(settings))
    NotebookClient(
        tried, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(copy / folder)}}
    ).execute()
    assert_clean(tried)
    assert "10 steps; preference loss 0.6931 ->" in printed(tried)
    saved = load_checkpoint(copy / "dpo/dpo.pt")
    history = unpack(saved.extras["history"])["steps"]
    assert history["rewards/margins"][-1] > history["rewards/margins"][0] + 0.1
