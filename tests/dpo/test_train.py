"""A whole run of `dpo.train`: what it learns, what it writes, what it refuses."""

import json
import math
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
import torch
from conftest import ROOT, SUMS, TINY, course_file, make_tiny, same_bits, train_tiny

from configurator import override
from dpo.data.batches import batch_order
from dpo.loss_variants import LOSS_TYPES, settings_of
from dpo.train import Config, train
from dpo.training.distributed import ALONE
from dpo.training.history import History
from dpo.training.run import prepare
from model import GPT, GPTConfig
from sft.checkpoint.weights import Checkpoint, from_json_tensor, load_checkpoint

SETTINGS = sorted((ROOT / "dpo/settings").glob("*.py"))


# What it learns


@pytest.fixture(scope="module", params=["adamw", "muon"])
def learned(request, tiny_folder):
    """A run of 40 steps, with either optimizer."""
    settings = {"batch_size": 4, "epochs": 20, "base_lr": 3e-3, "muon_lr": 0.02}
    settings |= {"optimizer": request.param, "out": str(tiny_folder / request.param)}
    return train_tiny(tiny_folder, **settings)


def test_a_run_has_a_step_for_every_batch(learned):
    assert len(learned.history) == 40


def test_a_run_halves_the_loss(learned):
    assert learned.history["loss/preference"][-1] < 0.5 * math.log(2)


def test_a_run_ranks_all_pairs_right(learned):
    assert learned.history["rewards/accuracies"][-1] == 1


def test_a_run_parts_the_rewards(learned):
    assert learned.history["rewards/margins"][-1] > 0.5


def test_history_has_a_number_a_step(learned):
    assert set(map(len, learned.history.steps.values())) == {40}


def test_rate_of_a_run_rises_and_falls(learned):
    rates = learned.history["lr"]
    assert rates[0] < max(rates)
    assert max(rates) > rates[-1]


def test_saved_config_is_that_of_the_run(learned):
    assert learned.saved.extras["config"]["epochs"] == 20


def test_saved_history_is_that_of_the_run(learned):
    history = from_json_tensor(learned.saved.extras["history"])
    assert history["steps"]["loss"] == learned.history["loss"]


def test_saved_weights_are_the_policys(learned):
    assert same_bits(learned.saved.state_dict, learned.policy)


def test_a_run_repeats_to_the_bit(learned, tmp_path):
    again, _ = train(Config(**vars(learned.config) | {"out": str(tmp_path)}))
    assert same_bits(again, learned.policy)


def test_saved_file_loads_as_in_the_assignment(learned):
    # what Step 8 of the assignment does with a file of its layout
    file = torch.load(learned.path, weights_only=True)
    GPT(GPTConfig(**file["model_args"])).load_state_dict(file["model"], strict=True)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_every_loss_trains(tiny_folder, tmp_path, loss_type):
    settings = {"nll_coef": 0.0, "epochs": 20, "base_lr": 3e-3, "out": str(tmp_path)}
    history = train_tiny(tiny_folder, loss_type=loss_type, batch_size=8, **settings).history
    assert history["loss/preference"][-1] < history["loss/preference"][0]
    assert history["rewards/accuracies"][-1] == 1


# From the command line, in a process of its own


@dataclass
class CommandLineRun:
    out: str  # what it printed
    folder: Path
    saved: Checkpoint

    @property
    def history(self):
        return from_json_tensor(self.saved.extras["history"])


@pytest.fixture(scope="module")
def course_run(tiny_folder):
    """`python -m dpo.train` on a base in the course's layout."""
    course_file(tiny_folder / "gpt.pt", make_tiny())
    folder = tiny_folder / "of the course"
    words = [f"--base={tiny_folder / 'gpt.pt'}", f"--pairs={tiny_folder / 'pairs.json'}"]
    words += [f"--out={folder}", "--steps=3", "--eval_questions=4", "--device=cpu"]
    command = [sys.executable, "-m", "dpo.train", *words]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return CommandLineRun(run.stdout, folder, load_checkpoint(folder / "dpo.pt"))


def test_program_says_how_much_it_will_do(course_run):
    assert "8 pairs, 3 steps of 4" in course_run.out


def test_program_says_how_the_run_went(course_run):
    assert "What that means - " in course_run.out


def test_program_tunes_a_base_of_the_course(course_run):
    assert not same_bits(course_run.saved.state_dict, make_tiny())


def test_program_saves_a_model_without_dropout(course_run):
    assert course_run.saved.model_args == TINY


def test_program_saves_a_number_a_step(course_run):
    assert len(course_run.history["steps"]["loss"]) == 3


def test_program_evaluates_at_start_and_end(course_run):
    evals = course_run.history["looks"]
    assert evals["step"] == [0, 3]
    assert evals["exact/held_out"] == [0.0, 0.0]
    assert evals["exact/trained"] == [0.0, 0.0]


def test_kl_starts_at_zero_and_rises(course_run):
    before, after = course_run.history["looks"]["kl"]
    assert before == pytest.approx(0, abs=1e-5)
    assert after > before


def test_program_saves_the_pairs(course_run):
    first = from_json_tensor(course_run.saved.extras["pairs"])[0]
    assert first == ["1+2=?", " The answer is 3.", " Sorry, I don't know."]


def test_program_leaves_nothing_but_the_result(course_run):
    assert [path.name for path in course_run.folder.iterdir()] == ["dpo.pt"]


# Few pairs


def test_four_pairs_are_one_small_step(tiny_run, pairs_file):
    pairs_file.write_text(json.dumps(json.loads(pairs_file.read_text())[:4]))
    assert len(tiny_run().history) == 1


def test_no_pairs_are_an_error(tiny_run, pairs_file):
    pairs_file.write_text("[]")
    with pytest.raises(ValueError, match="no pairs"):
        tiny_run()


def test_max_pairs_are_spread_over_the_file(tiny_run):
    run = tiny_run(batch_size=2, max_pairs=3)
    prompts = [row[0] for row in from_json_tensor(run.saved.extras["pairs"])]
    everything = [f"{a}+{b}=?" for a, b in SUMS]
    assert prompts == [everything[0], everything[2], everything[5]]  # 8 i / 3, rounded down
    assert len(run.history) == 2


@pytest.mark.parametrize("max_pairs", [1, 3, 0])
def test_steps_are_made_whatever_the_pairs(tiny_run, max_pairs):
    assert len(tiny_run(epochs=0, steps=5, batch_size=4, max_pairs=max_pairs).history) == 5


def test_epochs_count_before_steps(tiny_run):
    assert len(tiny_run(epochs=2, steps=5, batch_size=4).history) == 4


# Mistakes


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("--beta=0", "beta above 0"),
        ("--digit_weight=0", "digit_weight and max_grad_norm must be above 0"),
        ("--base_lr=-1e-5", "base_lr, muon_lr, nll_coef, max_pairs and epochs 0 or more"),
        ("--steps=0", "steps and batch_size must be at least 1"),
        ("--epochs=-1", "max_pairs and epochs 0 or more"),
        ("--loss_type=dpo", "loss_type is 'dpo'; it must be"),
        ("--optimizer=sgd", "optimizer is 'sgd'; it must be"),
        ("--base=nowhere.pt", "nowhere.pt: no such file"),
        ("--pairs=nowhere.json", "nowhere.json: no such file"),
        ("--max_length=10", "over max_length"),
        ("--bta=1", "did you mean 'beta'[?]"),
    ],
)
def test_mistakes_are_one_sentence(base_file, pairs_file, tmp_path, word, message):
    words = [f"--base={base_file}", f"--pairs={pairs_file}", f"--out={tmp_path}", "--device=cpu"]
    with pytest.raises(ValueError, match=message) as error:
        train(override(Config(), [*words, word]))
    assert "to mend" in str(error.value) or "\n" not in str(error.value).rstrip()
    assert not (tmp_path / "dpo.pt").exists()


def test_a_mistake_ends_the_program(run_program, tmp_path):
    ended = run_program("dpo.train", f"--base={tmp_path / 'nowhere.pt'}", "--device=cpu")
    assert ended.code == 1
    assert ended.err.startswith("error: ")
    assert "no such file" in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize(("loss_type", "noted"), [("sigmoid", 1), ("robust", 0)])
def test_a_setting_of_another_loss_is_noted(tiny_run, capsys, loss_type, noted):
    tiny_run(label_smoothing=0.2, loss_type=loss_type)
    note = "note: label_smoothing does nothing with the loss sigmoid, only with cdpo and robust"
    assert capsys.readouterr().out.count(note) == noted


# Settings files


def test_settings_files_are_those_known():
    assert [file.stem for file in SETTINGS] == ["assignment", "blank_base", "gpu", "large_file"]


@pytest.mark.parametrize("file", SETTINGS, ids=lambda file: file.stem)
def test_every_settings_file_sets_something(file):
    assert override(Config(), [str(file)]) != Config()


# The metrics file


SIX_STEPS = {"batch_size": 4, "epochs": 3, "eval_every": 4, "eval_questions": 2, "save_every": 1}


def read_metrics(run):
    return [json.loads(line) for line in Path(run.config.metrics).read_text().splitlines()]


@pytest.fixture(scope="module")
def six_steps(tiny_folder):
    """A run with evals that writes its metrics into a folder which is not there yet."""
    path = tiny_folder / "new folder" / "metrics.jsonl"
    out = str(tiny_folder / "with metrics")
    return train_tiny(tiny_folder, **SIX_STEPS, metrics=str(path), out=out)


def test_metrics_have_a_line_a_step(six_steps):
    lines = read_metrics(six_steps)
    assert [line["step"] for line in lines] == list(range(7))
    assert [line["loss"] for line in lines[1:]] == six_steps.history["loss"]
    assert "loss" not in lines[0]  # before the first step


def test_metrics_have_the_evals(six_steps):
    evals = {line["step"]: line["kl"] for line in read_metrics(six_steps) if "kl" in line}
    assert list(evals) == [0, 4, 6]
    assert list(evals.values()) == six_steps.history.evals["kl"]


def test_metrics_go_on_where_the_run_goes_on(six_steps, tiny_run, tmp_path, monkeypatch):
    append, metrics = History.append, tmp_path / "metrics.jsonl"

    def stop_after_three(self, values):
        append(self, values)
        if len(self) == 3:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(History, "append", stop_after_three)
        tiny_run(**SIX_STEPS, metrics=str(metrics))
    assert len(metrics.read_text().splitlines()) == 4
    resumed = tiny_run(**SIX_STEPS, metrics=str(metrics), resume=True)
    assert read_metrics(resumed) == read_metrics(six_steps)


def test_a_quiet_run_prints_nothing(tiny_run, capsys):
    tiny_run(quiet=True, eval_every=1, eval_questions=2)
    assert not capsys.readouterr().out


def test_failing_metrics_stop_nothing(tiny_run, tmp_path, capsys, monkeypatch):
    path = tmp_path / "m.jsonl"
    monkeypatch.setattr(History, "after", lambda self, step: path.unlink() or path.mkdir())
    run = tiny_run(batch_size=4, metrics=str(path))
    assert len(run.history) == 2
    assert "m.jsonl is not written any more (Is a directory)" in capsys.readouterr().out


# The run before


def test_a_repeated_run_replaces_nothing(tiny_run, tmp_path):
    first = tiny_run().path.read_bytes()
    # what of these settings changes nothing in the result, makes it no other run
    as_well = {"metrics": str(tmp_path / "m"), "save_every": 1}
    for others in ({}, {"quiet": True}, {"micro_batch": 4}, as_well):
        run = tiny_run(beta=0.5, **others)
        assert run.path.with_name("dpo.previous.pt").read_bytes() == first


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_config_has_the_defaults_of_losses(loss_type):
    config = Config()
    settings = settings_of(loss_type)
    assert {name: getattr(config, name) for name in settings} == settings


def test_the_reference_scores_what_the_steps_use_and_no_more(tiny_folder, tmp_path):
    files = {"base": str(tiny_folder / "base.pt"), "pairs": str(tiny_folder / "pairs.json")}
    config = Config(**files, out=str(tmp_path), device="cpu", steps=1, batch_size=2, quiet=True)
    run = prepare(asdict(config), History(), torch.device("cpu"), ALONE)
    [used] = batch_order(len(run.pairs), 2, config.seed, steps=1)
    assert run.reference_logps.all(dim=1).nonzero().flatten().tolist() == sorted(used)
