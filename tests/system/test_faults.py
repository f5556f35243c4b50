"""Twenty faults in training and saving (R1 to R20 of tests/README.md): nothing saved is lost.

What must not harm the tests themselves happens in child processes; with one thread, since sums of
two may differ. R7, R12 and R18 are in test_notebook.py, most of R15 in tests/dpo/test_train.py.
"""

import json
import math
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from children import in_child, run_module, start_child, start_module
from tqdm import tqdm

import dpo.training.step
import sft.files
import sft.train
from dpo.plots.lesson import TrainingFigure
from dpo.train import Config, train
from dpo.training.history import History
from dpo.training.step import METRICS
from sft.checkpoint.resume import ResumeError, TrainingState, read_state
from sft.checkpoint.weights import from_json_tensor, load_checkpoint, load_model, save_checkpoint
from sft.files import STALE_SECONDS, SaveError, check_folder, remove, write_atomically
from sft.optimizers import make_optimizers, make_schedulers

ROOT = Path(__file__).parents[2]
STEPS = 12  # of 8 pairs in batches of 4, 6 epochs
SETTINGS = {
    "batch_size": 4,
    "epochs": 6,
    "eval_every": 6,
    "eval_questions": 2,
    "save_every": 2,
    "base_lr": 3e-3,
    "muon_lr": 0.02,
    "device": "cpu",
}


@pytest.fixture
def config(base_file, pairs_file, tmp_path):
    files = {"base": base_file, "pairs": pairs_file, "out": tmp_path / "out"}
    return Config(**SETTINGS, **{name: str(path) for name, path in files.items()})


def changed(config, **settings):
    return Config(**(vars(config) | settings))


class Events(History):
    """A history that does something after one of the steps."""

    def __init__(self, step, action):
        super().__init__()
        self.step, self.action = step, action

    def append(self, metrics):
        super().append(metrics)
        if len(self) == self.step:
            self.action()


def interrupt():
    signal.raise_signal(signal.SIGINT)


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def raising(error):
    """A function that does nothing but raise this."""

    def fails(*_, **__):
        raise error

    return fails


def train_in_child(config, step=0, action=None, **settings):
    return in_child(run_training, changed(config, **settings), step, action)


def run_training(config, step, action):
    train(config, Events(step, action))


def stop_after(config, step, **settings):
    assert train_in_child(config, step, interrupt, **settings).error == "KeyboardInterrupt"


def go_on(config):
    outcome = train_in_child(config, resume=True)
    assert not outcome.raised, outcome


def result(config):
    """Weights and history of a run, to be compared bit by bit."""
    checkpoint = load_checkpoint(Path(config.out) / "dpo.pt")
    weights = {name: tensor.numpy().tobytes() for name, tensor in checkpoint.state_dict.items()}
    return weights, from_json_tensor(checkpoint.extras["history"])


def files(config):
    return sorted(path.name for path in Path(config.out).iterdir())


def state_file(config):
    return Path(config.out) / "dpo.state.pt"


def saved_steps(path):
    """How many steps the saved state at this place has made."""
    progress = from_json_tensor(read_state(path).extras["progress"])
    return len(progress["losses"] if "losses" in progress else progress["steps"]["loss"])


RESULTS = {}  # of undisturbed runs, by optimizer: every test has the same base and pairs


def undisturbed_result(config, folder):
    if config.optimizer not in RESULTS:
        whole = changed(config, out=str(folder / "whole"))
        assert train_in_child(whole).exit_code == 0
        RESULTS[config.optimizer] = result(whole)
    return RESULTS[config.optimizer]


@pytest.fixture
def undisturbed(config, tmp_path):
    """The result of the run that nothing happens to."""
    return undisturbed_result(config, tmp_path)


# R1, R2: going on is the same as not having stopped

MOMENTS = {"the first": 1, "within an epoch": 3, "end of an epoch": 4, "the last but one": 11}


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("step", MOMENTS.values(), ids=[f"R1 {name}" for name in MOMENTS])
def test_stopped_run_ends_with_the_same_bits(config, tmp_path, optimizer, step):
    config = changed(config, optimizer=optimizer)
    stop_after(config, step)
    assert files(config)[-1] == "dpo.state.pt"
    assert saved_steps(state_file(config)) == step
    go_on(config)
    assert result(config) == undisturbed_result(config, tmp_path)
    assert files(config) == ["dpo.pt"], "the states go when the result is saved"


def test_several_stops_end_with_the_same_bits(config, undisturbed):
    """R1: four times in one run; the first time there is nothing to go on from."""
    for step in (2, 5, 6, 9):
        stop_after(config, step, resume=True)
    go_on(config)
    assert result(config) == undisturbed


class Noted:
    """Progress that is a list of losses."""

    def __init__(self):
        self.losses = []

    def __len__(self):
        return len(self.losses)

    def state_dict(self):
        return {"losses": self.losses}

    def load_state_dict(self, state):
        self.losses = state["losses"]


def noisy_state(tiny_file, path):
    """A run whose next step depends on dropout, momenta, schedule and position."""
    model = load_model(tiny_file)[0].train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.2
    optimizers = make_optimizers(model, "adamw", 1e-2)
    schedulers = make_schedulers(optimizers, 20)
    torch.manual_seed(7)
    return TrainingState(Path(path), model, optimizers, schedulers, Noted(), {"a": 1}, {})


def noisy_steps(state, until, first=None):
    first = len(state.progress) if first is None else first
    for step in range(first, first + until - len(state.progress)):
        idx = torch.arange(step, step + 16)[None] % 74
        loss = state.model(idx[:, :-1], idx[:, 1:])[1]
        loss.backward()
        for optimizer, scheduler in zip(state.optimizers, state.schedulers, strict=True):
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
        state.progress.losses.append(loss.item())


def noisy_result(state):
    """Losses, and the bits of weights and momenta."""
    entries = state.optimizers[0].state.values()
    moments = [value.numpy().tobytes() for entry in entries for value in entry.values()]
    weights = [parameter.detach().numpy().tobytes() for parameter in state.model.parameters()]
    return state.progress.losses, weights, moments


def noisy_run(tiny_file, path, until, dropped=""):
    state = noisy_state(tiny_file, path)
    with state.running(resume=True):
        if dropped == "random numbers":
            torch.manual_seed(7)
        if dropped == "optimizer":
            state.optimizers[0].state.clear()
        if dropped == "schedule":
            fresh = make_schedulers(state.optimizers, 20)[0]
            state.schedulers[0].load_state_dict(fresh.state_dict())
        noisy_steps(state, until, first=0 if dropped == "position" else None)
    return noisy_result(state)


PARTS = ["random numbers", "optimizer", "schedule", "position"]


@pytest.mark.parametrize("dropped", ["", *PARTS], ids=["whole", *(f"R2 no {p}" for p in PARTS)])
def test_every_part_of_the_state_is_needed(base_file, tmp_path, dropped):
    """Without one of them the results differ."""
    whole = in_child(noisy_run, base_file, tmp_path / "whole.pt", 12).value
    in_child(noisy_run, base_file, tmp_path / "halves.pt", 6)
    halves = in_child(noisy_run, base_file, tmp_path / "halves.pt", 12, dropped).value
    assert whole[0][:6] == halves[0][:6]
    assert len(halves[0]) == 12
    assert (whole == halves) == (not dropped)


# R4: killed


def test_killed_run_goes_on_from_its_last_state(config, undisturbed):
    """R4: after a step."""
    for step, kept in ((3, 2), (8, 6)):
        outcome = train_in_child(config, step, kill, resume=True)
        assert outcome.exit_code == -signal.SIGKILL
        assert saved_steps(state_file(config)) == kept
    go_on(config)
    assert result(config) == undisturbed


@pytest.mark.parametrize("seed", [1, 2], ids="R4 six random moments, seed {}".format)
def test_run_killed_at_any_time_goes_on(config, undisturbed, seed):
    rng = random.Random(seed)
    for _ in range(6):
        process = start_child(train, changed(config, resume=True, save_every=1))
        process.join(rng.uniform(0.1, 0.5))
        process.kill()
        process.join()
    go_on(config)
    assert result(config) == undisturbed


# R3, R5, R6, R17: saving


class Dying:
    """A file that kills its process after so many bytes."""

    def __init__(self, file, most):
        self.file, self.most = file, most

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def __getattr__(self, name):
        return getattr(self.file, name)

    def write(self, data):
        self.file.write(data[: self.most])
        self.file.flush()
        kill()


def save_and_die(path, data, most, at):
    real_open, real_replace = os.fdopen, os.replace
    if at == "write":
        sft.files.os.fdopen = lambda *words: Dying(real_open(*words), most)
    else:
        moves = iter(range(9))
        sft.files.os.replace = lambda *words: (
            kill() if next(moves) == most else real_replace(*words)
        )
    write_atomically(path, data, previous=path.with_name("previous"))


def test_writing_through_a_link_keeps_the_link(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "link").symlink_to("file")
    write_atomically(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_bytes() == b"new"


def test_what_is_no_plain_file_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SaveError, match="pipe is no plain file; name a file"):
        write_atomically(tmp_path / "pipe", b"new")
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize(
    ("most", "at", "survivor"),
    [
        pytest.param(0, "write", "file", id="R3 after no byte"),
        pytest.param(1000, "write", "file", id="R3 after 1,000 bytes"),
        pytest.param(50_000, "write", "file", id="R3 after half of the bytes"),
        pytest.param(99_999, "write", "file", id="R3 after all bytes but the last"),
        pytest.param(0, "replace", "file", id="R3 before the moves"),
        pytest.param(1, "replace", "previous", id="R3 between the two moves"),
    ],
)
def test_old_file_survives_a_kill_while_saving(tmp_path, most, at, survivor):
    path = tmp_path / "file"
    write_atomically(path, b"old" * 1000)
    assert in_child(save_and_die, path, b"new" * 33_334, most, at).exit_code == -signal.SIGKILL
    assert path.exists() == (survivor == "file")
    assert (tmp_path / survivor).read_bytes() == b"old" * 1000
    [left] = tmp_path.glob(".*.tmp")
    write_atomically(path, b"newer")
    assert path.read_bytes() == b"newer"
    assert left.exists(), "what may belong to a living process stays"
    os.utime(left, (time.time() - STALE_SECONDS - 1,) * 2)
    write_atomically(path, b"newest")
    assert path.read_bytes() == b"newest"
    assert not left.exists(), "what belongs to none is swept away"


def train_on_a_full_disk(config, most):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    train(config)


def test_full_disk_loses_nothing(config, undisturbed, base_file):
    """R5: by a limit on the size of files."""
    first_state = base_file.stat().st_size  # weights; with the moments it is three times as large
    outcome = in_child(train_on_a_full_disk, config, 2 * first_state)
    assert outcome.error == "SaveError"
    for words in (
        "no room for dpo.state.pt",
        "it needs 0.1 MB",
        "nothing that was saved is lost",
    ):
        assert words in outcome.message
    assert files(config) == ["dpo.state.pt"], "the state of step 0, and nothing left over"
    go_on(config)
    assert result(config) == undisturbed


NO_SPACE = OSError(28, "No space left on device")


def test_full_disk_names_the_missing_megabytes(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=10_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    message = r"needs 106.0 MB, 10.0 MB are free, 96 MB are missing. Free some space"
    with pytest.raises(SaveError, match=message):
        check_folder(tmp_path, 106_000_000)


def test_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    """R5: by an error of the system."""
    write_atomically(tmp_path / "dpo.pt", b"old")
    monkeypatch.setattr(os, "fsync", raising(NO_SPACE))
    usage = shutil.disk_usage(tmp_path)._replace(free=10_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(SaveError, match=r"no room for dpo.pt .* a quota or limit allows no more"):
        write_atomically(tmp_path / "dpo.pt", b"new and longer")
    assert (tmp_path / "dpo.pt").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["dpo.pt"]


def test_failed_save_loses_nothing_in_memory(base_file, tmp_path, monkeypatch):
    """R5 in a notebook: the disk is full, space is made, the same loop goes on from memory."""
    whole = noisy_run(base_file, tmp_path / "whole.pt", 12)
    state = noisy_state(base_file, tmp_path / "s.pt")
    with state.running(resume=True):
        noisy_steps(state, 3)
    full = monkeypatch.context()
    with full as patch, pytest.raises(SaveError, match="no room"), state.running(resume=True):
        noisy_steps(state, 7)
        patch.setattr(sft.files.os, "fsync", raising(NO_SPACE))
    assert saved_steps(state.path) == 3
    assert state.step == 7
    with state.running(resume=True):
        assert state.step == 7
        noisy_steps(state, 12)
    assert noisy_result(state) == whole


def test_failed_second_move_puts_the_old_file_back(tmp_path, monkeypatch):
    """R5: a move that fails."""
    path, previous, real = tmp_path / "s.pt", tmp_path / "s.previous.pt", os.replace
    write_atomically(path, b"old")
    moves = iter([real, raising(OSError(5, "I/O")), real])
    monkeypatch.setattr(os, "replace", lambda *words: next(moves)(*words))
    with pytest.raises(SaveError, match="the old file, if any, is as it was"):
        write_atomically(path, b"new", previous=previous)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["s.pt"]


@pytest.mark.parametrize("out", ["file", "file/below"], ids="R6 {}".format)
def test_unwritable_folder_is_said_before_loading(config, tmp_path, out):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SaveError, match=r"cannot write into .*file.*; name another folder"):
        train(changed(config, out=str(tmp_path / out), base="nowhere.pt"))


def test_unwritable_folder_of_a_base_is_said(tmp_path):
    """R6 while the base is made."""
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SaveError, match="cannot write into"):
        sft.train.make_base(sft.train.Config(out=str(tmp_path / "file/base.pt"), effort=1e-3))


SIZES = range(1000, 60_000, 1000)


def write_often(path, letter, previous=None):
    for size in SIZES:
        write_atomically(path, letter * size, previous)


def test_two_programs_keep_whole_files_before(tmp_path):
    """R17: the file before is kept, too."""
    path, previous = tmp_path / "s.pt", tmp_path / "s.previous.pt"
    writers = [start_child(write_often, path, letter, previous) for letter in (b"a", b"b")]
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    for data in (path.read_bytes(), previous.read_bytes()):
        assert data == data[:1] * len(data), "of one program"
        assert len(data) in SIZES, "whole"
    assert sorted(os.listdir(tmp_path)) == ["s.previous.pt", "s.pt"]


def test_two_programs_write_whole_files_to_one_place(tmp_path):
    """R17: whoever reads meanwhile finds a whole file every time."""
    path = tmp_path / "dpo.pt"
    write_atomically(path, b"a")
    writers = [start_child(write_often, path, letter) for letter in (b"a", b"b")]
    while any(writer.is_alive() for writer in writers):
        data = path.read_bytes()
        assert data == data[:1] * len(data), "of one program"
        assert len(data) in (1, *SIZES), "whole"
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert os.listdir(tmp_path) == ["dpo.pt"]


IN_USE = PermissionError(13, "in use")


def test_file_held_open_on_windows_is_waited_for(tmp_path, monkeypatch):
    path, tries, real = tmp_path / "dpo.pt", [], os.replace
    write_atomically(path, b"old")
    path.chmod(0o640)

    def held_open(*words):
        tries.append(words)
        if len(tries) < 3:
            raise IN_USE
        real(*words)

    monkeypatch.setattr(os, "replace", held_open)
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o640, "permissions stay"
    assert len(tries) == 3


def test_file_held_open_for_long_is_left_alone(tmp_path, monkeypatch):
    path = tmp_path / "dpo.pt"
    write_atomically(path, b"new")
    monkeypatch.setattr(time, "sleep", lambda _: None)
    monkeypatch.setattr(os, "replace", raising(IN_USE))
    message = r"was not written .in use.; the old file, if any, is as it was"
    with pytest.raises(SaveError, match=message):
        write_atomically(path, b"newer")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["dpo.pt"]


def test_old_file_held_open_on_windows_is_waited_for_before_it_is_deleted(tmp_path, monkeypatch):
    path, tries, real = tmp_path / "dpo.state.pt", [], os.unlink
    path.touch()

    def held_open(name):
        tries.append(name)
        if len(tries) < 3:
            raise IN_USE
        real(name)

    monkeypatch.setattr(os, "unlink", held_open)
    remove(path)
    assert (path.exists(), len(tries)) == (False, 3)


def test_leftover_held_open_on_windows_stops_no_save(tmp_path, monkeypatch):
    left = tmp_path / ".dpo.pt.1.tmp"
    left.touch()
    os.utime(left, (0, 0))
    monkeypatch.setattr(Path, "unlink", raising(IN_USE))
    write_atomically(tmp_path / "dpo.pt", b"new")
    assert (tmp_path / "dpo.pt").read_bytes() == b"new"


# R8, R9: stopping


def interrupted_often(config, times, seed):
    """The step, of every part of the state, after each of so many interrupts at random moments."""
    seen, rng, real_running = [], random.Random(seed), TrainingState.running

    def running(state, resume):
        threading.Timer(rng.uniform(0, 0.05), os.kill, (os.getpid(), signal.SIGINT)).start()
        seen.append(state)
        return real_running(state, resume)

    TrainingState.running = running
    while len(seen) < times:
        with suppress(KeyboardInterrupt):
            train(changed(config, resume=True))
            time.sleep(0.06)  # the last timer
            return "the run ended before all interrupts came"
        state = seen[-1]
        steps = {int(entry["step"]) for entry in state.optimizers[0].state.values()}
        assert steps == {state.step}, "a step was left half done"
        assert len(state.progress) == state.step, "a step was not noted, or noted twice"
        saved = from_json_tensor(read_state(state.path).extras["progress"])
        assert saved["steps"] == state.progress.steps
    return [state.step for state in seen]


def test_interrupts_at_any_time_leave_whole_steps(config):
    """R8: forty of them."""
    outcome = in_child(interrupted_often, changed(config, epochs=400, eval_every=0), 40, 8)
    assert not outcome.raised, outcome
    steps = outcome.value
    assert len(steps) == 40
    assert steps == sorted(set(steps)), "every stop is after at least one more step"


def press_twice(config):
    def presses():
        interrupt()
        interrupt()
        raise AssertionError("the second press did not stop the step")

    train(config, Events(5, presses))


def test_second_press_stops_at_once_and_spares_files(config, undisturbed):
    """R9 in a program."""
    assert in_child(press_twice, config).error == "KeyboardInterrupt"
    assert saved_steps(state_file(config)) == 4
    go_on(config)
    assert result(config) == undisturbed


def test_memory_is_not_trusted_after_an_error(base_file, tmp_path):
    """R9 in a notebook: the step is left half done, and the next call goes back."""
    whole = noisy_run(base_file, tmp_path / "whole.pt", 9)
    state = noisy_state(base_file, tmp_path / "s.pt")
    with state.running(resume=True):
        noisy_steps(state, 4)
    with pytest.raises(KeyboardInterrupt), state.running(resume=True):
        noisy_steps(state, 6)
        state.model.lm_head.weight.data += 1  # half a step
        state.model(torch.ones(1, 4).long(), torch.ones(1, 4).long())[1].backward()
        raise KeyboardInterrupt
    with state.running(resume=False):
        assert state.step == 4
        assert all(parameter.grad is None for parameter in state.model.parameters())
        noisy_steps(state, 9)
    assert noisy_result(state) == whole


def test_weights_of_another_history_are_refused(base_file, tmp_path):
    state = noisy_state(base_file, tmp_path / "s.pt")
    with state.running(resume=True):
        noisy_steps(state, 4)
    state.progress = Noted()
    message = "trained further than this history says"
    with pytest.raises(ResumeError, match=message), state.running(resume=True):
        pass


def run_ignoring_interrupts(base_file, path):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with noisy_state(base_file, path).running(False) as stop:
        interrupt()
        return "stopped" if stop else "went on"


def test_ignored_interrupts_stay_ignored(base_file, tmp_path):
    """A program in the background of a script: Ctrl-C is meant for somebody else."""
    assert in_child(run_ignoring_interrupts, base_file, tmp_path / "s.pt").value == "went on"


# R10, R11: what numbers and memory do


@pytest.fixture
def states(monkeypatch):
    """The states of all runs of a test."""
    seen, real_running = [], TrainingState.running
    monkeypatch.setattr(
        TrainingState, "running", lambda s, r: (seen.append(s), real_running(s, r))[1]
    )
    return seen


NOT_FINITE = (
    r"step {}, learning rate [0-9.e+-]+: the (loss|gradient) is .* "
    r"for the pairs of lines [1 ,]+; nothing was.*The weights are again those after step {}"
)


@pytest.mark.parametrize("fault", ["learning rate", "weight"], ids="R10 {}".format)
def test_numbers_that_are_not_finite_change_nothing(config, states, fault):
    earlier = Path(config.out) / "dpo.pt"
    earlier.parent.mkdir()
    earlier.write_bytes(b"an earlier, good one")
    if fault == "learning rate":
        config, history, at, back = changed(config, base_lr=1e30, epochs=20), History(), 2, 0
    else:
        history, at, back = Events(5, lambda: spoil(states[0].model)), 6, 4
    with pytest.raises(FloatingPointError, match=NOT_FINITE.format(at, back)):
        train(config, history)
    assert len(history) == back
    assert states[0].step == back
    assert all(bool(parameter.isfinite().all()) for parameter in states[0].model.parameters())
    assert earlier.read_bytes() == b"an earlier, good one"
    load_checkpoint(state_file(config))


def spoil(model):
    model.lm_head.weight.data.view(-1)[:1].fill_(math.nan)


def test_weights_that_are_not_finite_are_not_saved(tiny, tmp_path):
    """R10, whoever saves."""
    save_checkpoint(tmp_path / "x.pt", tiny)
    before = (tmp_path / "x.pt").read_bytes()
    tiny.transformer.ln_f.weight.data[3] = math.inf
    message = r"transformer.ln_f.weight holds NaN or infinite values: nothing was saved"
    with pytest.raises(FloatingPointError, match=message):
        save_checkpoint(tmp_path / "x.pt", tiny)
    assert (tmp_path / "x.pt").read_bytes() == before


NO_MEMORY = {
    "CUDA's": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "the CPU's": RuntimeError("[enforce fail at alloc] DefaultCPUAllocator: can't allocate memory"),
    "Python's": MemoryError(),
}


@pytest.mark.parametrize("error", NO_MEMORY.values(), ids=[f"R11 {name}" for name in NO_MEMORY])
def test_out_of_memory_names_a_remedy_that_works(config, undisturbed, monkeypatch, error):
    real = dpo.training.step.dpo_step

    def small_passes_only(policy, batch, **objective):
        if len(batch) > 2:
            raise error
        return real(policy, batch, **objective)

    monkeypatch.setattr(dpo.training.step, "dpo_step", small_passes_only)
    message = "out of memory with 4 pairs in one pass: set micro_batch to 2"
    with pytest.raises(MemoryError, match=message):
        train(config)
    history = train(changed(config, micro_batch=2, resume=True))[1]
    assert history["loss"] == pytest.approx(undisturbed[1]["steps"]["loss"], abs=1e-4)


def test_other_errors_of_a_step_stay_as_they_are(config, monkeypatch):
    monkeypatch.setattr(dpo.training.step, "dpo_step", raising(RuntimeError("something else")))
    with pytest.raises(RuntimeError, match="something else"):
        train(config)


# R13, R14: states that do not fit, or are damaged

OTHERS = {
    "learning rate": ({"base_lr": 1e-3}, "base_lr was 0.003, now it is 0.001"),
    "two settings": (
        {"epochs": 7, "seed": 2},
        "epochs was 6, now it is 7; seed was 1, now it is 2",
    ),
    "pairs": ({"pairs": "other.json"}, "pairs was '[0-9a-f]{8}', now it is '[0-9a-f]{8}'"),
    "base": ({"base": "other.pt"}, "base was '[0-9a-f]{8}', now it is '[0-9a-f]{8}'"),
    "optimizer": ({"optimizer": "muon"}, "optimizer was adamw, now it is muon"),
}


@pytest.fixture
def stopped(config):
    """The settings of a run that was stopped after step 5."""
    stop_after(config, 5)
    return config


@pytest.mark.parametrize("name", OTHERS, ids="R13 other {}".format)
def test_state_of_another_run_is_refused(stopped, tmp_path, tiny, monkeypatch, name):
    settings, difference = OTHERS[name]
    monkeypatch.chdir(tmp_path)
    rows = json.loads(Path(stopped.pairs).read_text())
    Path("other.json").write_text(json.dumps(rows[::-1]))
    tiny.lm_head.weight.data[0, 0] += 1
    save_checkpoint("other.pt", tiny)
    before = state_file(stopped).read_bytes()
    message = f"is of another run: {difference}. Go back to that, or start afresh: resume"
    with pytest.raises(ResumeError, match=message):
        train(changed(stopped, resume=True, **settings))
    assert state_file(stopped).read_bytes() == before


def test_state_is_taken_with_pairs_in_another_place(stopped, tmp_path, capsys):
    copy = shutil.copy(stopped.pairs, tmp_path / "the same pairs.json")
    train(changed(stopped, resume=True, pairs=str(copy), save_every=5))  # saved more rarely
    assert "going on after step 5" in capsys.readouterr().out


def test_other_number_of_threads_is_said(stopped, capsys, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    train(changed(stopped, resume=True))
    message = "threads was 1, now it is 2: the result will not be bitwise that of one long run"
    assert f"note: {message}" in capsys.readouterr().out


def test_fresh_start_says_what_it_replaces(stopped, capsys):
    history = train(stopped)[1]
    message = "dpo.state.pt is the state of an interrupted run and will be replaced"
    assert message in capsys.readouterr().out
    assert len(history) == STEPS


def cut(data):
    return data[: len(data) // 2]


def with_one_other_bit(data):
    return data[:5000] + bytes([data[5000] ^ 1]) + data[5001:]


damages = pytest.mark.parametrize(
    "damage", [cut, with_one_other_bit], ids=["R14 cut", "R14 one other bit"]
)


@damages
def test_damaged_state_falls_back_on_the_one_before(config, undisturbed, damage, capsys):
    stop_after(config, 7)
    state = state_file(config)
    state.write_bytes(damage(state.read_bytes()))
    assert saved_steps(state) == 6
    assert "taking the state before it" in capsys.readouterr().out
    go_on(config)
    assert result(config) == undisturbed


@damages
def test_two_damaged_states_are_refused(stopped, damage):
    for path in Path(stopped.out).glob("dpo.state*.pt"):
        path.write_bytes(damage(path.read_bytes()))
    message = r"no readable state at .*: start afresh without resume, or delete it"
    with pytest.raises(ResumeError, match=message):
        train(changed(stopped, resume=True))


@pytest.fixture
def saved_noisy(base_file, tmp_path):
    """A run of three steps, and what its file holds."""
    state = noisy_state(base_file, tmp_path / "s.pt")
    with state.running(False):
        noisy_steps(state, 3)
    return state, torch.load(state.path, weights_only=True)


def other_forms(contents):
    """Parts of a state that are not those of the run, with their names."""
    [optimizer], [scheduler] = contents["optimizers"], contents["schedulers"]
    moments = optimizer["state"]
    some = {i: moments[i] for i in list(moments)[1:]}
    steps_only = {i: {"step": entry["step"]} for i, entry in moments.items()}
    nans = {i: {k: v * math.nan for k, v in entry.items()} for i, entry in moments.items()}
    yield from (("optimizers", value) for value in ([], [{}], [{"state": {}, "param_groups": []}]))
    yield from (("optimizers", [optimizer | {"state": s}]) for s in (some, steps_only, nans))
    yield from (("schedulers", value) for value in ([], [{"last_epoch": 3}]))
    yield "schedulers", [scheduler | {"last_epoch": "3"}]
    yield "torch_rng", torch.zeros(3, dtype=torch.uint8)
    yield "torch_rng", torch.full((5056,), 255, dtype=torch.uint8)
    yield "torch_rng", 5
    yield "progress", torch.full((10**5,), ord("["), dtype=torch.uint8)
    yield "progress", torch.zeros(3, requires_grad=True)
    yield "progress", 7
    yield from (("made_from", value) for value in ([], {"a": {}}))
    yield from (("circumstances", value) for value in (None, {1: 2}))


def test_state_of_another_form_is_refused(saved_noisy):
    """R14: nineteen wrong forms."""
    state, contents = saved_noisy
    before, tried = noisy_result(state), 0
    for name, value in other_forms(contents):
        torch.save(contents | {name: value}, state.path)
        state.path.with_name("s.previous.pt").unlink(missing_ok=True)
        with pytest.raises(ValueError, match=r"start afresh|no readable"):
            state.restore()
        assert noisy_result(state) == before, name
        tried += 1
    assert tried == 19


def test_state_that_contradicts_itself_is_refused(saved_noisy):
    """R14: the schedule is further than the history."""
    state, contents = saved_noisy
    [scheduler] = contents["schedulers"]
    torch.save(contents | {"schedulers": [scheduler | {"last_epoch": 9}]}, state.path)
    with pytest.raises(ValueError, match="contradicts itself"):
        state.restore()
    assert state.is_dirty


# R15, R19, R20


def test_one_pair_trains(config):
    """R15; four and none: tests/dpo/test_train.py."""
    rows = json.loads(Path(config.pairs).read_text())
    Path(config.pairs).write_text(json.dumps(rows[:1]))
    assert len(train(config)[1]) == 6


def test_odd_environments_give_the_same_bits(config, tmp_path):
    """R19: spaces and ünïcode in paths, LC_ALL=C, no home, hash seeds."""
    folder = tmp_path / "with space and ünïcode"
    folder.mkdir()
    base, pairs = (shutil.copy(path, folder) for path in (config.base, config.pairs))
    (tmp_path / "home").write_text("no folder")
    rows = json.loads(Path(pairs).read_text(encoding="utf-8"))
    # A warning will show the sign.
    rows[0] = {key: "7×8=?" + text.partition("?")[2] for key, text in rows[0].items()}
    Path(pairs).write_text(json.dumps(rows), encoding="utf-8")
    given = [f"--base={base}", f"--pairs={pairs}", "--device=cpu"]
    command = [sys.executable, "-m", "dpo.train", *given, "--batch_size=4", "--eval_questions=4"]
    odd = {"LC_ALL": "C", "HOME": str(tmp_path / "home"), "PYTHONUTF8": "0"}
    runs = {}
    for hash_seed, extra in (("0", {}), ("77", odd)):  # side by side
        out = folder / f"out {hash_seed}"
        environment = os.environ | {"PYTHONHASHSEED": hash_seed, "OMP_NUM_THREADS": "1"} | extra
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        started = [*command, f"--out={out}"]
        runs[out] = subprocess.Popen(started, cwd=ROOT, env=environment, **streams)
    for run in runs.values():
        printed, errors = run.communicate(timeout=120)
        assert run.returncode == 0, errors.decode()
        assert b"warning: pairs.json: characters outside the alphabet were replaced" in printed
    one, other = (load_checkpoint(out / "dpo.pt").state_dict for out in runs)
    assert all(torch.equal(one[name], other[name]) for name in one)


def train_with_a_broken_bar(config):
    for name in ("display", "update", "set_postfix", "close"):
        setattr(tqdm, name, raising(OSError("the terminal is gone")))
    train(config)


def test_bar_that_fails_never_stops_training(config, undisturbed):
    """R20."""
    outcome = in_child(train_with_a_broken_bar, config)
    assert not outcome.raised, outcome
    assert result(config) == undisturbed


class BrokenHandle:
    def update(self, figure):
        raise RuntimeError("no display")


def test_figure_that_fails_says_so_once(capsys):
    """R20."""
    figure = TrainingFigure(10, 0.1, lambda *_, **__: BrokenHandle())
    history = History()
    history.append(dict.fromkeys(METRICS, 0.5))
    for _ in range(10):
        history.append(dict.fromkeys(METRICS, 0.5))
        figure.update(history)
    message = "note: the figure is not drawn any more (no display)"
    assert capsys.readouterr().out.count(message) == 1


# The command line, and the base


def test_command_line_stops_and_goes_on(config, undisturbed, tmp_path):
    words = [f"--{name}={value}" for name, value in vars(config).items() if name != "resume"]
    slow = start_module(
        tmp_path / "program", "dpo.train", *words, "--epochs=5000", "--save_every=1"
    )
    while not (Path(config.out) / "dpo.state.previous.pt").exists() and slow.process.is_alive():
        time.sleep(0.01)
    os.kill(slow.pid, signal.SIGINT)
    code, out, err = slow.wait()
    assert code == 130
    assert "Traceback" not in err
    assert "stopped after step " in out
    assert "of 10000; the same command with --resume goes on from there" in out
    code, _, err = run_module(tmp_path / "program", "dpo.train", *words, "--resume")
    assert code == 1
    assert err.startswith("error: ")
    assert "epochs was 5000, now it is 6" in err
    code, _, err = run_module(tmp_path / "program", "dpo.train", *words)
    assert code == 0, err
    assert result(config) == undisturbed


def make_base(config, stop_at=None):
    sft.train.BATCH_LINES = 16
    real, calls = sft.train.sft_step, []

    def step(*words):
        calls.append(1)
        if len(calls) == stop_at:
            interrupt()
        return real(*words)

    sft.train.sft_step = step
    sft.train.make_base(config)


WHOLE_BASE = {}  # weights: 4 steps of the first stage, then 1 of the second


@pytest.mark.parametrize(
    "stops",
    [
        pytest.param((2,), id="R1 within a stage"),
        pytest.param((4,), id="R1 at the end of a stage"),
        pytest.param((1, 1, 1), id="R1 three times"),
    ],
)
def test_stopped_base_ends_with_the_same_bits(base_file, tmp_path, stops):
    settings = {"init": str(base_file), "effort": 1e-4, "device": "cpu"}
    if not WHOLE_BASE:
        whole = sft.train.Config(**settings, out=str(tmp_path / "whole.pt"))
        assert not in_child(make_base, whole).raised
        WHOLE_BASE.update(load_checkpoint(tmp_path / "whole.pt").state_dict)
    config = sft.train.Config(**settings, out=str(tmp_path / "stopped.pt"), resume=True)
    for stop in stops:
        outcome = in_child(make_base, config, stop)
        assert outcome.error == "KeyboardInterrupt", outcome
    assert not in_child(make_base, config).raised
    parts = load_checkpoint(config.out).state_dict
    assert all(torch.equal(parts[name], WHOLE_BASE[name]) for name in WHOLE_BASE)
    assert not list(tmp_path.glob("*state*"))


def test_base_goes_back_to_its_last_state_after_a_nan(base_file, tmp_path, monkeypatch):
    """R10 while the base is made."""
    monkeypatch.setattr(sft.train, "BATCH_LINES", 16)
    stage = sft.train.Stage("s", 160, 1e30, 1e30, {"everyday": 1})
    monkeypatch.setattr(sft.train, "STAGES", {"full": (stage,)})
    config = sft.train.Config(init=str(base_file), device="cpu", out=str(tmp_path / "x.pt"))
    message = r"step \d+, learning rate .*: the loss is .* again those after step 0"
    with pytest.raises(FloatingPointError, match=message):
        sft.train.make_base(config)
    assert not (tmp_path / "x.pt").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(lambda good: {}, id="nothing"),
        pytest.param(lambda good: [], id="a list"),
        pytest.param(lambda good: good | {"stage": "a"}, id="a stage that is no number"),
        pytest.param(lambda good: good | {"step": None}, id="no step"),
    ],
)
def test_unreadable_position_is_refused(wrong):
    good = json.loads(json.dumps(sft.train.Position(1, 2).state_dict()))
    with pytest.raises(ValueError, match="position in the saved state is not readable"):
        sft.train.Position().load_state_dict(wrong(good))


def test_position_survives_a_file():
    position = sft.train.Position()
    position.load_state_dict(json.loads(json.dumps(sft.train.Position(1, 2).state_dict())))
    assert position == sft.train.Position(1, 2)
