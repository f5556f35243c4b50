"""Faults put into training and saving (R1 to R20 of the README's table): nothing that was saved is lost.

What must not harm the tests themselves happens in child processes; with one thread, since sums of two may differ.
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
from children import in_child, start_child
from tqdm import tqdm

import dpo.train
import sft.files
import sft.train
from dpo.history import History
from dpo.plots import LiveFigure
from dpo.train import Config, train
from sft.checkpoint import load_checkpoint, load_model, save_checkpoint, unpack
from sft.corpus import Corpus
from sft.files import STALE_SECONDS, SaveError, check_folder, write_atomically
from sft.optimizers import make_optimizers, make_schedulers
from sft.state import ResumeError, TrainingState, read_state

ROOT = Path(__file__).parents[1]
STEPS = 12  # of 8 pairs in batches of 4, 6 epochs


@pytest.fixture
def config(base_file, pairs_file, tmp_path):
    settings = {"batch_size": 4, "epochs": 6, "eval_every": 6, "eval_questions": 2, "save_every": 2, "base_lr": 3e-3}
    return Config(base=str(base_file), pairs=str(pairs_file), out=str(tmp_path / "out"), device="cpu", **settings)


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


def train_in_child(config, step=0, action=None, **settings):
    return in_child(run_training, changed(config, **settings), step, action)


def run_training(config, step, action):
    train(config, Events(step, action))


def result(config):
    """Weights and history of a run, to be compared bit by bit."""
    checkpoint = load_checkpoint(Path(config.out) / "dpo.pt")
    weights = {name: tensor.numpy().tobytes() for name, tensor in checkpoint.state_dict.items()}
    return weights, unpack(checkpoint.extras["history"])


def files(config):
    return sorted(path.name for path in Path(config.out).iterdir())


@pytest.fixture
def undisturbed(config, tmp_path):
    """The result of the run that nothing happens to."""
    whole = changed(config, out=str(tmp_path / "whole"))
    assert train_in_child(whole).exit_code == 0
    return result(whole)


# R1, R2: going on is the same as not having stopped -------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_stopped_run_goes_on_to_the_same_result(config, tmp_path, optimizer):  # R1
    config = changed(config, optimizer=optimizer, muon_lr=0.02)
    whole = changed(config, out=str(tmp_path / "whole"))
    train_in_child(whole)
    for step in (1, 3, 4, 11):  # the first, within an epoch, at the end of one, the last but one
        stopped = train_in_child(config, step, interrupt)
        assert stopped.error == "KeyboardInterrupt" and files(config)[-1] == "dpo.state.pt"
        assert len(unpack(read_state(Path(config.out) / "dpo.state.pt").extras["progress"])["steps"]["loss"]) == step
        assert not train_in_child(config, resume=True).raised
        assert result(config) == result(whole), f"stopped after step {step}"
        assert files(config) == ["dpo.pt"], "the states go when the result is saved"
        shutil.rmtree(config.out)


def test_several_stops_in_one_run_and_nothing_to_resume(config, undisturbed):
    for step in (2, 5, 6, 9):
        assert train_in_child(config, step, interrupt, resume=True).error == "KeyboardInterrupt"
    assert not train_in_child(config, resume=True).raised
    assert result(config) == undisturbed


def test_a_killed_process_goes_on_from_its_last_state(config, undisturbed):  # R4
    for step in (3, 8):
        outcome = train_in_child(config, step, kill, resume=True)
        assert outcome.exit_code == -signal.SIGKILL
        state = read_state(Path(config.out) / "dpo.state.pt")
        assert len(unpack(state.extras["progress"])["steps"]["loss"]) == (step - 1) // 2 * 2
    assert not train_in_child(config, resume=True).raised
    assert result(config) == undisturbed


@pytest.mark.parametrize("seed", [1, 2])
def test_a_process_killed_at_any_time(config, undisturbed, seed):  # R4
    rng = random.Random(seed)
    for _ in range(6):
        process = start_child(train, changed(config, resume=True, save_every=1))
        process.join(rng.uniform(0.1, 0.5))
        process.kill()
        process.join()
    assert not train_in_child(config, resume=True).raised
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
    """A run whose next step depends on all that a state holds: dropout, momenta, schedule, position."""
    model = load_model(tiny_file).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.2
    optimizers = make_optimizers(model, "adamw", 1e-2)
    torch.manual_seed(7)
    return TrainingState(Path(path), model, optimizers, make_schedulers(optimizers, 20), Noted(), {"a": 1}, {})


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
    moments = [value.numpy().tobytes() for entry in state.optimizers[0].state.values() for value in entry.values()]
    return state.progress.losses, [p.detach().numpy().tobytes() for p in state.model.parameters()], moments


def noisy_run(tiny_file, path, until, dropped=""):
    state = noisy_state(tiny_file, path)
    with state.running(resume=True):
        if dropped == "torch_rng":
            torch.manual_seed(7)
        if dropped == "optimizers":
            state.optimizers[0].state.clear()
        if dropped == "schedulers":
            state.schedulers[0].load_state_dict(make_schedulers(state.optimizers, 20)[0].state_dict())
        noisy_steps(state, until, first=0 if dropped == "order" else None)
    return noisy_result(state)


@pytest.mark.parametrize("dropped", ["", "torch_rng", "optimizers", "schedulers", "order"])
def test_every_part_of_the_state_is_needed(base_file, tmp_path, dropped):  # R2: without it the results differ
    whole = in_child(noisy_run, base_file, tmp_path / "whole.pt", 12).value
    in_child(noisy_run, base_file, tmp_path / "halves.pt", 6)
    halves = in_child(noisy_run, base_file, tmp_path / "halves.pt", 12, dropped).value
    assert whole[0][:6] == halves[0][:6] and len(halves[0]) == 12
    assert (whole == halves) == (not dropped)


# R3, R5, R6, R17: saving ----------------------------------------------------------------------------------------


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
        sft.files.os.replace = lambda *words: kill() if next(moves) == most else real_replace(*words)
    write_atomically(path, data, previous=path.with_name("previous"))


@pytest.mark.parametrize(
    ("most", "at"),
    [(0, "write"), (1000, "write"), (50_000, "write"), (99_999, "write"), (0, "replace"), (1, "replace")],
)
def test_killed_while_saving(tmp_path, most, at):  # R3
    path = tmp_path / "file"
    write_atomically(path, b"old" * 1000)
    assert in_child(save_and_die, path, b"new" * 33_334, most, at).exit_code == -signal.SIGKILL
    survivor = path if path.exists() else tmp_path / "previous"  # killed between the two moves
    assert survivor.read_bytes() == b"old" * 1000 and (survivor == path) == ((most, at) != (1, "replace"))
    [left] = tmp_path.glob(".*.tmp")
    write_atomically(path, b"newer")
    assert path.read_bytes() == b"newer" and left.exists(), "what may belong to a living process stays"
    os.utime(left, (time.time() - STALE_SECONDS - 1,) * 2)
    write_atomically(path, b"newest")
    assert path.read_bytes() == b"newest" and not left.exists()


def train_on_a_full_disk(config, most):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    train(config)


def test_a_full_disk_loses_nothing(config, undisturbed, base_file):  # R5
    first_state = base_file.stat().st_size  # weights; with the moments it is three times as large
    outcome = in_child(train_on_a_full_disk, config, 2 * first_state)
    assert outcome.error == "SaveError" and "no room for dpo.state.pt" in outcome.message
    assert "it needs 0.1 MB" in outcome.message and "nothing that was saved is lost" in outcome.message
    assert files(config) == ["dpo.state.pt"], "the state of step 0, and nothing left over"
    assert not train_in_child(config, resume=True).raised
    assert result(config) == undisturbed


def test_missing_megabytes_are_named(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=10_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(SaveError, match=r"needs 106.0 MB, 10.0 MB are free, 96 MB are missing. Free some space"):
        check_folder(tmp_path, 106_000_000)
    write_atomically(tmp_path / "dpo.pt", b"old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(SaveError, match=r"no room for dpo.pt .* a quota or limit allows no more"):
        write_atomically(tmp_path / "dpo.pt", b"new and longer")
    assert (tmp_path / "dpo.pt").read_bytes() == b"old" and os.listdir(tmp_path) == ["dpo.pt"]


def test_a_save_that_failed_loses_nothing_in_memory(base_file, tmp_path, monkeypatch):
    """What a notebook does: the disk is full, space is made, the same loop goes on from memory."""
    whole = noisy_run(base_file, tmp_path / "whole.pt", 12)
    state = noisy_state(base_file, tmp_path / "s.pt")
    with state.running(resume=True):
        noisy_steps(state, 3)
    with monkeypatch.context() as full, pytest.raises(SaveError, match="no room"), state.running(resume=True):
        noisy_steps(state, 7)
        full.setattr(sft.files.os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    assert len(unpack(read_state(state.path).extras["progress"])["losses"]) == 3 and state.step == 7
    with state.running(resume=True):
        assert state.step == 7
        noisy_steps(state, 12)
    assert noisy_result(state) == whole


def test_a_failed_second_move_puts_the_old_file_back(tmp_path, monkeypatch):
    path, previous, real = tmp_path / "s.pt", tmp_path / "s.previous.pt", os.replace
    write_atomically(path, b"old")
    moves = iter([True, False, True])
    monkeypatch.setattr(
        os, "replace", lambda *words: real(*words) if next(moves) else (_ for _ in ()).throw(OSError(5, "I/O"))
    )
    with pytest.raises(SaveError, match="the old file, if any, is as it was"):
        write_atomically(path, b"new", previous=previous)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["s.pt"]


def test_a_folder_that_cannot_be_written_is_said_before_anything_is_loaded(config, tmp_path):  # R6
    (tmp_path / "file").write_text("in the way")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(SaveError, match=r"cannot write into .*file.*; name another folder"):
            train(changed(config, out=str(out), base="nowhere.pt"))
    with pytest.raises(SaveError, match="cannot write into"):
        sft.train.make_base(sft.train.Config(out=str(tmp_path / "file" / "base.pt"), effort=1e-3))


def write_often(path, letter, previous=None):
    for length in range(1, 60):
        write_atomically(path, letter * (1000 * length), previous)


def test_two_programs_that_keep_the_file_before(tmp_path):  # R17
    path, previous = tmp_path / "s.pt", tmp_path / "s.previous.pt"
    writers = [start_child(write_often, path, letter, previous) for letter in (b"a", b"b")]
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    for data in (path.read_bytes(), previous.read_bytes()):
        assert data == data[:1] * len(data) and len(data) in range(1000, 60_000, 1000)
    assert sorted(os.listdir(tmp_path)) == ["s.previous.pt", "s.pt"]


def test_two_programs_that_save_to_one_place(tmp_path):  # R17
    path = tmp_path / "dpo.pt"
    write_atomically(path, b"a")
    writers = [start_child(write_often, path, letter) for letter in (b"a", b"b")]
    reads = set()
    while any(writer.is_alive() for writer in writers):
        data = path.read_bytes()
        assert data in (data[:1] * len(data),) and len(data) in (1, *range(1000, 60_000, 1000))
        reads.add(data[:1])
    assert [writer.exitcode for writer in writers] == [0, 0] and os.listdir(tmp_path) == ["dpo.pt"]


def test_permissions_stay_and_windows_is_waited_for(tmp_path, monkeypatch):
    path, tries, real = tmp_path / "dpo.pt", [], os.replace
    write_atomically(path, b"old")
    path.chmod(0o640)

    def held_open(*words):
        tries.append(words)
        if len(tries) < 3:
            raise PermissionError(13, "in use")
        real(*words)

    monkeypatch.setattr(os, "replace", held_open)
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new" and path.stat().st_mode & 0o777 == 0o640 and len(tries) == 3
    monkeypatch.setattr(time, "sleep", lambda _: None)
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(PermissionError(13, "in use")))
    with pytest.raises(SaveError, match=r"was not written .in use.; the old file, if any, is as it was"):
        write_atomically(path, b"newer")
    assert path.read_bytes() == b"new" and os.listdir(tmp_path) == ["dpo.pt"]


# R8, R9: stopping -----------------------------------------------------------------------------------------------


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
        assert steps == {state.step} == {len(state.progress)}, "a step was left half done"
        saved = unpack(read_state(state.path).extras["progress"])
        assert saved["steps"] == state.progress.steps
    return [state.step for state in seen]


def test_forty_interrupts_at_random_moments(config):  # R8
    outcome = in_child(interrupted_often, changed(config, epochs=400, eval_every=0), 40, 8)
    assert not outcome.raised, outcome
    steps = outcome.value
    assert len(steps) == 40 and steps == sorted(set(steps)), "every stop is after at least one more step"


def press_twice(config):
    def presses():
        interrupt()
        interrupt()
        raise AssertionError("the second press did not stop the step")

    train(config, Events(5, presses))


def test_a_second_press_stops_at_once_and_leaves_the_files(config, undisturbed):  # R9
    outcome = in_child(press_twice, config)
    assert outcome.error == "KeyboardInterrupt"
    assert len(unpack(read_state(Path(config.out) / "dpo.state.pt").extras["progress"])["steps"]["loss"]) == 4
    assert not train_in_child(config, resume=True).raised
    assert result(config) == undisturbed


def test_after_an_error_in_a_step_memory_is_not_trusted(base_file, tmp_path):
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
        assert state.step == 4 and all(parameter.grad is None for parameter in state.model.parameters())
        noisy_steps(state, 9)
    assert noisy_result(state) == whole


def test_weights_and_history_that_do_not_belong_together_are_refused(base_file, tmp_path):
    state = noisy_state(base_file, tmp_path / "s.pt")
    with state.running(resume=True):
        noisy_steps(state, 4)
    state.progress = Noted()
    with pytest.raises(ResumeError, match="trained further than this history says"), state.running(resume=True):
        pass


def test_ignored_interrupts_stay_ignored(base_file, tmp_path):
    """A program in the background of a script: Ctrl-C is meant for somebody else."""
    assert in_child(run_ignoring, base_file, tmp_path / "s.pt").value == "went on"


def run_ignoring(base_file, path):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    model = load_model(base_file)
    optimizers = make_optimizers(model, "adamw", 1e-2)
    with TrainingState(path, model, optimizers, make_schedulers(optimizers, 9), Noted(), {}, {}).running(False) as stop:
        interrupt()
        return "stopped" if stop else "went on"


# R10, R11: what numbers and memory do ---------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["learning rate", "weight"])
def test_numbers_that_are_not_finite(config, monkeypatch, fault):  # R10
    (Path(config.out)).mkdir()
    (Path(config.out) / "dpo.pt").write_bytes(b"an earlier, good one")
    states, real_running = [], TrainingState.running
    monkeypatch.setattr(TrainingState, "running", lambda s, r: (states.append(s), real_running(s, r))[1])
    history = History()
    if fault == "learning rate":
        config, at, back = changed(config, base_lr=1e30, epochs=20), 2, 0
    else:
        history = Events(5, lambda: states[0].model.lm_head.weight.data.view(-1)[:1].fill_(math.nan))
        at, back = 6, 4
    message = (
        rf"step {at}, learning rate [0-9.e+-]+: the (loss|gradient) is .* for the pairs of lines [1 ,]+; nothing was"
    )
    with pytest.raises(FloatingPointError, match=message) as error:
        train(config, history)
    assert f"The weights are again those after step {back}" in str(error.value)
    assert len(history) == back == states[0].step
    assert all(bool(parameter.isfinite().all()) for parameter in states[0].model.parameters())
    assert (Path(config.out) / "dpo.pt").read_bytes() == b"an earlier, good one"
    load_checkpoint(Path(config.out) / "dpo.state.pt")


def test_weights_that_are_not_finite_are_never_saved(tiny, tmp_path):
    save_checkpoint(tmp_path / "x.pt", tiny)
    before = (tmp_path / "x.pt").read_bytes()
    tiny.transformer.ln_f.weight.data[3] = math.inf
    with pytest.raises(
        FloatingPointError, match=r"transformer.ln_f.weight holds NaN or infinite values: nothing was saved"
    ):
        save_checkpoint(tmp_path / "x.pt", tiny)
    assert (tmp_path / "x.pt").read_bytes() == before


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
def test_out_of_memory_names_the_remedy_and_it_works(config, monkeypatch, error):  # R11
    whole = train(config)[1]
    real = dpo.train.dpo_step

    def small_passes_only(policy, batch, **objective):
        if len(batch) > 2:
            raise error
        return real(policy, batch, **objective)

    monkeypatch.setattr(dpo.train, "dpo_step", small_passes_only)
    with pytest.raises(MemoryError, match="out of memory with 4 pairs in one pass: set micro_batch to 2"):
        train(config)
    history = train(changed(config, micro_batch=2, resume=True))[1]
    assert history["loss"] == pytest.approx(whole["loss"], abs=1e-4)
    monkeypatch.setattr(dpo.train, "dpo_step", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("something else")))
    with pytest.raises(RuntimeError, match="something else"):
        train(config)


# R13, R14: states that do not fit, or are damaged ---------------------------------------------------------------


def test_a_state_of_another_run_is_refused_with_what_differs(config, tmp_path, tiny, capsys):  # R13
    train_in_child(config, 5, interrupt)
    state = Path(config.out) / "dpo.state.pt"
    before = state.read_bytes()
    rows = json.loads(Path(config.pairs).read_text())
    (tmp_path / "other.json").write_text(json.dumps(rows[::-1]))
    tiny.lm_head.weight.data[0, 0] += 1
    save_checkpoint(tmp_path / "other.pt", tiny)
    for settings, difference in (
        ({"base_lr": 1e-3}, "base_lr was 0.003, now it is 0.001"),
        ({"epochs": 7, "seed": 2}, "epochs was 6, now it is 7; seed was 1, now it is 2"),
        ({"pairs": str(tmp_path / "other.json")}, "pairs was '[0-9a-f]{8}', now it is '[0-9a-f]{8}'"),
        ({"base": str(tmp_path / "other.pt")}, "base was '[0-9a-f]{8}', now it is '[0-9a-f]{8}'"),
        ({"optimizer": "muon"}, "optimizer was adamw, now it is muon"),
    ):
        with pytest.raises(
            ResumeError, match=f"is of another run: {difference}. Go back to that, or start afresh: resume"
        ):
            train(changed(config, resume=True, **settings))
        assert state.read_bytes() == before
    copy = shutil.copy(config.pairs, tmp_path / "the same pairs.json")
    train(changed(config, resume=True, pairs=str(copy), save_every=5))  # the same in another place, saved more rarely
    assert "going on after step 5" in capsys.readouterr().out


def test_circumstances_that_differ_are_said(config, capsys, monkeypatch):
    train_in_child(config, 5, interrupt)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    train(changed(config, resume=True))
    assert (
        "note: threads was 1, now it is 2: the result will not be bitwise that of one long run"
        in capsys.readouterr().out
    )


def test_a_fresh_start_says_what_it_replaces(config, capsys):
    train_in_child(config, 5, interrupt)
    history = train(config)[1]
    out = capsys.readouterr().out
    assert "dpo.state.pt is the state of an interrupted run and will be replaced" in out and len(history) == STEPS


def damage(path, how):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] if how == "cut" else data[:5000] + bytes([data[5000] ^ 1]) + data[5001:])


@pytest.mark.parametrize("how", ["cut", "flipped"])
def test_a_damaged_state_falls_back_on_the_one_before(config, undisturbed, how, capsys):  # R14
    train_in_child(config, 7, interrupt)
    state = Path(config.out) / "dpo.state.pt"
    damage(state, how)
    assert len(unpack(read_state(state).extras["progress"])["steps"]["loss"]) == 6
    assert "taking the state before it" in capsys.readouterr().out
    assert not train_in_child(config, resume=True).raised
    assert result(config) == undisturbed
    train_in_child(config, 7, interrupt)
    for path in (state, state.with_name("dpo.state.previous.pt")):
        damage(path, how)
    with pytest.raises(ResumeError, match=r"no readable state at .*: start afresh without resume, or delete it"):
        train(changed(config, resume=True))


def test_a_state_of_another_form_is_refused(base_file, tmp_path):
    state = noisy_state(base_file, tmp_path / "s.pt")
    with state.running(False):
        noisy_steps(state, 3)
    contents, before = torch.load(state.path, weights_only=True), noisy_result(state)
    optimizer, scheduler = contents["optimizers"][0], contents["schedulers"][0]
    moments = optimizer["state"]
    wrong = {
        "optimizers": [
            [], [{}], [{"state": {}, "param_groups": []}],
            [optimizer | {"state": {i: moments[i] for i in list(moments)[1:]}}],
            [optimizer | {"state": {i: {"step": entry["step"]} for i, entry in moments.items()}}],
            [optimizer | {"state": {i: {k: value * math.nan for k, value in e.items()} for i, e in moments.items()}}],
        ],
        "schedulers": [[], [{"last_epoch": 3}], [scheduler | {"last_epoch": "3"}]],
        "torch_rng": [torch.zeros(3, dtype=torch.uint8), torch.full((5056,), 255, dtype=torch.uint8), 5],
        "progress": [torch.full((10**5,), ord("["), dtype=torch.uint8), torch.zeros(3, requires_grad=True), 7],
        "made_from": [[], {"a": {}}],
        "circumstances": [None, {1: 2}],
    }  # fmt: skip
    for name, values in wrong.items():
        for value in values:
            torch.save(contents | {name: value}, state.path)
            state.path.with_name("s.previous.pt").unlink(missing_ok=True)
            with pytest.raises(ValueError, match=r"start afresh|no readable"):
                state.restore()
            assert noisy_result(state) == before, name
    torch.save(contents | {"schedulers": [scheduler | {"last_epoch": 9}]}, state.path)
    with pytest.raises(ValueError, match="contradicts itself"):
        state.restore()
    assert state.in_doubt


# R15, R19, R20 ---------------------------------------------------------------------------------------------------


def test_one_pair_trains(config):  # R15; four and none: test_train.py
    rows = json.loads(Path(config.pairs).read_text())
    Path(config.pairs).write_text(json.dumps(rows[:1]))
    assert len(train(config)[1]) == 6


def test_odd_environments(config, tmp_path):  # R19
    folder = tmp_path / "with space and ünïcode"
    folder.mkdir()
    base, pairs = (shutil.copy(path, folder) for path in (config.base, config.pairs))
    (tmp_path / "home").write_text("no folder")
    rows = json.loads(Path(pairs).read_text(encoding="utf-8"))
    rows[0] = {key: "7×8=?" + text.partition("?")[2] for key, text in rows[0].items()}  # a warning will show the sign
    Path(pairs).write_text(json.dumps(rows), encoding="utf-8")
    results = []
    for hash_seed, extra in (("0", {}), ("77", {"LC_ALL": "C", "HOME": str(tmp_path / "home"), "PYTHONUTF8": "0"})):
        out = folder / f"out {hash_seed}"
        words = [
            f"--base={base}",
            f"--pairs={pairs}",
            f"--out={out}",
            "--batch_size=4",
            "--eval_questions=4",
            "--device=cpu",
        ]
        environment = os.environ | {"PYTHONHASHSEED": hash_seed, "OMP_NUM_THREADS": "1"} | extra
        run = subprocess.run(
            [sys.executable, "-m", "dpo.train", *words], capture_output=True, cwd=ROOT, env=environment, check=False
        )
        assert run.returncode == 0, run.stderr.decode()
        assert b"warning: pairs.json: characters outside the alphabet were replaced" in run.stdout
        results.append(load_checkpoint(out / "dpo.pt").state_dict)
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def test_drawing_that_fails_never_stops_training(config, undisturbed, monkeypatch, capsys):  # R20
    outcome = in_child(train_with_a_broken_bar, config)
    assert not outcome.raised and result(config) == undisturbed

    class Broken:
        def update(self, figure):
            raise RuntimeError("no display")

    live = LiveFigure(10, lambda *_, **__: Broken())
    history = History()
    history.append(dict.fromkeys(unbroken_names(), 0.5))
    live.update(history, force=True)
    live.update(history, force=True)
    assert capsys.readouterr().out.count("note: the figure is not drawn any more (no display)") == 1


def unbroken_names():
    from dpo.plots import STEP_PANELS

    return [name for lines in STEP_PANELS.values() for name in lines]


def train_with_a_broken_bar(config):
    def fails(*_, **__):
        raise OSError("the terminal is gone")

    for name in ("display", "update", "set_postfix", "close"):
        setattr(tqdm, name, fails)
    train(config)


# The command line, and the base ---------------------------------------------------------------------------------


def test_the_command_line_stops_and_goes_on(config, undisturbed):
    words = [f"--{name}={value}" for name, value in vars(config).items() if name != "resume"]
    command = [sys.executable, "-m", "dpo.train", *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    slow = [*command, "--epochs=5000", "--save_every=1"]
    run = subprocess.Popen(slow, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (Path(config.out) / "dpo.state.previous.pt").exists() and run.poll() is None:
        time.sleep(0.01)
    run.send_signal(signal.SIGINT)
    out, err = run.communicate(timeout=60)
    assert run.returncode == 130 and "Traceback" not in err
    assert "stopped after step " in out and "of 10000; the same command with --resume goes on from there" in out
    again = subprocess.run([*command, "--resume"], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (
        again.returncode == 1 and again.stderr.startswith("error: ") and "epochs was 5000, now it is 6" in again.stderr
    )
    fresh = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert fresh.returncode == 0 and result(config) == undisturbed


def make_base(config, stop_at=None):
    if stop_at:
        real, calls = sft.train.train_step, []

        def step(*words):
            calls.append(1)
            if len(calls) == stop_at:
                interrupt()
            return real(*words)

        sft.train.train_step, sft.train.BATCH_LINES = step, 16
    sft.train.BATCH_LINES = 16
    sft.train.make_base(config)


def test_making_the_base_stops_and_goes_on(base_file, tmp_path):
    """4 steps of the first stage, then 1 of the second."""
    config = sft.train.Config(init=str(base_file), effort=1e-4, device="cpu", out=str(tmp_path / "whole.pt"))
    assert not in_child(make_base, config).raised
    whole = load_checkpoint(tmp_path / "whole.pt").state_dict
    for stops in ((2,), (4,), (1, 1, 1)):
        config = sft.train.Config(**vars(config) | {"out": str(tmp_path / f"{stops}.pt"), "resume": True})
        for stop in stops:
            outcome = in_child(make_base, config, stop)
            assert outcome.error == "KeyboardInterrupt", outcome
        assert not in_child(make_base, config).raised
        parts = load_checkpoint(config.out).state_dict
        assert all(torch.equal(parts[name], whole[name]) for name in whole), stops
    assert sorted(path.name for path in tmp_path.glob("*.pt") if "state" in path.name) == []


def test_the_base_goes_back_to_its_last_state_after_a_nan(base_file, tmp_path, monkeypatch):
    monkeypatch.setattr(sft.train, "BATCH_LINES", 16)
    monkeypatch.setattr(sft.train, "STAGES", {"full": (sft.train.Stage("s", 160, 1e30, 1e30, {"everyday": 1}),)})
    config = sft.train.Config(init=str(base_file), device="cpu", out=str(tmp_path / "x.pt"))
    with pytest.raises(
        FloatingPointError, match=r"step \d+, learning rate .*: the loss is .* again those after step 0"
    ):
        sft.train.make_base(config)
    assert not (tmp_path / "x.pt").exists()


def test_the_position_in_the_corpus_is_checked():
    position = sft.train.Position(Corpus(1))
    good = json.loads(json.dumps(position.state_dict()))
    before = position.corpus.rng.getstate()
    for bad in ({}, [], good | {"corpus": [3, [1, 2], None]}, good | {"stage": "a"}, good | {"corpus": None}):
        with pytest.raises(ValueError, match="position in the saved state is not readable"):
            sft.train.Position(Corpus(1)).load_state_dict(bad)
    position.load_state_dict(good)
    assert position.corpus.rng.getstate() == before
