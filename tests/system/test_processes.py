"""Several processes as one run, on gloo and loopback. The letters are those of tests/README.md."""

import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from children import Program, be_module, start_child, start_module
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

import dpo.training.run
import sft.checkpoint.resume
from dpo.data.batches import batches, tokenize_pairs
from dpo.data.pair_file import load_pairs
from dpo.train import Config, train
from dpo.training.distributed import World, process_group
from dpo.training.history import History
from dpo.training.logps import compute_reference_logps
from dpo.training.provenance import weights_hash
from sft.checkpoint.weights import load_checkpoint, load_model

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "batch_size": 3,
    "base_lr": 3e-3,
    "epochs": 3,
    "device": "cpu",
    "eval_questions": 2,
    "eval_every": 4,
}


@pytest.fixture
def settings(base_file, pairs_file, tmp_path):
    files = {"base": base_file, "pairs": pairs_file, "out": tmp_path / "out"}
    return SETTINGS | {name: str(path) for name, path in files.items()}


@pytest.fixture
def alone(settings, tmp_path):
    """A function: what such a run gives in one process, its weights and its curves."""

    def run_alone(**others):
        policy, history = train(Config(**settings | {"out": str(tmp_path / "alone")} | others))
        return policy.state_dict(), history.steps

    return run_alone


# Several processes, and what they did


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def group(function, count, *arguments):
    """What `function(rank, *arguments)` gave in each of `count` processes, as torchrun has them."""
    port = free_port()
    children = [
        start_child(as_rank, rank, count, port, function, arguments) for rank in range(count)
    ]
    told = []
    for child in children:
        told.append(child.receiver.recv())
        child.join()
    assert not any(one.get("error") for one in told), told
    return [one["value"] for one in told]


def as_rank(rank, count, port, function, arguments):
    os.environ |= {
        "TORCHELASTIC_RUN_ID": "test", "RANK": str(rank), "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    return function(rank, *arguments)


def trained(rank, settings, disturb=None):
    """One process of a run: what it ended with, its weights and curve, and what it did besides."""
    seen = {"written": [], "sockets": set(), "error": ""}
    append, reference_logps = History.append, compute_reference_logps

    def noted(history, metrics):
        append(history, metrics)
        seen["sockets"] |= addresses()
        if disturb:
            disturb(rank, len(history))

    def kept(reference, *others):
        seen["reference"], seen["reference before"] = reference, weights_hash(reference)
        return reference_logps(reference, *others)

    History.append, dpo.training.run.compute_reference_logps = noted, kept
    for module in (dpo.training.run, sft.checkpoint.resume):
        module.write_atomically = noting(seen["written"], module.write_atomically)
    try:
        policy, history = train(Config(**settings))
        weights = {name: tensor.tolist() for name, tensor in policy.state_dict().items()}
        seen |= {"weights": weights, "steps": history.steps}
    except (KeyboardInterrupt, OSError, ValueError, FloatingPointError) as error:
        seen["error"] = f"{type(error).__name__}: {error}"
    reference = seen.pop("reference")
    seen["reference after"] = weights_hash(reference)
    seen["reference has gradients"] = any(p.grad is not None for p in reference.parameters())
    return seen | {"group is closed": not dist.is_initialized()}


def noting(written, write):
    def write_and_note(path, *others, **settings):
        written.append(str(path))
        return write(path, *others, **settings)

    return write_and_note


def addresses():
    """(local address in hexadecimal, state) of this process's sockets that others can reach."""
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


def is_loopback(address):
    """127.0.0.0/8 or ::1, or the former written as the latter's kin, as they stand in /proc."""
    return (address.endswith("7F") and len(address) in (8, 32)) or address == "0" * 24 + "01000000"


def tensors(seen):
    return {name: torch.tensor(values) for name, values in seen["weights"].items()}


def largest_difference(one, other):
    return max((one[name] - other[name]).abs().max().item() for name in one)


# A whole run


@pytest.mark.parametrize("count", [2, 3], ids="(c) {} processes".format)
def test_shards_make_up_every_batch_of_every_epoch(base_file, pairs_file, tokenizer, count):
    pairs = load_pairs(pairs_file, tokenizer).pairs
    tokenized = [replace(pair, line=i) for i, pair in enumerate(tokenize_pairs(tokenizer, pairs))]

    def lines(shard):
        cut = batches(tokenized, torch.zeros(8, 2), 3, 1, epochs=3, micro_batch=1, shard=shard)
        return [[line for part in batch for line in part.lines] for batch in cut]

    ranks = [lines((rank, count)) for rank in range(count)]
    shared = [sorted(chain(*of_rank)) for of_rank in zip(*ranks, strict=True)]
    assert shared == [sorted(batch) for batch in lines((0, 1))]
    for epoch in (shared[:3], shared[3:6], shared[6:]):
        assert sorted(chain(*epoch)) == list(range(8))


RUNS = {}  # by the number of pairs. The last batch of 8 has two, that of 7 one: a process has none


@pytest.fixture(params=[8, 7], ids="{} pairs".format)
def both(request, settings, alone, tmp_path):
    """The same run in one process and in two: (weights, curves), [what each saw], file."""
    if request.param not in RUNS:
        settings["max_pairs"] = request.param
        one, two = alone(max_pairs=request.param), group(trained, 2, settings)
        RUNS[request.param] = one, two, tmp_path / "out/dpo.pt"
    return RUNS[request.param]


def test_two_processes_end_as_one_does(both):
    """(a) and (e): of all pairs of the step, not of one process's."""
    (weights, steps), (first, _), _ = both
    assert largest_difference(weights, tensors(first)) < 1e-5
    for name, curve in steps.items():
        assert first["steps"][name] == pytest.approx(curve, rel=1e-4, abs=1e-5), name


def test_two_processes_end_with_the_same_bits(both):
    """(b)"""
    _, (first, second), _ = both
    assert first["weights"] == second["weights"]
    assert first["steps"] == second["steps"]


def test_one_process_writes(both):
    """(d)"""
    _, (first, second), _ = both
    assert first["written"]
    assert not second["written"]


def test_reference_stays_in_every_process(both):
    """(g), R16"""
    for seen in both[1]:
        assert seen["reference before"] == seen["reference after"]
        assert not seen["reference has gradients"]


def test_processes_talk_over_loopback_only(both):
    """(k), and the group is closed afterwards."""
    for seen in both[1]:
        talking = {address for address, state in seen["sockets"] if state == "01"}  # established
        assert talking
        assert all(is_loopback(address) for address in talking)
        assert seen["group is closed"]


def test_file_has_the_names_and_weights_of_the_policy(both):
    """(h)"""
    (weights, _), (first, _), path = both
    saved = torch.load(path, weights_only=True)["model"]
    assert saved.keys() == weights.keys()
    assert largest_difference(saved, tensors(first)) == 0


def test_muon_curves_agree_within_its_own_rounding(settings, alone):
    """(a): Muon orthogonalises in bfloat16, where differences of 1e-7 grow: curves are alike."""
    muon = {"optimizer": "muon", "epochs": 1}
    _, steps = alone(**muon)
    first, second = group(trained, 2, settings | muon)
    assert first["weights"] == second["weights"]
    assert first["steps"]["loss"] == pytest.approx(steps["loss"], rel=1e-3)


# Stopped and resumed


def stopped_in_the_second(rank, step):
    if rank == 1 and step == 4:
        os.kill(os.getpid(), signal.SIGINT)


def test_stop_in_one_stops_all_and_one_alone_goes_on(settings, alone, tmp_path):
    """(f)"""
    for seen in group(trained, 2, settings, stopped_in_the_second):
        assert seen["error"].startswith("KeyboardInterrupt")
    state = load_checkpoint(tmp_path / "out/dpo.state.pt")
    assert state.extras["schedulers"][0]["last_epoch"] == 4
    weights, steps = alone()
    policy, history = train(Config(**settings | {"resume": True}))
    assert len(history) == 9
    assert history["loss"] == pytest.approx(steps["loss"], rel=1e-4)
    assert largest_difference(policy.state_dict(), weights) < 1e-5


def goes_on_elsewhere(rank, settings):
    """The second process has a folder of its own, as on another machine."""
    return trained(rank, settings | {"out": settings["out"] + (" of the second" if rank else "")})


def test_machine_without_the_state_is_told_so(settings, tmp_path):
    group(trained, 2, settings, stopped_in_the_second)
    for seen in group(goes_on_elsewhere, 2, settings | {"resume": True}):
        assert "the processes do not start from the same place" in seen["error"]
    assert (tmp_path / "out/dpo.state.pt").exists()
    assert not (tmp_path / "out/dpo.pt").exists()


def fails_in_the_second(rank, step):
    if rank == 1 and step == 2:
        raise FloatingPointError("played")


def test_error_in_one_ends_all_and_closes_every_group(settings):
    """(j)"""
    started = time.monotonic()
    first, second = group(trained, 2, settings, fails_in_the_second)
    assert "played" in second["error"]
    assert "another process of this run has probably ended" in first["error"]
    assert first["group is closed"]
    assert second["group is closed"]
    assert time.monotonic() - started < 30


OPTIMIZER_IN_A_GROUP = """
from pathlib import Path
import torch
from dpo.training.distributed import process_group
def threads():
    names = [task.read_text() for task in Path("/proc/self/task").glob("*/comm")]
    return [name for name in names if "gloo" in name]
with process_group(torch.device("cpu")) as world:
    torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))])
    world.barrier()
    inside = threads()
assert inside and not threads(), (inside, threads())
"""


def test_threads_of_a_group_end_with_it():
    """Else one of them may still run while Python ends, which then sometimes aborts."""
    group_of_one = {
        "TORCHELASTIC_RUN_ID": "test", "RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()),
    }  # fmt: skip
    command = [sys.executable, "-c", OPTIMIZER_IN_A_GROUP]  # not a fork: imports are its subject
    subprocess.run(command, cwd=ROOT, env=os.environ | group_of_one, check=True, timeout=60)


# torchrun


def words_of(settings):
    return [f"--{name}={value}" for name, value in settings.items()]


def torchrun(folder, settings, *words):
    """`torchrun --standalone --nproc_per_node=2 -m dpo.train ...`, started and not waited for."""
    given = ["--standalone", "--nproc_per_node=2", "-m", "dpo.train", *words_of(settings), *words]
    return start_module(folder, "torch.distributed.run", *given)


def forked_torchrun(folder, settings, *words):
    """The same, with workers that are forks of the launcher and so have torch loaded already."""
    return Program(folder, launch_two, [*words_of(settings), *words])


def launch_two(words):
    config = LaunchConfig(
        1, 1, 2, run_id=uuid.uuid4().hex, rdzv_backend="c10d", rdzv_endpoint="localhost:0",
        max_restarts=0, start_method="fork",
    )  # fmt: skip
    elastic_launch(config, be_module)("dpo.train", *words)


def workers(parent):
    """Process ids of the torchrun's workers, by rank."""
    found = {}
    for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        environment = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        for variable in environment:
            if variable.startswith(b"RANK="):
                found[int(variable.removeprefix(b"RANK="))] = int(child)
    return found


def test_killed_torchrun_goes_on_to_the_same_bits(settings, tmp_path):
    """(i) and (j): two runs at once, in two processes each; one process of one is killed."""
    settings |= {"epochs": 100, "save_every": 20, "eval_every": 0}
    killed_out, deadline = tmp_path / "killed", time.monotonic() + 60
    undisturbed = forked_torchrun(tmp_path / "1", settings | {"out": tmp_path / "undisturbed"})
    killed = torchrun(tmp_path / "2", settings | {"out": killed_out})
    while not (killed_out / "dpo.state.previous.pt").exists():
        assert killed.process.is_alive(), killed.wait()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    pids = workers(killed.pid)
    os.kill(pids[1], signal.SIGKILL)
    assert killed.wait()[0] != 0
    assert not (killed_out / "dpo.pt").exists()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids.values()), "orphans"
    again = forked_torchrun(tmp_path / "3", settings | {"out": killed_out}, "--resume")
    for run in (undisturbed, again):
        code, out, errors = run.wait(seconds=120)
        assert code == 0, errors
    for words in ("going on after step", "wrote "):
        assert out.count(words) == 1, "one of the two talks"
    one, other = (
        load_checkpoint(tmp_path / name / "dpo.pt").state_dict for name in ("undisturbed", "killed")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_mistake_is_said_once(settings, tmp_path):
    _, _, errors = forked_torchrun(tmp_path, settings | {"beta": -1}).wait()
    message = "error: steps and batch_size must be at least 1, and beta above 0"
    assert errors.count(message) == 1


# One process


def test_one_process_is_main_and_has_all():
    with process_group(torch.device("cpu")) as world:
        assert world == World(0, 1)
        assert world.is_main
        assert world.shard == (0, 1)


def test_one_process_gives_back_what_it_is_given(tiny):
    world, metrics = World(), {"loss": 2.0}
    assert world.average_gradients(tiny, metrics, 3) is metrics
    assert all(parameter.grad is None for parameter in tiny.parameters())
    assert world.any_rank(True)
    assert not world.any_rank(False)
    assert world.all_reduce(torch.ones(2)).tolist() == [1.0, 1.0]


def test_reference_is_scored_once_by_all_together(base_file, pairs_file, tokenizer):
    model, _ = load_model(base_file)
    tokenized = tokenize_pairs(tokenizer, load_pairs(pairs_file, tokenizer).pairs)
    parts = [compute_reference_logps(model, tokenized, shard=(rank, 3)) for rank in range(3)]
    assert all(((part != 0).sum(dim=1) % 2 == 0).all() for part in parts)
    assert torch.allclose(sum(parts), compute_reference_logps(model, tokenized), atol=1e-5)
