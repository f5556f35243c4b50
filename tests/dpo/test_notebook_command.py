"""`python -m dpo.notebook`: what it says, what it writes, and what is left when it is stopped."""

import io
import json
import os
import re
import signal
import sys
import time
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pytest
from children import SECONDS, start_module
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from dpo.notebook import (
    Config,
    NotebookError,
    Progress,
    find_steps,
    fit,
    last_line,
    main,
    run_notebook,
    shown_text,
)

ROOT = Path(__file__).parents[2]
TABLE = "| model | right |\n|---|---|\n| tuned | 99 % |"


def write_notebook(folder, *cells, **metadata):
    path = folder / "small.ipynb"
    nbformat.write(new_notebook(cells=list(cells), metadata=metadata), path)
    return path


def read_cells(path):
    """The cells with code."""
    return [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]


# Steps


def steps_of(*cells):
    return find_steps(list(cells), "small.ipynb")


def test_step_is_the_last_heading():
    cells = new_markdown_cell("# Title\n\n### Step 1: Look\ntext"), new_code_cell("1")
    assert steps_of(*cells) == ["Step 1: Look"] * 2


def test_step_before_all_headings_is_the_file():
    assert steps_of(new_code_cell("1"), new_markdown_cell("## A")) == ["small.ipynb", "A"]


def test_small_heading_is_no_step():
    assert steps_of(new_markdown_cell("### A"), new_markdown_cell("#### B")) == ["A", "A"]


def test_comment_in_a_block_of_code_is_no_step():
    cell = new_markdown_cell("## A\n\n```bash\n# a comment\nls\n```\nmore")
    assert steps_of(cell) == ["A"]


# What a cell shows


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("one\ntwo\n\n", "two"),
        (" 10%|# |\r 20%|##|", "20%|##|"),  # a bar that was drawn twice
        ("\x1b[31mred\x1b[0m\n", "red"),
        ("a\x07b\tc", "a b c"),
        ("", ""),
    ],
)
def test_last_line(text, line):
    assert last_line(text) == line


def test_shown_text_of_a_stream():
    assert shown_text({"name": "stdout", "text": "printed"}) == "printed"


def test_shown_text_of_a_bar():
    assert shown_text({"data": {"text/plain": "work: 10%"}, "transient": {}}) == "work: 10%"


def test_shown_text_of_a_figure_is_empty():
    assert shown_text({"data": {"text/plain": "<Figure>", "image/png": "iVBO"}}) == ""


# One line of a terminal


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        (40, "Step 7: Train  work: 50%|##| 1/2        "),
        (30, "Step 7: Train  work: 50% 1/2  "),  # without blocks
        (24, "Step 7  work: 50% 1/2   "),  # and without the name
        (10, "Step 7  wo"),
    ],
)
def test_line_fits(columns, line):
    assert fit("Step 7: Train", "  work: 50%|##| 1/2", columns) == line


class Terminal(io.StringIO):
    """Keeps what is written on it."""

    encoding = "ascii"

    def isatty(self):
        return True


def test_line_is_drawn_without_blocks_where_there_are_none():
    progress = Progress(cells=3, step="Train", cell=2, text="\u2588 done")
    with redirect_stdout(Terminal()) as terminal:
        progress.draw()
    assert terminal.getvalue().rstrip().endswith("? done")


# A run that ends well


@dataclass
class Run:
    before: str  # the file
    path: Path
    out: Path
    printed: str


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Run where `python3`, the kernel that a notebook names, is of another Python, which fails."""
    folder = tmp_path_factory.mktemp("good")
    spec = folder / "jupyter/kernels/python3/kernel.json"
    spec.parent.mkdir(parents=True)
    spec.write_text(json.dumps({"argv": ["false"], "display_name": "other", "language": "python"}))
    path = write_notebook(
        folder,
        new_markdown_cell("### Step 1: Look"),
        new_code_cell(
            "import sys\nprint(sys.executable)\ndisplay(1)\nprint('end')",
            execution_count=7,
            metadata={"execution": {"iopub.status.busy": "2026-01-01T00:00:00Z"}},
        ),
        new_markdown_cell("### Step 2: Judge"),
        new_code_cell("open('here.txt', 'w').close()", execution_count=9),
        new_code_cell(
            f"from IPython.display import Markdown\nMarkdown({TABLE!r})",
            metadata={"tags": ["result"]},
        ),
        new_code_cell(""),
        kernelspec={"name": "python3", "display_name": "Python 3", "language": "python"},
    )
    run = Run(path.read_text(), path, folder / "out.ipynb", "")
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as printed:
        patch.setenv("JUPYTER_PATH", str(folder / "jupyter"))
        main(Config(str(path), str(run.out)))
    run.printed = printed.getvalue()
    return run


def test_kernel_is_of_this_python(good):
    assert read_cells(good.out)[0].outputs[0].text.startswith(sys.executable)


def test_what_a_cell_prints_is_one_output(good):
    outputs = read_cells(good.out)[0].outputs
    assert [output.output_type for output in outputs] == ["stream", "display_data"]


def test_cells_run_in_the_folder_of_the_notebook(good):
    assert (good.path.parent / "here.txt").exists()


def test_cells_are_numbered_anew(good):
    counts = [cell.execution_count for cell in read_cells(good.out)]
    assert counts == [1, 2, 3, None]  # the last one is empty


def test_notebook_has_no_times(good):
    assert not [cell for cell in read_cells(good.out) if "execution" in cell.metadata]


def test_notebook_says_which_language(good):
    assert nbformat.read(good.out, as_version=4).metadata.language_info.name == "python"


def test_notebook_is_left_as_it_is_with_out(good):
    assert good.path.read_text() == good.before


def test_every_step_has_its_line(good):
    lines = good.printed.splitlines()[1:3]
    assert [line.partition("  ")[0] for line in lines] == ["Step 1: Look", "Step 2: Judge"]


def test_nothing_is_drawn_where_there_is_no_terminal(good):
    assert "\r" not in good.printed


def test_result_is_printed(good):
    assert f"\n\n{TABLE}\n\nNext:\n" in good.printed


def test_next_command_names_what_was_written(good):
    assert f"jupyter lab {good.out} " in good.printed


# A cell that fails

WAIT = f"""import sys, time
sys.path.insert(0, {str(ROOT)!r})
from sft.progress import Bar
with Bar(2, "work", "step") as bar:
    time.sleep(0.6)
    bar.update(2)
time.sleep(0.6)"""


@dataclass
class Failure:
    path: Path
    message: str
    drawn: str


@pytest.fixture(scope="module")
def failed(tmp_path_factory):
    old = new_output("stream", name="stdout", text="old")
    path = write_notebook(
        tmp_path_factory.mktemp("failed"),
        new_markdown_cell("### Step 1: Wait"),
        new_code_cell(WAIT),
        new_markdown_cell("### Step 2: Fail"),
        new_code_cell("value = 1\nraise ValueError('first\\nsecond')", outputs=[old]),
        new_code_cell("print('never')", outputs=[old], execution_count=3),
    )
    with redirect_stdout(Terminal()) as terminal, pytest.raises(NotebookError) as raised:
        run_notebook(path)
    return Failure(path, str(raised.value), terminal.getvalue())


def test_failure_names_error_step_and_cell(failed):
    where = "in Step 2: Fail, cell 2 of 3 (`value = 1`)"
    assert failed.message == f"ValueError: second, {where}; what has run is in {failed.path}"


def test_failed_cell_shows_its_error(failed):
    assert read_cells(failed.path)[1].outputs[-1].evalue == "first\nsecond"


def test_cell_that_did_not_run_keeps_its_outputs(failed):
    assert read_cells(failed.path)[2].outputs[0].text == "old"


def test_cell_that_did_not_run_has_no_number(failed):
    assert read_cells(failed.path)[2].execution_count is None


@pytest.mark.parametrize("share", ["0", "100"])
def test_bar_of_the_cell_is_drawn(failed, share):
    lines = [line for line in failed.drawn.split("\r") if "Step 1: Wait  cell 1 of 3" in line]
    assert [line for line in lines if f"work: {share:>3}%" in line]


def test_nothing_is_left_of_the_line_that_changes(failed):
    last = re.split(r"[\r\n]", failed.drawn)[-2:]
    assert [text.strip() for text in last] == ["", ""]


def test_kernel_that_dies_is_named(tmp_path):
    path = write_notebook(tmp_path, new_code_cell("import os\nos._exit(3)"))
    with pytest.raises(NotebookError, match=r"the kernel died, .*, in small\.ipynb, cell 1 of 1"):
        run_notebook(path)


def test_kernel_that_does_not_start_leaves_the_notebook(tmp_path, monkeypatch):
    spec = {"argv": ["false"], "display_name": "none", "language": "python"}
    monkeypatch.setattr("dpo.notebook.get_kernel_dict", lambda: spec)
    path = write_notebook(tmp_path, new_code_cell("1", execution_count=5))
    before = path.read_text()
    with pytest.raises(NotebookError, match=r"does not start .*; nothing was written"):
        run_notebook(path)
    assert path.read_text() == before


# Files that are no notebooks


@pytest.mark.parametrize("content", ["", "no JSON", "[]", "{}", '{"nbformat": 4}'])
def test_file_that_is_no_notebook_is_refused(run_program, tmp_path, content):
    path = tmp_path / "small.ipynb"
    path.write_text(content)
    ended = run_program("dpo.notebook", f"--notebook={path}")
    assert (ended.code, ended.err[: 7 + len(str(path))]) == (1, f"error: {path}")


# Ctrl-C

WAITS = "import os, time\nopen('kernel', 'w').write(str(os.getpid()))\ntime.sleep(60)"
GOES_ON = """import os, time
for _ in range(60):
    try:
        open('kernel', 'w').write(str(os.getpid()))
        time.sleep(1)
    except KeyboardInterrupt:
        pass"""


def wait_for(path, text=""):
    """Until the file is there and has the text."""
    late = time.monotonic() + SECONDS
    while not (path.exists() and text in path.read_text() and path.read_text()):
        assert time.monotonic() < late, f"no {text!r} in {path}"
        time.sleep(0.02)


def start(folder, code):
    """The command in a child, in the second of three cells; the notebook, and the kernel's pid."""
    cells = new_code_cell("print(1)"), new_code_cell(code), new_code_cell("print(3)")
    path = write_notebook(folder, *cells)
    child = start_module(folder / "child", "dpo.notebook", f"--notebook={path}")
    wait_for(folder / "kernel")
    return child, path, int((folder / "kernel").read_text())


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """Exit code and output after Ctrl-C; the cells in the file; the kernel's pid."""
    child, path, kernel = start(tmp_path_factory.mktemp("stopped"), WAITS)
    os.kill(child.pid, signal.SIGINT)
    code, out, err = child.wait()
    return code, out + err, read_cells(path), kernel


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_interrupt_has_its_exit_code(stopped):
    assert stopped[0] == 130


def test_interrupt_is_told_with_its_place(stopped):
    assert "Stopped in small.ipynb, cell 2 of 3 (`import os, time`); what has run" in stopped[1]


def test_interrupt_keeps_what_has_run(stopped):
    assert stopped[2][0].outputs[0].text == "1\n"


def test_interrupt_reaches_the_cell(stopped):
    assert stopped[2][1].outputs[0].ename == "KeyboardInterrupt"


def test_interrupt_begins_no_other_cell(stopped):
    assert stopped[2][2].outputs == []


def test_interrupt_leaves_no_kernel(stopped):
    assert not is_running(stopped[3])


def test_second_interrupt_ends_a_cell_that_goes_on(tmp_path):
    child, _, kernel = start(tmp_path, GOES_ON)
    os.kill(child.pid, signal.SIGINT)
    wait_for(tmp_path / "child/stdout", "Press Ctrl-C again")
    os.kill(child.pid, signal.SIGINT)
    assert child.wait()[0] == 130
    assert not is_running(kernel)
