"""Several processes as one run: gloo on loopback, tiny models. The letters are those of the README's list."""

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest
import torch
from children import start_child

from dpo.batches import batches, compute_reference_logps, encode_pairs
from dpo.pairs import load_pairs
from dpo.processes import Processes, joined
from dpo.train import Config, train
from sft.checkpoint import load_checkpoint, load_model

ROOT = Path(__file__).parents[1]
SETTINGS = {"batch_size": 3, "base_lr": 3e-3, "epochs": 3, "device": "cpu", "eval_questions": 2, "eval_every": 4}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def group(function, count, *arguments):
    """What `function(rank, *arguments)` gave in each of `count` processes that torchrun might have started."""
    port = free_port()
    children = [start_child(as_rank, rank, count, port, function, arguments) for rank in range(count)]
    told = []
    for child in children:
        told.append(child.receiver.recv())
        child.join()
    return told


def as_rank(rank, count, port, function, arguments):
    os.environ |= {
        "TORCHELASTIC_RUN_ID": "test", "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    return function(rank, *arguments)


def trained(rank, settings, disturb=None):
    """One process of a run: what it ended with, its weights and curve, and what it did besides."""
    import torch.distributed as dist

    import dpo.train
    import sft.state

    seen = {"written": [], "sockets": set(), "error": ""}
    append, reference_logps = dpo.train.History.append, dpo.train.compute_reference_logps

    def noted(history, metrics):
        append(history, metrics)
        seen["sockets"] |= addresses()
        if disturb:
            disturb(rank, len(history))

    def kept(reference, *others):
        seen["reference"], seen["reference before"] = reference, dpo.train.weights_hash(reference)
        return reference_logps(reference, *others)

    dpo.train.History.append, dpo.train.compute_reference_logps = noted, kept
    for module in (dpo.train, sft.state):
        module.write_atomically = noting(seen["written"], module.write_atomically)
    try:
        policy, history = train(Config(**settings))
        seen |= {"weights": {n: t.tolist() for n, t in policy.state_dict().items()}, "steps": history.steps}
    except (KeyboardInterrupt, OSError, ValueError, FloatingPointError) as error:
        seen["error"] = f"{type(error).__name__}: {error}"
    reference = seen.pop("reference")
    seen["reference after"] = dpo.train.weights_hash(reference)
    seen["reference has gradients"] = any(p.grad is not None for p in reference.parameters())
    return seen | {"group is closed": not dist.is_initialized()}


def noting(written, write):
    def write_and_note(path, *others, **settings):
        written.append(str(path))
        return write(path, *others, **settings)

    return write_and_note


def addresses():
    """(local address in hexadecimal, state) of this process's sockets, without those that nobody else can reach."""
    links = [link_of(fd) for fd in os.listdir("/proc/self/fd")]
    rows = [line.split() for table in ("tcp", "tcp6") for line in table_of(table)]
    return {(row[1].split(":")[0], row[3]) for row in rows if f"socket:[{row[9]}]" in links}


def link_of(fd):
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except FileNotFoundError:  # closed since it was listed
        return ""


def table_of(name):
    path = Path(f"/proc/self/net/{name}")
    return path.read_text().splitlines()[1:] if path.exists() else []


def tensors(seen):
    return {name: torch.tensor(values) for name, values in seen["weights"].items()}


def largest_difference(one, other):
    return max((one[name] - other[name]).abs().max().item() for name in one)


@pytest.fixture
def settings(base_file, pairs_file, tmp_path):
    return {**SETTINGS, "base": str(base_file), "pairs": str(pairs_file), "out": str(tmp_path / "out")}


@pytest.fixture
def alone(settings, tmp_path):
    """The same run in one process: (weights, curve)."""
    policy, history = train(Config(**settings | {"out": str(tmp_path / "alone")}))
    return policy.state_dict(), history.steps


def test_shares_make_up_every_batch_of_every_epoch(base_file, pairs_file, tokenizer):  # (c)
    pairs = load_pairs(pairs_file, tokenizer).pairs
    examples = [replace(example, line=i) for i, example in enumerate(encode_pairs(tokenizer, pairs))]

    def lines(share):
        parts = batches(examples, torch.zeros(8, 2), 3, 1, epochs=3, micro_batch=1, share=share)
        return [[line for part in batch for line in part.lines] for batch in parts]

    for count in (2, 3):
        ranks = [lines((rank, count)) for rank in range(count)]
        shared = [sorted(chain(*of_rank)) for of_rank in zip(*ranks, strict=True)]
        assert shared == [sorted(batch) for batch in lines((0, 1))]
        for epoch in (shared[:3], shared[3:6], shared[6:]):
            assert sorted(chain(*epoch)) == list(range(8))


@pytest.mark.parametrize("max_pairs", [8, 7])  # the last batch has two pairs, or one: a process has none
def test_two_processes_give_what_one_gives(settings, max_pairs, tmp_path):  # (a) (b) (d) (e) (g) (h) (k)
    settings["max_pairs"] = max_pairs
    policy, history = train(Config(**settings | {"out": str(tmp_path / "one")}))
    first, second = (told["value"] for told in group(trained, 2, settings))
    assert first["steps"] == second["steps"] and first["weights"] == second["weights"], "(b) bitwise alike"
    assert largest_difference(policy.state_dict(), tensors(first)) < 1e-5, "(a)"
    for name, curve in history.steps.items():  # (e): of all pairs of the step, not of one process's
        assert first["steps"][name] == pytest.approx(curve, rel=1e-4, abs=1e-5), name
    assert first["written"] and not second["written"], "(d)"
    for seen in (first, second):  # (g)
        assert seen["reference before"] == seen["reference after"] and not seen["reference has gradients"]
        assert seen["group is closed"]
        talking = {address for address, state in seen["sockets"] if state == "01"}  # established
        assert talking and all(is_loopback(address) for address in talking), "(k)"
    saved = torch.load(tmp_path / "out" / "dpo.pt", weights_only=True)["model"]
    assert saved.keys() == policy.state_dict().keys(), "(h)"
    assert largest_difference(saved, tensors(first)) == 0


def is_loopback(address):
    """127.0.0.0/8 or ::1, or the former written as the latter's kin, as they stand in /proc."""
    return (address.endswith("7F") and len(address) in (8, 32)) or address == "0" * 24 + "01000000"


def test_muon_curves_agree_within_its_own_rounding(settings, tmp_path):
    # Muon orthogonalises in bfloat16, so that differences of 1e-7 can grow: curves are compared, not weights
    settings |= {"optimizer": "muon", "epochs": 1}
    _, history = train(Config(**settings | {"out": str(tmp_path / "one")}))
    first, second = (told["value"] for told in group(trained, 2, settings))
    assert first["weights"] == second["weights"]
    assert first["steps"]["loss"] == pytest.approx(history["loss"], rel=1e-3)


def stopped_in_the_second(rank, step):
    if rank == 1 and step == 4:
        os.kill(os.getpid(), signal.SIGINT)


def test_stopped_in_one_all_stop_and_another_number_goes_on(settings, alone, tmp_path):  # (f)
    first, second = (told["value"] for told in group(trained, 2, settings, stopped_in_the_second))
    assert first["error"].startswith("KeyboardInterrupt") and second["error"].startswith("KeyboardInterrupt")
    assert load_checkpoint(tmp_path / "out" / "dpo.state.pt").extras["schedulers"][0]["last_epoch"] == 4
    policy, history = train(Config(**settings | {"resume": True}))  # alone
    assert len(history) == 9 and history["loss"] == pytest.approx(alone[1]["loss"], rel=1e-4)
    assert largest_difference(policy.state_dict(), alone[0]) < 1e-5


def goes_on_elsewhere(rank, settings):
    """The second process has a folder of its own, as on another machine."""
    return trained(rank, settings | {"out": settings["out"] + (" of the second" if rank else "")})


def test_machines_that_do_not_have_the_state_are_told_so(settings, tmp_path):
    group(trained, 2, settings, stopped_in_the_second)
    settings["resume"] = True
    for seen in group(goes_on_elsewhere, 2, settings):
        assert "the processes do not start from the same place" in seen["value"]["error"]
    assert (tmp_path / "out" / "dpo.state.pt").exists() and not (tmp_path / "out" / "dpo.pt").exists()


def fails_in_the_second(rank, step):
    if rank == 1 and step == 2:
        raise FloatingPointError("played")


def test_after_an_error_nobody_waits_and_no_group_stays_open(settings):  # (j)
    started = time.monotonic()
    first, second = (told["value"] for told in group(trained, 2, settings, fails_in_the_second))
    assert "played" in second["error"] and "another process of this run has probably ended" in first["error"]
    assert first["group is closed"] and second["group is closed"] and time.monotonic() - started < 30


OPTIMIZER_IN_A_GROUP = """
from pathlib import Path
import torch
from dpo.processes import joined
def threads():
    return [name for task in Path("/proc/self/task").glob("*/comm") if "gloo" in (name := task.read_text())]
with joined(torch.device("cpu")) as processes:
    torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))])
    processes.wait()
    inside = threads()
assert inside and not threads(), (inside, threads())
"""


def test_the_threads_of_the_group_end_with_it():
    """Else one of them may still run while Python ends, which then sometimes aborts."""
    group_of_one = {"TORCHELASTIC_RUN_ID": "test", "RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    group_of_one |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    command = [sys.executable, "-c", OPTIMIZER_IN_A_GROUP]
    subprocess.run(command, cwd=ROOT, env=os.environ | group_of_one, check=True, timeout=60)


def torchrun(settings, *words):
    given = [f"--{name}={value}" for name, value in settings.items()]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "dpo.train"]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*command, *given, *words], cwd=ROOT, **streams, start_new_session=True)


def workers(parent):
    """Process ids of the torchrun's workers, by rank."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    found = {}
    for child in children:
        rank = [w for w in Path(f"/proc/{child}/environ").read_bytes().split(b"\0") if w.startswith(b"RANK=")]
        found |= {int(rank[0].removeprefix(b"RANK=")): int(child)} if rank else {}
    return found


def test_torchrun_twice_at_once_killed_and_gone_on_with(settings, tmp_path):  # (i) (j)
    settings |= {"epochs": 150, "save_every": 20, "eval_every": 0}
    deadline = time.monotonic() + 60
    undisturbed = torchrun(settings | {"out": str(tmp_path / "undisturbed")})
    killed = torchrun(settings | {"out": str(tmp_path / "killed")})  # (i) beside the other one
    while not (tmp_path / "killed/dpo.state.previous.pt").exists():
        assert killed.poll() is None and time.monotonic() < deadline, killed.communicate()
        time.sleep(0.02)
    pids = workers(killed.pid)
    os.kill(pids[1], signal.SIGKILL)
    _, errors = killed.communicate(timeout=60)
    assert killed.returncode != 0 and not (tmp_path / "killed/dpo.pt").exists()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids.values()), "(j) no orphans"
    again = torchrun(settings | {"out": str(tmp_path / "killed")}, "--resume")
    for run in (undisturbed, again):
        out, errors = run.communicate(timeout=120)
        assert run.returncode == 0, errors
    assert out.count("going on after step") == 1 == out.count("wrote "), "one of the two talks"
    one, other = (load_checkpoint(tmp_path / name / "dpo.pt").state_dict for name in ("undisturbed", "killed"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_mistake_is_said_once(settings):
    run = torchrun(settings | {"beta": -1})
    _, errors = run.communicate(timeout=60)
    assert (
        run.returncode == 1 and errors.count("error: epochs and batch_size must be at least 1, and beta above 0") == 1
    )


def test_alone_nothing_changes(tiny):
    with joined(torch.device("cpu")) as processes:
        assert processes == Processes(0, 1) and processes.first and processes.share == (0, 1)
    metrics = {"loss": 2.0}
    assert processes.average(tiny, metrics, 3) is metrics and processes.any(True) and not processes.any(False)
    assert processes.sum(torch.ones(2)).tolist() == [1.0, 1.0] and all(p.grad is None for p in tiny.parameters())


def test_the_reference_is_scored_once_by_all_together(base_file, pairs_file, tokenizer):
    model, examples = load_model(base_file), encode_pairs(tokenizer, load_pairs(pairs_file, tokenizer).pairs)
    parts = [compute_reference_logps(model, examples, share=(rank, 3)) for rank in range(3)]
    assert all(((part != 0).sum(dim=1) % 2 == 0).all() for part in parts)
    assert torch.allclose(sum(parts), compute_reference_logps(model, examples), atol=1e-5)
