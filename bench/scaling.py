"""What several machines would bring: `python -m bench.scaling`.

Measured are the seconds of a step's passes for the longest shard of the batch, of the optimizer's
step, of laying the gradients out in one piece and back, and of summing them over two processes on
this machine. From these a step on n machines of this kind is computed, whose gradients go round in
a ring at the speed of a network. Prints tables.
"""

import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from statistics import median

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from bench.large import large_run, pairs_file
from bench.report import hardware
from dpo.data.batches import batches, tokenize_pairs
from dpo.data.pair_file import load_pairs
from dpo.evaluation.tables import markdown
from dpo.training.distributed import World
from dpo.training.logps import compute_reference_logps
from dpo.training.run import objective
from dpo.training.step import accumulate_gradients
from sft.checkpoint.weights import load_model
from sft.optimizers import make_optimizers, make_schedulers

MACHINES = (1, 2, 4, 8, 16)
NETWORKS = {"1 Gbit/s": 1e9 / 8, "10 Gbit/s": 1e10 / 8, "100 Gbit/s": 1e11 / 8}  # bytes a second
ROUNDS = 5
SETTINGS = large_run()


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


def main() -> None:
    passes, laying, update, size = step_seconds()
    shared = sum_seconds(size)
    print(f"{hardware()}; medians of {ROUNDS} steps of {SETTINGS.batch_size} pairs")
    summed = f"laid out in {laying:.3f} s, summed by two processes in {shared:.3f} s"
    print(f"gradients {size / 1e6:.1f} MB, {summed}")
    print(f"optimizer {update:.3f} s\n")
    speed_ups = [f"speed-up at {name} (computed)" for name in NETWORKS]
    rows = [["machines", "passes over its shard, s (measured)", *speed_ups]]
    for n in MACHINES:
        row = [str(n), f"{passes[n]:.3f}"]
        for speed in NETWORKS.values():
            row.append(f"{speed_up(n, passes, laying, update, size, speed):.1f}")
        rows.append(row)
    print(markdown(rows))


if __name__ == "__main__":
    main()
