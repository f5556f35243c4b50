"""Both committed notebooks, and runs of them on a tiny base in a copy of the repository."""

import ast
import inspect
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from dataclasses import asdict
from pathlib import Path

import nbformat
import pytest
from conftest import make_tiny, same_bits, write_tiny_pairs
from nbclient import NotebookClient

from bench.notebook import shrink_pictures
from dpo import loss, train
from dpo.training.provenance import code_hash, file_hash
from dpo.try_pairs import is_run_of
from sft.checkpoint.weights import from_json_tensor, load_checkpoint, save_checkpoint

ROOT = Path(__file__).parents[2]
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
BOOKS = ("dpo", "explore")
PICTURES = {"dpo": 8, "explore": 8}
LARGEST = {"dpo": 350_000, "explore": 1_200_000}  # bytes
MOST_LINES, MOST_COLUMNS, MOST_NAMES, MOST_CELLS, MOST_WORDS = 12, 88, 25, 44, 1_800


def read_notebook(name):
    return nbformat.read(ROOT / f"dpo/{name}.ipynb", as_version=4)


@pytest.fixture(scope="module")
def notebook():
    return read_notebook("dpo")


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs_of(notebook):
    return [output for cell in code_cells(notebook) for output in cell.outputs]


def printed(notebook):
    streams = [output for output in outputs_of(notebook) if output.output_type == "stream"]
    return "".join(output.text for output in streams)


def tagged(notebook, tag):
    return next(cell for cell in notebook.cells if tag in cell.metadata.get("tags", []))


def cell_with(notebook, part):
    """The code cell that has this in its source."""
    return next(cell for cell in code_cells(notebook) if part in cell.source)


def count_pictures(notebook):
    return sum("image/png" in output.get("data", {}) for output in outputs_of(notebook))


def assert_clean(notebook):
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for output in outputs_of(notebook):
        assert output.output_type != "error", output
        assert output.get("name") != "stderr", output


@pytest.fixture(params=BOOKS)
def book(request):
    """Name and content of each committed notebook."""
    return request.param, read_notebook(request.param)


def test_notebook_is_valid(book):
    nbformat.validate(book[1])


def test_notebook_ran_from_top_to_bottom(book):
    assert_clean(book[1])


def test_notebook_shows_all_its_figures(book):
    assert count_pictures(book[1]) == PICTURES[book[0]]


def test_notebook_opens_a_python_kernel(book):
    assert book[1].metadata.kernelspec.name == "python3"


def test_notebook_has_no_other_metadata(book):
    assert set(book[1].metadata) <= {"kernelspec", "language_info"}


def test_notebook_names_no_path_of_a_machine(book):
    assert not re.search(r"(/home/|/root/|/Users/|/work/|/tmp/|C:\\)", str(book[1]))


def test_notebook_is_small(book, tmp_path):
    """As it is committed, with few colours: somebody may have run it since."""
    copy = Path(shutil.copy(ROOT / f"dpo/{book[0]}.ipynb", tmp_path))
    shrink_pictures(copy)
    assert copy.stat().st_size < LARGEST[book[0]]


def assert_one_line_a_bar(notebook):
    for cell in code_cells(notebook):
        labels = re.findall(r"(\w[\w ,./]*): +\d+%\|", str(cell.outputs))
        assert len(labels) == len(set(labels)), labels


def test_notebook_shows_a_bar_in_one_line(book):
    assert_one_line_a_bar(book[1])


def test_notebook_cells_fit_in_view(book):
    for cell in code_cells(book[1]):
        lines = cell.source.splitlines()
        assert len(lines) <= MOST_LINES, cell.source
        assert max(map(len, lines)) <= MOST_COLUMNS, cell.source


def test_notebook_cells_import_few_names(book):
    for cell in code_cells(book[1]):
        code = "\n".join(line for line in cell.source.splitlines() if not line.startswith("%"))
        imports = [
            n for n in ast.walk(ast.parse(code)) if isinstance(n, ast.Import | ast.ImportFrom)
        ]
        assert sum(len(node.names) for node in imports) <= MOST_NAMES, cell.source


def test_notebook_has_no_table_in_a_quote(book):
    """nbconvert shows its pipes."""
    assert not [cell for cell in book[1].cells if re.search(r"(?m)^> *\|", cell.source)]


def test_dpo_notebook_has_few_cells(notebook):
    assert len(notebook.cells) <= MOST_CELLS


def test_dpo_notebook_has_few_words(notebook):
    texts = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    assert len(re.findall(r"\S*\w\S*", "\n".join(texts))) <= MOST_WORDS


def test_dpo_notebook_is_a_run_of_this_code(notebook):
    used = re.search(r"base (\w+), pairs (\w+), code (\w+)", printed(notebook)).groups()
    now = file_hash(ROOT / "sft/gpt.pt"), file_hash(ROOT / "dpo/pos_neg_pairs.json"), code_hash()
    assert used == now, "the outputs are of other sources: python -m bench.notebook"


def test_explore_asks_the_model_that_dpo_saved(notebook):
    saved = re.search(r"Saved dpo/dpo.pt, SHA-256 (\w+)", printed(notebook))[1]
    assert re.search(rf"dpo/dpo.pt: [\d.]+ MB, SHA-256 {saved}", printed(read_notebook("explore")))


def test_dpo_notebook_has_the_eight_steps(notebook):
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert re.findall(r"(?m)^### (Step .*)", text) == STEPS


@pytest.mark.parametrize("function", [loss.sequence_logps, loss.dpo_loss])
def test_dpo_notebook_shows_the_loss_as_it_is(notebook, function):
    shown = [
        output.data.get("text/markdown", "") for output in outputs_of(notebook) if "data" in output
    ]
    assert inspect.getsource(function) in "".join(shown)


@pytest.mark.parametrize("function", [loss.sequence_logps, loss.dpo_loss])
def test_shown_source_is_not_wrapped(function):
    """JupyterLab shows about 80 columns of it beside its file list, in a window of 1,280 pixels."""
    assert max(map(len, inspect.getsource(function).splitlines())) <= 79


def literals(notebook):
    """The settings of Step 2: its lines `name = value`."""
    lines = ast.parse(tagged(notebook, "parameters").source).body
    return {line.targets[0].id: ast.literal_eval(line.value) for line in lines}


def test_step_2_has_the_defaults_of_dpo_train(notebook):
    settings = literals(notebook)
    del settings["n"]  # of the test questions, which no training asks
    defaults = asdict(train.Config())
    assert settings == {name: defaults[name] for name in settings}


def make_copy(folder, tiny, pairs_file):
    """A copy of the repository with a tiny base and few pairs, without its notebooks."""
    without = shutil.ignore_patterns(
        "*.pt", "*.ipynb", "__pycache__", "my_pairs.json", "one_word.json"
    )
    for name in ("dpo", "sft"):
        shutil.copytree(ROOT / name, folder / name, ignore=without)
    for name in ("model.py", "configurator.py"):
        shutil.copy(ROOT / name, folder)
    save_checkpoint(folder / "sft/gpt.pt", tiny)
    shutil.copy(pairs_file, folder / "dpo/pos_neg_pairs.json")


def without_outputs(notebook, setup, after):
    """A copy to be run: `setup` comes in a cell of its own behind the cell that begins so."""
    copy = nbformat.reads(nbformat.writes(nbformat.from_dict(notebook)), as_version=4)
    for cell in code_cells(copy):
        cell.outputs, cell.execution_count = [], None
    place = next(i for i, cell in enumerate(copy.cells) if cell.source.startswith(after))
    copy.cells.insert(place + 1, nbformat.v4.new_code_cell(setup))
    return copy


QUICK = "steps, base_lr, eval_every, n = 10, 3e-3, 5, 4"
STEP_2 = "base = "  # so its cell begins
TINY_MUSEUM = "n = 12\nfrom dpo.training import roads\nroads.TINY_STEPS = 2"  # of its base


@pytest.fixture
def copied(notebook, tiny, pairs_file, tmp_path):
    """A copy of the repository, and of dpo.ipynb with settings to match."""
    folder = tmp_path / "a repository with späces"
    make_copy(folder, tiny, pairs_file)
    return folder, without_outputs(notebook, QUICK, STEP_2)


def client(notebook, folder, **settings):
    return NotebookClient(
        notebook,
        timeout=120,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        **settings,
    )


@pytest.mark.parametrize("folder", [".", "..", "sft"])  # `..`: cloned beside it, as on Colab
def test_notebook_finds_the_repository_from(copied, folder):  # R18
    copy, tried = copied
    look = "import configurator\nprint(os.getcwd(), configurator.__file__, sep='\\n')"
    tried.cells = [code_cells(tried)[0], nbformat.v4.new_code_cell(look)]
    client(tried, copy / folder).execute()
    assert printed(tried).splitlines() == [str(copy), str(copy / "configurator.py")]


def test_notebook_elsewhere_says_where_to_look(copied, tmp_path):  # R18
    _, tried = copied
    tried.cells = code_cells(tried)[:1]
    (tmp_path / "alone").mkdir()
    client(tried, tmp_path / "alone", allow_errors=True).execute()
    said = "the repository is not here: Step 1 says what to do"
    assert tried.cells[0].outputs[-1]["evalue"] == said


def test_notebook_alone_brings_the_repository(copied, tmp_path):
    copy, tried = copied
    git = ("git", "-C", copy, "-c", "user.name=A", "-c", "user.email=a@b.c")
    for command in ("init --quiet", "add --force .", "commit --quiet --message=all"):
        subprocess.run([*git, *command.split()], check=True)
    tried.cells = code_cells(tried)[:1]
    address = f"address = {copy.as_uri()!r}"
    tried.cells[0].source = tried.cells[0].source.replace('address = ""', address)
    (tmp_path / "alone").mkdir()
    tried.cells.append(nbformat.v4.new_code_cell("print(Path('dpo/loss.py').resolve())"))
    client(tried, tmp_path / "alone").execute()
    assert printed(tried).splitlines()[-1] == str(tmp_path / "alone/repository/dpo/loss.py")


@pytest.fixture(scope="module")
def both_run(notebook, tmp_path_factory):
    """The folder of a copy in which dpo.ipynb and then explore.ipynb ran, and both as they ran.

    explore.ipynb ran with its sections in reverse order, and none saw what another one had made.
    """
    folder = tmp_path_factory.mktemp("both") / "repository"
    pairs_file = write_tiny_pairs(folder.parent / "pairs.json")
    make_copy(folder, make_tiny(), pairs_file)
    ran = {
        "dpo": without_outputs(notebook, QUICK, STEP_2),
        "explore": without_outputs(read_notebook("explore"), TINY_MUSEUM, "base, saved"),
    }
    turn_sections_round(ran["explore"])
    for tried in ran.values():
        client(tried, folder / "dpo").execute()
    return folder, ran


def turn_sections_round(explore):
    """The last section first, and nothing of the one before is left: so none needs another one."""
    starts = [i for i, cell in enumerate(explore.cells) if cell.source.startswith("## ")][1:]
    ends = [*starts[1:], len(explore.cells)]
    new_code_cell = nbformat.v4.new_code_cell
    cells = [*explore.cells[: starts[0]], new_code_cell("kept = {*globals(), 'kept', 'name'}")]
    for start, end in reversed(list(zip(starts, ends, strict=True))):
        cells += explore.cells[start:end]
        cells.append(new_code_cell("for name in {*globals()} - kept: del globals()[name]"))
    explore.cells = cells


@pytest.mark.parametrize("name", BOOKS)
def test_notebook_runs_on_a_tiny_base(both_run, name):
    assert_clean(both_run[1][name])


@pytest.mark.parametrize("name", BOOKS)
def test_notebook_shows_a_bar_in_one_line_anew(both_run, name):
    assert_one_line_a_bar(both_run[1][name])


@pytest.mark.parametrize("name", BOOKS)
def test_notebook_draws_all_on_a_tiny_base(both_run, name):
    assert count_pictures(both_run[1][name]) == PICTURES[name]


def history_of(folder, run="dpo"):
    extras = load_checkpoint(folder / run / "dpo.pt").extras
    return from_json_tensor(extras["history"])["steps"]


def test_notebook_trains_the_tiny_base(both_run):
    folder, ran = both_run
    assert "10 steps; loss 0.6931 ->" in printed(ran["dpo"])
    margins = history_of(folder)["rewards/margins"]
    assert margins[-1] > margins[0] + 0.1


def test_notebook_shows_its_result_as_a_table(both_run):
    shown = [output.get("data", {}) for output in tagged(both_run[1]["dpo"], "result").outputs]
    [table] = [data["text/markdown"] for data in shown if "text/markdown" in data]
    rows = [[word.strip() for word in line.split("|")[1:-1]] for line in table.splitlines()]
    assert rows[0] == ["questions", "n", "facts", "before", "after", "after, drawn at 0.8"]
    assert [row[1] for row in rows[2:]] == ["4"] * 4


def test_notebook_makes_your_pairs_with_one_word_changed(both_run):
    folder, _ = both_run
    shipped, mine = (folder / f"dpo/{name}.json" for name in ("pos_neg_pairs", "one_word"))
    expected = shipped.read_text().replace("I don't know", "I do not know")
    assert mine.read_text() == expected != shipped.read_text()


def test_notebook_run_is_the_shipped_one_of_the_last_step(both_run):
    """So only the edited pairs are trained there."""
    folder, ran = both_run
    assert "Training on dpo/one_word.json" in printed(ran["dpo"])
    assert "Training on dpo/pos_neg_pairs.json" not in printed(ran["dpo"])
    assert sorted(path.name for path in (folder / "runs/try").iterdir()) == ["yours"]


def test_notebook_leaves_no_state(both_run):
    assert not list((both_run[0] / "dpo").glob("*.state*"))


def test_visible_loop_is_train_step_to_the_bit(both_run, monkeypatch):
    folder, _ = both_run
    monkeypatch.chdir(folder)
    config = train.Config(out="again", steps=10, base_lr=3e-3, eval_every=5, device="cpu")
    train.train(config)
    by_cell, by_train = (load_checkpoint(folder / run / "dpo.pt") for run in ("dpo", "again"))
    assert same_bits(by_cell.state_dict, by_train.state_dict)
    assert history_of(folder) == history_of(folder, "again")


def test_explore_without_a_model_says_how_to_make_one(copied):
    folder, _ = copied
    tried = without_outputs(read_notebook("explore"), "", "base, saved")
    tried.cells = [cell for cell in code_cells(tried) if cell.source][:4]
    client(tried, folder, allow_errors=True).execute()
    said = "no dpo/dpo.pt: run dpo.ipynb, or `python -m dpo.train`"
    assert tried.cells[-1].outputs[-1]["evalue"] == said


STOPS, LOOP = "steps, eval_every = 600, 0", "with stop_on_interrupt()"
BEGUN = "begun"  # a file that is there once a step has been made


def mark_the_first_step(tried):
    cell_with(tried, "def record(").source += f'\n    Path("{BEGUN}").touch()'


@pytest.fixture
def run_to_step_8(copied):
    """The cells of Steps 1 to 7 with 600 steps; what runs a cell; the folder; the kernel."""
    folder, tried = copied
    cell_with(tried, QUICK).source += f"\n{STOPS}"
    mark_the_first_step(tried)
    last = tried.cells.index(cell_with(tried, "save_run("))
    tried.cells = code_cells(nbformat.v4.new_notebook(cells=tried.cells[: 1 + last]))
    kernel = client(tried, folder)
    with kernel.setup_kernel():
        pid = kernel.km.provisioner.pid
        yield tried, lambda cell: kernel.execute_cell(cell, tried.cells.index(cell)), folder, pid


@pytest.fixture
def stopped(run_to_step_8):
    """The same after all cells have run, with the stop button pressed soon after the first step."""
    tried, run, folder, kernel = run_to_step_8
    for cell in tried.cells:
        if LOOP in cell.source:
            press_stop_soon(folder / BEGUN, kernel)
        run(cell)  # an error would be raised
    return tried, run, folder


def test_notebook_stops_and_the_cells_below_work(stopped):  # R7
    tried, _, folder = stopped
    done = len(history_of(folder)["loss"])
    assert 0 < done < 600
    assert f"{done} steps; loss 0.6931 ->" in printed(tried)
    assert f", stopped after step {done}" in text_of(cell_with(tried, "save_run("))
    assert_clean(tried)


def test_stopped_run_is_not_taken_for_a_whole_one(stopped, monkeypatch):
    tried, run, folder = stopped
    monkeypatch.chdir(folder)
    config = train.Config(steps=600, base_lr=3e-3)
    assert not is_run_of(Path("dpo/dpo.pt"), config)
    for part in (LOOP, "save_run("):  # to its end
        run(cell_with(tried, part))
    assert is_run_of(Path("dpo/dpo.pt"), config)


def test_training_cell_goes_on_and_ends_as_undisturbed(stopped):  # R7, R12
    tried, run, folder = stopped
    loop, save = (cell_with(tried, part) for part in (LOOP, "save_run("))
    run(loop)
    run(loop)  # nothing is trained twice
    run(save)
    continued = load_checkpoint(folder / "dpo/dpo.pt").state_dict
    assert len(history_of(folder)["loss"]) == 600
    for cell in tried.cells[tried.cells.index(cell_with(tried, "check(settings)")) :]:
        run(cell)  # afresh from Step 6
    assert same_bits(continued, load_checkpoint(folder / "dpo/dpo.pt").state_dict)


def test_changed_settings_count_from_step_6(stopped):  # R12
    tried, run, folder = stopped
    tried.cells.append(nbformat.v4.new_code_cell("steps, beta, nll_coef = 3, 0.5, 0.1"))
    run(tried.cells[-1])
    for cell in tried.cells[tried.cells.index(cell_with(tried, "check(settings)")) : -1]:
        run(cell)
    extras = load_checkpoint(folder / "dpo/dpo.pt").extras
    assert [extras["config"][name] for name in ("steps", "beta", "nll_coef")] == [3, 0.5, 0.1]
    history = history_of(folder)
    assert len(history["loss"]) == 3
    assert history["loss"][0] == pytest.approx(loss.LN_2 + 0.1 * history["nll"][0])


def test_changed_settings_do_not_reach_a_run_that_has_begun(stopped):  # R12
    tried, run, folder = stopped
    tried.cells.append(nbformat.v4.new_code_cell("beta, nll_coef = 50.0, 9.0"))
    for cell in (tried.cells[-1], cell_with(tried, LOOP), cell_with(tried, "save_run(")):
        run(cell)
    history = history_of(folder)
    assert history["loss"] == history["loss/preference"]


def press_stop_soon(path, kernel):
    """Interrupts the kernel, a process, soon after the file is there."""

    def press():
        while not path.exists():
            time.sleep(0.01)
        time.sleep(0.3)
        os.kill(kernel, signal.SIGINT)

    threading.Thread(target=press).start()


def text_of(cell):
    return "".join(output.get("text", "") for output in cell.outputs)
