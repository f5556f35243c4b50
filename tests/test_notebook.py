"""The committed notebook, and a run of it on a tiny base in a copy of the repository."""

import ast
import inspect
import os
import re
import shutil
import signal
import threading
import time
from dataclasses import asdict
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

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


def assert_clean(notebook, pictures=10):
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for output in (output for cell in cells for output in cell.outputs):
        assert output.output_type != "error" and output.get("name") != "stderr", output
    assert sum("image/png" in o.get("data", {}) for cell in cells for o in cell.outputs) == pictures


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
    assert (ROOT / "dpo/dpo.ipynb").stat().st_size < 1_300_000


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
    of_programs = ("device", "metrics", "quiet")  # a notebook finds its device and shows what it does
    assert literals == {name: value for name, value in defaults.items() if name not in of_programs}


@pytest.fixture
def copied(notebook, tiny, pairs_file, tmp_path):
    """A copy of the repository with a tiny base and few pairs, and its notebook with settings to match."""
    folder = tmp_path / "a repository with späces"
    for name in ("dpo", "sft"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.pt", "*.ipynb", "__pycache__"))
    shutil.copy(ROOT / "model.py", folder)
    shutil.copy(ROOT / "configurator.py", folder)
    save_checkpoint(folder / "sft/gpt.pt", tiny)
    shutil.copy(pairs_file, folder / "dpo/pos_neg_pairs.json")
    copy = nbformat.reads(nbformat.writes(nbformat.from_dict(notebook)), as_version=4)
    for cell in code_cells(copy):
        cell.outputs, cell.execution_count = [], None
    settings = "epochs, batch_size, base_lr, eval_every, eval_questions, n = 5, 4, 3e-3, 5, 4, 12\n"
    settings += "import dpo.museum\ndpo.museum.BLANK_STEPS = 2"  # a tiny base even tinier
    copy.cells.insert(copy.cells.index(parameters(copy)) + 1, nbformat.v4.new_code_cell(settings))
    return folder, copy


def client(notebook, folder, **settings):
    return NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(folder)}}, **settings
    )


@pytest.mark.parametrize("folder", [".", "..", "sft"])  # `..`: cloned beside the notebook, as on Colab
def test_is_found_from_other_folders(copied, folder):  # R18
    copy, tried = copied
    loading = next(i for i, cell in enumerate(tried.cells) if "load_tokenizer()" in cell.source)
    tried.cells = tried.cells[: loading + 1]
    client(tried, copy / folder).execute()
    assert "parameters, 74 characters" in printed(tried)


def test_runs_top_to_bottom_on_a_tiny_base(copied):
    copy, tried = copied
    client(tried, copy / "dpo").execute()
    assert_clean(tried)
    assert "10 steps; preference loss 0.6931 ->" in printed(tried)
    saved = load_checkpoint(copy / "dpo/dpo.pt")
    history = unpack(saved.extras["history"])["steps"]
    assert history["rewards/margins"][-1] > history["rewards/margins"][0] + 0.1
    assert not list((copy / "dpo").glob("*.state*"))


def test_elsewhere_it_says_where_it_belongs(copied, tmp_path):  # R18
    _, tried = copied
    tried.cells = code_cells(tried)[:1]
    (tmp_path / "alone").mkdir()
    client(tried, tmp_path / "alone", allow_errors=True).execute()
    assert tried.cells[0].outputs[-1]["evalue"] == (
        "this notebook needs the repository around it: get all of it, and open dpo/dpo.ipynb in there. On Colab or "
        "Kaggle, run  !git clone  with the repository's address in a new cell above, then this cell again"
    )


def test_a_step_run_too_early_says_what_to_run_first(copied):  # R12
    folder, tried = copied
    first = [
        next(cell for cell in tried.cells[i:] if cell.cell_type == "code")
        for i, cell in enumerate(tried.cells)
        if cell.source.startswith("### Step") and "Step 1" not in cell.source
    ]
    training = next(cell for cell in code_cells(tried) if "state.running" in cell.source)
    saving = next(cell for cell in code_cells(tried) if "save_run(" in cell.source)
    tried.cells = [*first, training, saving]
    client(tried, folder, allow_errors=True).execute()
    errors = [cell.outputs[-1] for cell in tried.cells]
    assert [error["ename"] for error in errors] == ["AssertionError"] * 9
    for error, step in zip(errors, (1, 2, 2, 4, 5, 6, 7), strict=False):
        assert re.fullmatch(rf"run (the cells? of )?Step {step} first", error["evalue"]) or step == 7, error["evalue"]
    assert [error["evalue"] for error in errors[-2:]] == ["run Step 6 first", "run the training cell first"]


def test_stopped_and_gone_on_with_in_one_kernel_and_in_the_next(copied):  # R7, R12
    folder, tried = copied
    cells = code_cells(tried)
    cells = cells[: 1 + next(i for i, cell in enumerate(cells) if "before_after_figure(" in cell.source)]
    training = next(i for i, cell in enumerate(cells) if "state.running" in cell.source)
    schedule = next(cell for cell in cells if "make_schedulers(" in cell.source and "import" not in cell.source)
    tried.cells = cells
    next(cell for cell in cells if cell.source.startswith("epochs, batch")).source += "\nepochs, eval_every = 300, 50"
    kernel = client(tried, folder)
    with kernel.setup_kernel():
        for i, cell in enumerate(cells):
            if i == training:
                threading.Thread(target=press_stop, args=(kernel, folder / "dpo/dpo.state.pt")).start()
            kernel.execute_cell(cell, i)  # an error would be raised
            if i == training:
                done = steps_done(cell)
                assert 0 < done < 600 and "of 600 steps done; run this cell again to go on" in text_of(cell)
        assert len(unpack(load_checkpoint(folder / "dpo/dpo.pt").extras["history"])["steps"]["loss"]) == done
        assert f"{done} steps; preference loss 0.6931 ->" in printed(tried)
        threading.Thread(target=press_stop, args=(kernel, folder / "dpo/dpo.state.previous.pt")).start()
        kernel.execute_cell(cells[training], training)
        assert done < steps_done(cells[training]) < 600
        done = steps_done(cells[training])
    kernel = client(tried, folder)
    with kernel.setup_kernel():  # a new one, and all cells
        for i, cell in enumerate(cells):
            kernel.execute_cell(cell, i)
        assert f"going on after step {done} (dpo/dpo.state.pt)" in text_of(cells[training])
        assert steps_done(cells[training]) == 600 and not list((folder / "dpo").glob("*.state*"))
        assert_clean(tried, pictures=4)
        kernel.execute_cell(cells[training], training)  # once more: nothing is trained twice
        assert steps_done(cells[training]) == 600
        for source, message in (
            (schedule.source, "the policy is tuned already: run again from Step 4"),
            (f"beta = 0.2\n{cells[training].source}", "settings or pairs have changed: run again from Step 4"),
        ):
            with pytest.raises(CellExecutionError, match=message):
                kernel.execute_cell(nbformat.v4.new_code_cell(source), 0)


def press_stop(kernel, path):
    """Interrupts the kernel soon after the file is there."""
    while not path.exists():
        time.sleep(0.01)
    time.sleep(1)
    os.kill(kernel.km.provisioner.pid, signal.SIGINT)


def text_of(cell):
    return "".join(output.get("text", "") for output in cell.outputs)


def steps_done(cell):
    return int(re.search(r"(\d+) of 600 steps done", text_of(cell))[1])
