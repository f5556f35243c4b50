"""A grid of runs: what is trained, what is not trained again, and the picture of the grid."""

import io
import json
import signal
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import shorten_small_talk, texts_in

from configurator import SettingError
from dpo import sweep
from dpo.plots.runs import ENDS, grid_figure, runs_figure
from dpo.training.history import History
from sft.checkpoint.weights import load_checkpoint


def config_of(folder, out, **settings):
    """A sweep over the tiny base and the tiny pairs of this folder."""
    files = {"base": str(folder / "base.pt"), "pairs": str(folder / "pairs.json"), "out": str(out)}
    usual = {"batch_size": 8, "eval_questions": 2, "device": "cpu", "n": 1}
    return sweep.Config(**files | usual | settings)


@pytest.fixture
def config(base_file, pairs_file, tmp_path):
    return config_of(tmp_path, tmp_path / "sweep", grid="beta=0.1,0.5 nll_coef=0,1")


def train_grid(config):
    """The checkpoints of all runs by name."""
    return sweep.train_all(sweep.read_grid(config)[1], Path(config.out))


# A whole sweep


@pytest.fixture(scope="module")
def swept(tiny_folder, tmp_path_factory):
    """A sweep of four runs, then the same again, then with one result broken.

    Its runs, how many were trained up to each time, what was printed, and its folder.
    """
    out = tmp_path_factory.mktemp("sweep")
    config = config_of(tiny_folder, out, grid="beta=0.1,0.5 nll_coef=0,1")
    trained, train, printed = [], sweep.train.train, io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed):
        shorten_small_talk(patch)
        patch.setattr(sweep.train, "train", lambda run: trained.append(run) or train(run))
        counts = []
        sweep.main(config)
        counts.append(len(trained))
        train_grid(config)
        counts.append(len(trained))
        (out / "beta_0.5__nll_coef_1.0/dpo.pt").write_bytes(b"broken")
        train_grid(config)
        counts.append(len(trained))
    return trained[:4], counts, printed.getvalue(), out


def test_every_combination_is_trained(swept):
    settings = [(run.beta, run.nll_coef) for run in swept[0]]
    assert settings == [(0.1, 0.0), (0.1, 1.0), (0.5, 0.0), (0.5, 1.0)]


def test_every_run_has_its_folder(swept):
    assert len({run.out for run in swept[0]}) == 4


def test_every_run_has_the_common_settings(swept):
    assert all(run.eval_questions == 2 for run in swept[0])


def test_every_run_would_go_on(swept):
    assert all(run.resume for run in swept[0])


def test_what_is_done_is_not_done_again(swept):
    assert swept[1][:2] == [4, 4]


def test_a_broken_result_is_trained_again(swept):
    assert swept[1][2] == 5


def test_all_runs_are_in_the_table(swept):
    lines = [line for line in swept[2].splitlines() if line.startswith("| beta")]
    rows = [[cell.strip() for cell in line.split("|")[1:4]] for line in lines]
    assert rows[-1] == ["beta 0.5, nll_coef 1.0", "0.5", "1"]


def test_pictures_and_figures_are_written(swept):
    names = {path.name for path in swept[3].iterdir()}
    assert names >= {"runs.png", "grid.png", "runs.json"}


def test_figures_are_of_every_run(swept):
    results = json.loads((swept[3] / "runs.json").read_text())
    assert list(results)[1] == "beta 0.1, nll_coef 1.0"


# Mistakes


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ("", "grid: 1 runs; 2 to 100"),
        ("beta=0.1", "grid: 1 runs; 2 to 100"),
        ("beta", "'beta' is not a setting of its own with values"),
        ("beta=0.1 beta=0.2", "'beta=0.2' is not a setting of its own"),
        ("out=a,b", "'out=a,b' is not a setting of its own"),
        ("bta=1,2", "did you mean 'beta'[?]"),
        ("beta=0.1,much", "beta must be a number"),
        ("beta=0.1,0.1", "2 to 100 different ones"),
        ("seed=" + ",".join(map(str, range(101))), "101 runs"),
    ],
)
def test_a_wrong_grid_is_one_sentence(config, grid, message):
    with pytest.raises(SettingError, match=message):
        sweep.read_grid(replace(config, grid=grid))


def test_a_value_that_cannot_train_is_said_first(config):
    with pytest.raises(ValueError, match="beta above 0"):
        sweep.main(replace(config, grid="beta=0.1,0 nll_coef=0,1"))
    assert not list(Path(config.out).glob("*/*.pt"))


def test_two_runs_in_one_folder_are_refused(config, tmp_path):
    with pytest.raises(ValueError, match="two of the runs would have the same folder"):
        sweep.train_all({"a b": config, "a/b": config}, tmp_path)


# Runs that do not end well


@pytest.fixture
def diverged(config, capsys, monkeypatch):
    """What is printed of three runs, the first of which diverges."""
    shorten_small_talk(monkeypatch)
    sweep.main(replace(config, grid="base_lr=1e30,1e-4,1e-3 beta=0.1", epochs=2))
    return capsys.readouterr().out


def test_what_diverges_is_left_out(diverged, config):
    assert "left out: base_lr 1e+30, beta 0.1: step" in diverged
    assert "The weights are again those after step" in diverged
    assert diverged.count("\n| base_lr ") == 2
    assert (Path(config.out) / "grid.png").exists()


def stop_after_a_step(config, monkeypatch):
    append = History.append

    def append_and_stop(self, metrics):
        append(self, metrics)
        signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(History, "append", append_and_stop)
        train_grid(config)


def test_a_stopped_run_goes_on_or_starts_afresh(config, monkeypatch):
    config = replace(config, grid="beta=0.1,0.5", epochs=3, eval_every=0)
    for seed in (1, 2):  # stopped, and then the sweep is called with another seed
        stop_after_a_step(replace(config, seed=seed), monkeypatch)
        assert (Path(config.out) / "beta_0.1/dpo.state.pt").exists()
    for path in train_grid(replace(config, seed=1)).values():
        assert load_checkpoint(path).extras["config"]["seed"] == 1
        assert not path.with_name("dpo.state.pt").exists()


def test_edited_pairs_are_trained_on_again(config, pairs_file):
    config = replace(config, grid="beta=0.1,0.5", eval_every=0)
    [path, _] = train_grid(config).values()
    first = path.read_bytes()
    train_grid(config)
    assert path.read_bytes() == first
    pairs_file.write_text(json.dumps(json.loads(pairs_file.read_text())[:3]))
    train_grid(config)
    assert path.read_bytes() != first


# Figures


def result(right, evals=True, side="held_out"):
    """The figures of a run with so many of ten answers right, everywhere."""
    share = {"n": 10, "count": right, "rate": right / 10, "low": 0.0, "high": 1.0}
    groups = {f"{side}/{kind}": {"right": share} for kind in ENDS if kind != "everyday"}
    groups |= {f"seen/{kind}": {"right": None} for kind in ENDS if kind != "everyday"}
    looks = {"step": [0, 8], "exact/held_out": [0.0, right / 10]} if evals else {}
    return {"everyday": share, "groups": groups, "history": {"steps": {}, "looks": looks}}


@pytest.fixture
def grid():
    """Three values by two, and the last run of all left out."""
    table = [[result(1), result(2)], [result(3), result(4)], [result(5), None]]
    return grid_figure(("beta", "nll_coef"), ([0.1, 0.5, 1.0], [0.0, 1.0]), table)


def test_grid_shows_what_it_is_given(grid):
    assert texts_in(grid) == ["10 %", "20 %", "30 %", "40 %", "50 %", "-"] * 3


def test_grid_has_the_first_setting_in_rows(grid):
    assert [tick.get_text() for tick in grid.axes[0].get_yticklabels()] == ["0.1", "0.5", "1.0"]


@pytest.mark.parametrize(("side", "name"), [("held_out", "held-out"), ("validation",) * 2])
def test_grid_names_what_was_asked(side, name):
    figure = grid_figure(("beta", "epochs"), ([0.1], [1]), [[result(1, side=side)]])
    titles = [axis.get_title("left") for axis in figure.axes]
    assert titles == [
        f"{name} additive\nn = 10",
        f"{name} multiplicative\nn = 10",
        "retention of small talk\nn = 10",
    ]


@pytest.fixture
def two_runs():
    """The panels of two runs, of which one has evals."""
    return runs_figure({"one": result(1), "two": result(9, evals=False)})


def test_runs_figure_names_every_run(two_runs):
    assert [tick.get_text() for tick in two_runs.axes[0].get_yticklabels()] == ["one", "two"]


def test_runs_figure_has_the_curves_there_are(two_runs):
    assert [list(line.get_ydata()) for line in two_runs.axes[1].lines] == [[0.0, 0.1]]
    assert texts_in(two_runs) == ["one"]


def test_runs_figure_of_many_has_no_curves():
    # nobody tells seven curves apart
    assert len(runs_figure({f"run {i}": result(5) for i in range(7)}).axes) == 1
