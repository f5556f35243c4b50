"""A grid of runs: what is trained, what is not trained again, and the picture of the grid."""

import json
import signal
from pathlib import Path

import pytest
from test_plots import texts

from configurator import SettingError
from dpo import sweep
from dpo.history import History
from dpo.plots import ENDS, grid_figure, runs_figure
from sft.checkpoint import load_checkpoint


@pytest.fixture
def config(base_file, pairs_file, tmp_path):
    return sweep.Config(
        base=str(base_file), pairs=str(pairs_file), out=str(tmp_path / "sweep"), batch_size=8, eval_questions=2,
        device="cpu", grid="beta=0.1,0.5 nll_coef=0,1", n=1,
    )  # fmt: skip


def test_every_combination_is_trained_once_and_compared(config, tmp_path, monkeypatch, capsys):
    trained = []
    train = sweep.train.train
    monkeypatch.setattr(sweep.train, "train", lambda settings: trained.append(settings) or train(settings))
    sweep.main(config)
    assert [(c.beta, c.nll_coef) for c in trained] == [(0.1, 0.0), (0.1, 1.0), (0.5, 0.0), (0.5, 1.0)]
    assert len({c.out for c in trained}) == 4 and all(c.eval_questions == 2 and c.resume for c in trained)
    rows = [line.split("|")[1:4] for line in capsys.readouterr().out.splitlines() if line.startswith("| beta")]
    assert [[cell.strip() for cell in row] for row in rows][-1] == ["beta 0.5, nll_coef 1.0", "0.5", "1"]
    assert {"runs.png", "grid.png", "runs.json"} <= {path.name for path in (tmp_path / "sweep").iterdir()}
    sweep.main(config)
    assert len(trained) == 4, "what is done is not done again"
    (tmp_path / "sweep/beta_0.5__nll_coef_1.0/dpo.pt").write_bytes(b"broken")
    sweep.train_all(sweep.read_grid(config)[1], tmp_path / "sweep")
    assert len(trained) == 5
    results = json.loads((tmp_path / "sweep/runs.json").read_text())
    assert list(results)[1] == "beta 0.1, nll_coef 1.0"


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ("", "grid: 1 runs; 2 to 100"),
        ("beta=0.1", "grid: 1 runs; 2 to 100"),
        ("beta", "'beta' is not a setting of its own with values"),
        ("beta=0.1 beta=0.2", "'beta=0.2' is not a setting of its own"),
        ("out=a,b", "'out=a,b' is not a setting of its own"),
        ("bta=1,2", "did you mean 'beta'?"),
        ("beta=0.1,much", "beta must be a number"),
        ("beta=0.1,0.1", "2 to 100 different ones"),
        ("seed=" + ",".join(map(str, range(101))), "101 runs"),
    ],
)
def test_a_wrong_grid_is_one_sentence(config, grid, message):
    config.grid = grid
    with pytest.raises(SettingError, match=message.replace("?", "[?]")):
        sweep.read_grid(config)


def test_a_value_that_cannot_train_is_said_before_anything_is_trained(config):
    config.grid = "beta=0.1,0 nll_coef=0,1"
    with pytest.raises(ValueError, match="beta above 0"):
        sweep.main(config)
    assert not list(Path(config.out).glob("*/*.pt"))


def test_what_diverges_is_left_out(config, capsys):
    config.grid, config.epochs = "base_lr=1e30,1e-4,1e-3 beta=0.1", 2
    sweep.main(config)
    out = capsys.readouterr().out
    assert "left out: base_lr 1e+30, beta 0.1: step" in out and "The weights are again those after step" in out
    assert (Path(config.out) / "grid.png").exists() and out.count("\n| base_lr ") == 2


def test_what_was_stopped_is_gone_on_with_and_what_had_other_settings_starts_afresh(config, tmp_path, monkeypatch):
    config.grid, config.epochs = "beta=0.1,0.5", 3
    runs, append = sweep.read_grid(config)[1], History.append

    def append_and_stop(self, metrics):
        append(self, metrics)
        signal.raise_signal(signal.SIGINT)

    for seed in (1, 2):  # stopped, and then the sweep is called with another seed
        config.seed = seed
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(History, "append", append_and_stop)
            sweep.train_all(sweep.read_grid(config)[1], tmp_path / "sweep")
        assert (tmp_path / "sweep/beta_0.1/dpo.state.pt").exists()
    config.seed = 1
    for path in sweep.train_all(runs, tmp_path / "sweep").values():
        assert load_checkpoint(path).extras["config"]["seed"] == 1 and not path.with_name("dpo.state.pt").exists()


def test_edited_pairs_are_trained_on_again(config, pairs_file, tmp_path):
    config.grid = "beta=0.1,0.5"
    runs = sweep.read_grid(config)[1]
    [path, _] = sweep.train_all(runs, tmp_path / "sweep").values()
    first = path.read_bytes()
    sweep.train_all(runs, tmp_path / "sweep")
    assert path.read_bytes() == first
    pairs_file.write_text(json.dumps(json.loads(pairs_file.read_text())[:3]))
    sweep.train_all(runs, tmp_path / "sweep")
    assert path.read_bytes() != first


def test_two_runs_in_one_folder_are_refused(config, tmp_path):
    runs = {"a b": config, "a/b": config}
    with pytest.raises(ValueError, match="two of the runs would have the same folder"):
        sweep.train_all(runs, tmp_path)


def result(right, looks=True):
    share = {"n": 10, "count": right, "rate": right / 10, "low": 0.0, "high": 1.0}
    groups = {group: {"right": share} for group in ENDS if group != "everyday"}
    history = {"steps": {}, "looks": {"step": [0, 8], "exact/held_out": [0.0, right / 10]} if looks else {}}
    return {"everyday": share, "groups": groups, "history": history}


def test_figures_show_what_they_are_given():
    table = [[result(1), result(2)], [result(3), result(4)], [result(5), None]]
    figure = grid_figure(("beta", "nll_coef"), ([0.1, 0.5, 1.0], [0.0, 1.0]), table)
    assert texts(figure) == ["10 %", "20 %", "30 %", "40 %", "50 %", "-"] * 3
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["0.1", "0.5", "1.0"]
    few = runs_figure({"one": result(1), "two": result(9, looks=False)})
    ends, ways = few.axes
    assert [tick.get_text() for tick in ends.get_yticklabels()] == ["one", "two"]
    assert [list(line.get_ydata()) for line in ways.lines] == [[0.0, 0.1]] and texts(few) == ["one"]
    assert len(runs_figure({f"run {i}": result(5) for i in range(7)}).axes) == 1, "no curves that nobody tells apart"
