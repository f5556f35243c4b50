"""Where the seconds of a training step go: `python -m bench.parts`.

Steps of 64 pairs with the settings for a large file, in float32, under torch's profiler: the
seconds of every operation of torch, in a few groups. What no group has, among it Python itself, is
one more.
"""

import re
import time
from collections import defaultdict
from dataclasses import asdict
from statistics import median

from torch.autograd.profiler_util import EventList
from torch.profiler import ProfilerActivity, profile

from bench.large import large_run, pairs_file
from bench.results import Measurement, print_result
from dpo.data.batches import batches, tokenize_pairs
from dpo.data.pair_file import load_pairs
from dpo.evaluation.tables import markdown
from dpo.training.logps import compute_reference_logps
from dpo.training.run import objective
from dpo.training.step import train_step
from sft.checkpoint.weights import load_model
from sft.optimizers import make_optimizers, make_schedulers

SETTINGS = large_run(precision="float32")
STEPS = 6  # of which the first warms up
GROUPS = {  # names of torch's operations, as patterns
    "products of the weights": "aten::(mm|addmm)",
    "attention": "aten::(_scaled_dot_product.*|bmm|baddbmm|.*softmax.*)",
    "GELU": "aten::gelu.*",
    "layer norm": "aten::native_layer_norm.*",
    "optimizer, and length of the gradient": "aten::(_fused_adamw_|_foreach.*|linalg_vector_norm)",
    "copies, and sums of the residual stream": "aten::(copy_|cat|add_?|mul_?)",
}
REST = "all else, Python included"


def group_of(operation: str) -> str:
    """`aten::mm` is a product of the weights, `aten::gelu_backward` belongs to GELU."""
    names = (group for group, pattern in GROUPS.items() if re.fullmatch(pattern, operation))
    return next(names, REST)


def seconds_by_group(events: EventList, total: float) -> dict[str, float]:
    """Seconds of each group; `total` are those of the step that these operations belong to."""
    seconds = dict.fromkeys([*GROUPS, REST], 0.0)
    for event in events:
        seconds[group_of(event.key)] += event.self_cpu_time_total / 1e6  # from microseconds
    seconds[REST] += total - sum(seconds.values())
    return seconds


def measure() -> dict[str, list[float]]:
    """Seconds by group, of every step but the first."""
    policy, tokenizer = load_model(SETTINGS.base)
    pairs = load_pairs(pairs_file(SETTINGS.batch_size * STEPS, "refusal"), tokenizer).pairs
    tokenized = tokenize_pairs(tokenizer, pairs)
    logps = compute_reference_logps(policy, tokenized)
    optimizers = make_optimizers(policy, SETTINGS.optimizer, SETTINGS.base_lr)
    schedulers, found = make_schedulers(optimizers, STEPS), defaultdict(list)
    for micro_batches in batches(tokenized, logps, SETTINGS.batch_size, SETTINGS.seed, STEPS):
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            started = time.perf_counter()
            train_step(
                policy,
                micro_batches,
                optimizers,
                schedulers,
                precision=SETTINGS.precision,
                **objective(asdict(SETTINGS)),
            )
            total = time.perf_counter() - started
        for group, seconds in seconds_by_group(profiler.key_averages(), total).items():
            found[group].append(seconds)
    return {group: seconds[1:] for group, seconds in found.items()}


def render(values: dict[str, list[float]]) -> dict[str, str]:
    """A row a group: its median seconds, and their share of the medians' sum."""
    seconds = {group: median(members) for group, members in values.items()}
    total = sum(seconds.values())
    rows = [["part of a step of 64 pairs", "seconds, median", "share"]]
    rows += [[group, f"{own:.3f}", f"{own / total:.0%}"] for group, own in seconds.items()]
    return {"table": markdown([*rows, ["together", f"{total:.3f}", ""]])}


MEASUREMENT = Measurement("parts", "python -m bench.parts", measure, render, 1, of_base=False)

if __name__ == "__main__":
    print_result(MEASUREMENT)
