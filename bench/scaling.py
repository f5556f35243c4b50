"""How cost grows with the pairs, and what several machines would bring: `python -m bench.scaling`.

The pairs: for files from 64 pairs to a million, each in a process of its own, the seconds of
reading and of the first steps of a run with the default settings, and the peak of its memory. A
file that is refused since it is too large is measured with that limit lifted, too.

The machines: measured are the seconds of a step's passes for the longest shard of the batch, of the
optimizer's step, of laying the gradients out in one piece and back, and of summing them over two
processes on this machine. From these a step on n machines of this kind is computed, whose gradients
go round in a ring at the speed of a network. Not for Windows.
"""

import math
import tempfile
import time
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from statistics import median

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from bench.large import large_run, pairs_file
from bench.memory import MIB, in_new_process, own_peak
from bench.results import Measurement, print_result
from dpo.data import text_reader
from dpo.data.batches import batch_order, batches, tokenize_pairs
from dpo.data.pair import PairsError
from dpo.data.pair_file import load_pairs
from dpo.evaluation.tables import markdown
from dpo.train import Config
from dpo.training.distributed import World
from dpo.training.logps import compute_reference_logps
from dpo.training.provenance import pairs_hash
from dpo.training.run import objective
from dpo.training.step import accumulate_gradients, train_step
from sft.checkpoint.weights import load_model
from sft.optimizers import make_optimizers, make_schedulers

PAIRS = (64, 1_000, 10_000, 100_000, 1_000_000)
STEPS = 100
MACHINES = (1, 2, 4, 8, 16)
NETWORKS = {"1 Gbit/s": 1e9 / 8, "10 Gbit/s": 1e10 / 8, "100 Gbit/s": 1e11 / 8}  # bytes a second
ROUNDS = 5
SETTINGS = large_run()

# The pairs


def first_steps(path: str, of_any_size: bool = False) -> dict[str, float]:
    """Seconds of each part of a run's first STEPS steps on this file; peak memory in bytes.

    The reference scores only the pairs that these steps use. To be called in a process of its own,
    for which it lifts the limit on the file's size if this may be any.
    """
    if of_any_size:
        text_reader.LARGEST_FILE = Path(path).stat().st_size
    settings = Config(pairs=path, steps=STEPS)
    (policy, tokenizer), (reference, _) = load_model(settings.base), load_model(settings.base)
    optimizers = make_optimizers(policy, settings.optimizer, settings.base_lr)
    schedulers = make_schedulers(optimizers, STEPS)
    times = [time.perf_counter()]
    pairs = load_pairs(path, tokenizer, settings.max_length).pairs
    times.append(time.perf_counter())
    tokenized = tokenize_pairs(tokenizer, pairs)
    pairs_hash(tokenized)  # by which a run knows its pairs again
    times.append(time.perf_counter())
    order = batch_order(len(pairs), settings.batch_size, settings.seed, STEPS)
    used = sorted({i for indices in order for i in indices})
    logps = torch.zeros(len(pairs), 2)
    logps[used] = compute_reference_logps(reference, [tokenized[i] for i in used])
    for micro_batches in batches(tokenized, logps, settings.batch_size, settings.seed, STEPS):
        train_step(policy, micro_batches, optimizers, schedulers, **objective(asdict(settings)))
    times.append(time.perf_counter())
    reading, tokenizing, training = (end - start for start, end in pairwise(times))
    seconds = {"reading": reading, "tokenizing": tokenizing, "training": training}
    return seconds | {"peak": own_peak()}


def measure_pairs(sizes: tuple[int, ...] = PAIRS) -> dict[str, dict]:
    """By number of pairs: the bytes of the file, and its cost, or why it was refused."""
    results = {}
    for n in sizes:
        path = in_new_process(pairs_file, n, "refusal")  # which takes memory, too
        try:
            cost = in_new_process(first_steps, path)
        except PairsError as error:
            cost = {"refused": str(error)} | in_new_process(first_steps, path, True)
        results[str(n)] = {"file": Path(path).stat().st_size} | cost
    return results


def exponent(sizes: list[int], costs: list[float]) -> str:
    """The slope between the two largest in a plot of logarithms: 1 where cost doubles with size.

    "-" where there is no such slope, as nothing was needed before.
    """
    (n, m), (cost, more) = sizes[-2:], costs[-2:]
    return f"{math.log(more / cost) / math.log(m / n):.1f}" if min(cost, more) > 0 else "-"


def pairs_table(values: dict[str, dict]) -> str:
    """A row a size, and below it the exponents between the two largest that were measured."""
    heads = [
        "reading and checking, s",
        "tokenizing and hashing, s",
        f"{STEPS} steps and their reference, s",
    ]
    rows = [["pairs", "file, MiB", *heads, "peak memory, MiB", "beyond that of 64 pairs, MiB"]]
    smallest = min(cost["peak"] for cost in values.values())
    columns = {
        name: [cost[name] for cost in values.values()]
        for name in ("file", "reading", "tokenizing", "training", "peak")
    }
    columns["beyond"] = [peak - smallest for peak in columns["peak"]]
    for i, n in enumerate(map(int, values)):
        seconds = [f"{columns[name][i]:.2f}" for name in ("reading", "tokenizing", "training")]
        memory = [f"{columns[name][i] / MIB:,.0f}" for name in ("peak", "beyond")]
        rows.append([f"{n:,}", f"{columns['file'][i] / MIB:,.1f}", *seconds, *memory])
    slopes = [exponent(list(map(int, values)), costs) for costs in columns.values()]
    return markdown([*rows, ["exponent at the end", *slopes]])


def refusals(values: dict[str, dict]) -> str:
    """What is read only with the limit lifted, a sentence each."""
    refused = {int(n): cost["refused"] for n, cost in values.items() if "refused" in cost}
    return "\n".join(f"{n:,} pairs are refused: {reason}." for n, reason in refused.items())


# The machines


class Unconnected(World):
    """One of several processes that does everything for a sum, but does not sum."""

    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor

    @property
    def _device(self) -> torch.device:
        return torch.device("cpu")


def step_seconds() -> tuple[dict[int, float], float, float, int]:
    """Seconds of three parts of a step, medians over batches, and the gradients' size in bytes.

    The parts are the passes over the shard of one of n machines (by n), laying out the gradients,
    and the optimizer's step. The first time of each is left out, as it warms up.
    """
    policy, tokenizer = load_model(SETTINGS.base)
    pairs = load_pairs(pairs_file(64 * (ROUNDS + 1), "refusal"), tokenizer).pairs
    tokenized = tokenize_pairs(tokenizer, pairs)
    logps = compute_reference_logps(policy, tokenized)
    optimizers = make_optimizers(policy, "adamw", SETTINGS.base_lr)
    schedulers = make_schedulers(optimizers, 1000)
    passes, updates, layings = {n: [] for n in MACHINES}, [], []
    for n in MACHINES:
        for micro_batches in batches(
            tokenized, logps, SETTINGS.batch_size, SETTINGS.seed, epochs=1, shard=(n - 1, n)
        ):
            times = [time.perf_counter()]
            metrics = accumulate_gradients(
                policy, micro_batches, SETTINGS.precision, **objective(asdict(SETTINGS))
            )
            times.append(time.perf_counter())
            Unconnected(0, 2).average_gradients(policy, metrics, 1)
            times.append(time.perf_counter())
            torch.nn.utils.clip_grad_norm_(policy.parameters(), SETTINGS.max_grad_norm)
            for optimizer, scheduler in zip(optimizers, schedulers, strict=True):
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad(set_to_none=True)
            times.append(time.perf_counter())
            parts = (passes[n], layings, updates)
            for seconds, start, end in zip(parts, times, times[1:], strict=False):
                seconds.append(end - start)
    size = sum(p.numel() * p.element_size() for p in policy.parameters())
    of_shards = {n: median(seconds[1:]) for n, seconds in passes.items()}
    return of_shards, median(layings[1:]), median(updates[1:]), size


def _sum_often(rank: int, meeting: str, size: int) -> None:
    """One of two processes, which meet at this file; the first writes the median beside it."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    numbers, seconds = torch.ones(size // 4), []
    for _ in range(ROUNDS + 1):
        dist.barrier()
        started = time.perf_counter()
        dist.all_reduce(numbers)
        seconds.append(time.perf_counter() - started)
    if rank == 0:
        Path(f"{meeting}.seconds").write_text(str(median(seconds[1:])))
    dist.destroy_process_group()


def sum_seconds(size: int) -> float:
    """Seconds of summing so many bytes over two processes of this machine with gloo."""
    with tempfile.TemporaryDirectory() as folder:
        meeting = f"{folder}/meeting"
        multiprocessing.spawn(_sum_often, (meeting, size), nprocs=2)
        return float(Path(f"{meeting}.seconds").read_text())


def speed_up(
    n: int,
    passes: dict[int, float],
    laying: float,
    update: float,
    size: int,
    bytes_per_second: float,
) -> float:
    """How much faster n machines make a step.

    Each sends 2 (n - 1) / n times the gradients' bytes around the ring.
    """
    exchange = laying + 2 * (n - 1) / n * size / bytes_per_second if n > 1 else 0.0
    return (passes[1] + update) / (passes[n] + update + exchange)


def measure_machines() -> dict:
    """Seconds of the parts of a step, and bytes of its gradients."""
    passes, laying, update, size = step_seconds()
    return {
        "passes": {str(n): seconds for n, seconds in passes.items()},
        "laying": laying,
        "update": update,
        "bytes": size,
        "summing": sum_seconds(size),
    }


def machines_table(values: dict) -> str:
    """A row per number of machines: measured passes, and computed speed-ups."""
    passes = {int(n): seconds for n, seconds in values["passes"].items()}
    parts = passes, values["laying"], values["update"], values["bytes"]
    speed_ups = [f"speed-up at {name} (computed)" for name in NETWORKS]
    rows = [["machines", "passes over its shard, s (measured)", *speed_ups]]
    for n, seconds in passes.items():
        computed = [f"{speed_up(n, *parts, speed):.1f}" for speed in NETWORKS.values()]
        rows.append([str(n), f"{seconds:.3f}", *computed])
    return markdown(rows)


# Both


def measure() -> dict:
    return {"pairs": measure_pairs(), "machines": measure_machines()}


def render(values: dict) -> dict[str, str]:
    """Tables, what was refused, and seconds and megabytes that prose quotes."""
    machines = values["machines"]
    seconds = {name: f"{machines[name]:.3f}" for name in ("laying", "update", "summing")}
    return {
        "pairs": pairs_table(values["pairs"]),
        "refused": refusals(values["pairs"]),
        "machines": machines_table(machines),
        "gradients": f"{machines['bytes'] / 1e6:.1f}",
        **seconds,
    }


MEASUREMENT = Measurement("scaling", "python -m bench.scaling", measure, render, 5, of_base=False)

if __name__ == "__main__":
    print_result(MEASUREMENT)
