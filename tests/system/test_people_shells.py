"""Shells, folders and desktops as people have them: their paths, their names, their MPLBACKEND."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from matplotlib.figure import Figure

from dpo import sweep
from dpo.plots.style import save_figure
from dpo.training.distributed import process_group
from sft.files import SaveError

ROOT = Path(__file__).parents[2]
FOLDERS = ("dpo", "sft", "tests", "bench")  # and the files that lie beside them
COMMANDS = sorted(path.name for path in (ROOT / "dpo").glob("*.py"))


# Paths


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder that is the user's home, while the working folder is another."""
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "home"


def test_program_writes_into_the_home(run_program, pairs_file, home):
    ended = run_program("dpo.pairs", pairs_file, "--convert=~/new/pairs.json")
    assert ended.code == 0
    assert len(json.loads((home / "new/pairs.json").read_text())) == 8


def test_program_makes_no_folder_called_tilde(run_program, pairs_file, home):
    run_program("dpo.pairs", pairs_file, "--convert=~/new/pairs.json")
    assert os.listdir() == []


# Names


PORTS = {f"{port}{number}" for port in ("com", "lpt") for number in range(10)}
RESERVED = {"con", "prn", "aux", "nul"} | PORTS  # also before a full stop


def windows_holds(name):
    """Whether Windows can hold a file or folder of this name."""
    stem = name.partition(".")[0].lower()
    return not set(name) & set('<>:"/\\|?*') and name[-1] not in ". " and stem not in RESERVED


@pytest.mark.parametrize("name", ["con", "NUL.txt", "a:b", "a.", "b ", "why?"])
def test_some_names_windows_cannot_hold(name):
    assert not windows_holds(name)


def project_files():
    for folder in FOLDERS:
        yield from (path.relative_to(ROOT) for path in (ROOT / folder).rglob("*"))
    yield from (path.relative_to(ROOT) for path in ROOT.iterdir())


def test_windows_holds_every_name_of_the_project():
    assert [path for path in project_files() if not windows_holds(path.name)] == []


def test_no_two_names_of_the_project_differ_in_capitals_only():
    names = {str(path) for path in project_files()}
    assert len({name.casefold() for name in names}) == len(names)


GRIDS = ["beta=0.1,0.5 base_lr=1e-5,2e-5", "base=a:b?.pt,c|d.pt", "pairs=x.,y.", "base=~/a,NUL"]


@pytest.fixture
def folders(monkeypatch, tmp_path):
    """A function: the names of the folders of a sweep over this grid, none of which is trained."""

    def read(grid):
        monkeypatch.setattr(sweep, "_is_done", lambda path, config: True)
        runs = sweep.read_grid(sweep.Config(grid=grid))[1]
        return [path.parent.name for path in sweep.train_all(runs, tmp_path).values()]

    return read


@pytest.mark.parametrize("grid", GRIDS)
def test_windows_holds_the_folders_of_a_sweep(folders, grid):
    assert [name for name in folders(grid) if not windows_holds(name)] == []


@pytest.mark.parametrize("grid", ["pairs=a.json,A.json", "base=a.,a_", "base=a:b,a_b"])
def test_runs_in_one_folder_are_refused(folders, grid):
    """Windows and macOS take a.json and A.json for the same name."""
    with pytest.raises(ValueError, match="two of the runs would have the same folder"):
        folders(grid)


# Networks


@pytest.fixture
def started_by_torchrun(monkeypatch):
    """One of two processes of a machine, without the other: no group is really made."""
    for variable in ("TORCHELASTIC_RUN_ID", "LOCAL_WORLD_SIZE", "WORLD_SIZE"):
        monkeypatch.setenv(variable, "2")
    for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.setenv(variable, "")  # so that what is set here is gone afterwards
        monkeypatch.delenv(variable)
    answers = {"init_process_group": None, "destroy_process_group": None}
    answers |= {"get_rank": 0, "get_world_size": 2}
    for function, answer in answers.items():
        monkeypatch.setattr(dist, function, lambda *words, answer=answer: answer)


@pytest.mark.parametrize(
    ("names", "loopback"),
    [(["lo", "eth0"], "lo"), (["en0", "lo0"], "lo0"), (["ethernet_32775", "loopback_0"], None)],
    ids=["Linux", "macOS", "Windows"],
)
def test_processes_of_a_machine_take_its_loopback(
    started_by_torchrun, monkeypatch, names, loopback
):
    """With other names than those of Linux and macOS, torch is left to choose."""
    monkeypatch.setattr("socket.if_nameindex", lambda: [*enumerate(names)])
    with process_group(torch.device("cpu")):
        assert os.environ.get("GLOO_SOCKET_IFNAME") == loopback


# Pictures


def python(*words, **environment):
    """Run Python in the root of the repository; how it ended."""
    command = [sys.executable, *map(str, words)]
    given = {"cwd": ROOT, "env": os.environ | environment, "capture_output": True, "text": True}
    return subprocess.run(command, check=False, **given)


@pytest.mark.parametrize("backend", ["Qt4Agg", "module://nowhere"], ids=["unknown", "missing"])
def test_program_draws_whatever_the_desktop_says(pairs_file, tmp_path, backend):
    words = ["-m", "dpo.pairs", pairs_file, f"--figure={tmp_path / 'p.png'}"]
    ended = python(*words, MPLBACKEND=backend)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert (tmp_path / "p.png").stat().st_size > 1000


def test_every_program_starts_whatever_the_desktop_says():
    """Of all programs dpo.atlas is the first to import matplotlib."""
    assert python("-c", "import dpo.atlas", MPLBACKEND="Qt4Agg").stderr == ""


SHOW = "import dpo.plots, matplotlib; print(matplotlib.get_backend())"
INLINE = "module://matplotlib_inline.backend_inline"


@pytest.mark.parametrize(
    ("imports", "backend"), [("", "agg"), ("import ipykernel; ", INLINE)], ids=["program", "kernel"]
)
def test_only_a_notebook_keeps_the_backend_of_notebooks(imports, backend):
    assert python("-c", imports + SHOW, MPLBACKEND=INLINE).stdout.lower().split() == [backend]


@pytest.fixture
def broken_savefig(monkeypatch):
    def fail(*arguments, **settings):
        raise RuntimeError("no font found")

    monkeypatch.setattr(Figure, "savefig", fail)


@pytest.fixture
def made(run_program, base_file, pairs_file, tmp_path):
    """A function: how a program ended, with the tiny model or pairs, that draws and writes."""
    words = {
        "dpo.pairs": [pairs_file, f"--convert={tmp_path / 'numbers.json'}"],
        "dpo.formats": [
            f"--checkpoint={base_file}", "--n=2", "--device=cpu",
            f"--json={tmp_path / 'numbers.json'}",
        ],
    }  # fmt: skip
    figure = f"--figure={tmp_path / 'figure.png'}"
    return lambda program: run_program(program, *words[program], figure)


PROGRAMS = ["dpo.pairs", "dpo.formats"]


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_figure_that_fails_is_one_sentence(made, broken_savefig, tmp_path, program):
    ended = made(program)
    assert ended.code == 1
    reason = f"{tmp_path / 'figure.png'} was not drawn (RuntimeError: no font found)"
    assert ended.err == f"error: {reason}; the numbers are all there\n"


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_figure_that_fails_loses_no_number(made, broken_savefig, tmp_path, program):
    printed = made(program).out
    numbers = (tmp_path / "numbers.json").read_bytes()
    assert len(numbers) > 100
    (tmp_path / "numbers.json").unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", lambda *arguments, **settings: None)
        healthy = made(program)
    assert (tmp_path / "numbers.json").read_bytes() == numbers
    assert healthy.out.startswith(printed)


def test_a_figure_that_fails_leaves_the_old_one(broken_savefig, tmp_path):
    (tmp_path / "old.png").write_bytes(b"old")
    with pytest.raises(SaveError, match="no font found"):
        save_figure(Figure(), tmp_path / "old.png")
    assert (tmp_path / "old.png").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["old.png"]


@pytest.mark.parametrize(
    ("suffix", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")]
)
def test_a_figure_is_of_the_kind_that_its_name_says(tmp_path, suffix, start):
    save_figure(Figure(), tmp_path / f"new/figure.{suffix}")
    assert (tmp_path / f"new/figure.{suffix}").read_bytes().startswith(start)


def calls(function, names):
    """The lines in which a function calls one of these."""
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in names:
            yield node.lineno


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_draws_after_it_has_written(command):
    tree = ast.parse((ROOT / "dpo" / command).read_text(encoding="utf-8"))
    for function in [node for node in tree.body if isinstance(node, ast.FunctionDef)]:
        drawn = min(calls(function, {"save_figure"}), default=sys.maxsize)
        written = max(calls(function, {"write_json", "write_pairs"}), default=0)
        assert written < drawn, function.name
