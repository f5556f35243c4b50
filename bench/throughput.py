"""Pairs a second of one process, against other loops and TRL: `python -m bench.throughput`.

Same weights, same pairs with refusals as negatives, batches of 64, one epoch of a few batches in
every round; the systems take turns. First, ours and TRL's must agree on log-probabilities, loss and
rewards. Without what bench/requirements.txt names, TRL's rows are missing. In bfloat16 only where
the processor is fast in it.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from statistics import mean, median

import torch
from torch.nn import functional as F

from bench import assignment, notebook_loop
from bench.large import large_run, pairs_file
from bench.report import (
    CPU,
    matrix_peak,
    matrix_weights,
    median_and_spread,
    precisions,
    ratio,
    share,
)
from bench.results import Measurement, print_result
from dpo.data.batches import batches, collate_pairs, pack_pairs, packed_length, tokenize_pairs
from dpo.data.pair import Pair
from dpo.data.pair_file import load_pairs
from dpo.evaluation.tables import markdown
from dpo.training.logps import compute_reference_logps, pair_logps
from dpo.training.step import dpo_step, train_step
from model import GPT
from sft.checkpoint.weights import load_model
from sft.device import autocast
from sft.optimizers import make_optimizers, make_schedulers
from sft.sequences import Sequence
from sft.tokenizer import load_tokenizer

try:
    from bench import huggingface
except ModuleNotFoundError:
    huggingface = None  # no TRL here

ROUNDS, PAIRS = 3, 192
SETTINGS = large_run(nll_coef=0.0)
# How many passes as expensive as a forward pass an epoch needs: backward is two.
PASSES = {"first epoch": 4, "reference known": 3}
COURSE, NOTEBOOK = "the course's loop", "a public notebook's loop"


@dataclass(frozen=True)
class System:
    """Something that trains, and the precision of its products."""

    precision: str
    epoch: Callable[[list[Pair]], dict[str, float]]  # seconds of one, by the names in PASSES


def systems() -> dict[str, System]:
    """All that can be measured here, by the name of its row."""
    found = {
        COURSE: System("float32", partial(the_courses_loop, dropout=assignment.DROPOUT)),
        "the same without dropout": System("float32", partial(the_courses_loop, dropout=0.0)),
        NOTEBOOK: System("float32", the_notebooks_loop),
    }
    for precision in precisions() if huggingface else ():
        for name, tuned in (("TRL as it comes", False), ("TRL, tuned", True)):
            epoch = partial(trl, precision=precision, tuned=tuned)
            found[f"{name}, {precision}"] = System(precision, epoch)
    for precision in precisions():
        found[f"ours, {precision}"] = System(precision, partial(ours, precision=precision))
    return found


def load() -> tuple[GPT, GPT]:
    """Policy and reference, the same weights twice."""
    policy, reference = (load_model(SETTINGS.base)[0] for _ in range(2))
    return policy, reference


def check_agreement(pairs: list[Pair]) -> float:
    """The largest difference of ours and TRL's in float32; AssertionError if they disagree.

    It is relative for numbers above 1. Below, it is in nats: a reward near 0 is the difference of
    sums of many nats, and has their rounding.
    """
    tokenizer, (policy, reference) = load_tokenizer(), load()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in policy.parameters():  # else every margin would be 0
            parameter += 0.02 * parameter.std() * torch.randn_like(parameter)
    tokenized = tokenize_pairs(tokenizer, pairs)
    reference_logps = compute_reference_logps(reference, tokenized)
    batch = collate_pairs(tokenized, reference_logps)
    with torch.no_grad():
        _, metrics = dpo_step(policy, batch, SETTINGS.beta)
        logps = torch.stack(pair_logps(policy, pack_pairs(tokenized)))
    trainer = huggingface.make_trainer(
        policy, reference, tokenizer, pairs, len(pairs), SETTINGS.beta, 0.0
    )
    *their_logps, loss, theirs = huggingface.logps_and_metrics(trainer)
    theirs["loss"] = loss
    rewards = [f"rewards/{name}" for name in ("chosen", "rejected", "margins", "accuracies")]
    names = ["loss", *rewards, "logps/chosen"]
    own = torch.cat([logps.flatten(), torch.tensor([metrics[name] for name in names])])
    other = torch.cat([*their_logps, torch.tensor([theirs[name] for name in names])])
    torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-6)
    return ((own - other).abs() / other.abs().clamp(min=1)).max().item()


# The systems


def ours(pairs: list[Pair], precision: str) -> dict[str, float]:
    """Seconds of one epoch: with the reference's pass, and without it."""
    tokenizer, (policy, reference) = load_tokenizer(), load()
    tokenized = tokenize_pairs(tokenizer, pairs)
    optimizers = make_optimizers(policy, "adamw", SETTINGS.base_lr)
    schedulers = make_schedulers(optimizers, len(pairs))
    started = time.perf_counter()
    with autocast(CPU, precision):
        reference_logps = compute_reference_logps(reference, tokenized)
    cached = time.perf_counter()
    for micro_batches in batches(tokenized, reference_logps, SETTINGS.batch_size, SETTINGS.seed):
        train_step(
            policy, micro_batches, optimizers, schedulers, precision=precision, beta=SETTINGS.beta
        )
    ended = time.perf_counter()
    return {"first epoch": ended - started, "reference known": ended - cached}


def time_steps(
    pairs: list[Pair], step: Callable[[list[Sequence], list[Sequence]], object]
) -> dict[str, float]:
    """Seconds of one epoch of a loop that keeps nothing of the reference: the same in both columns.

    `step` gets the chosen and the rejected texts of a batch.
    """
    tokenized = tokenize_pairs(load_tokenizer(), pairs)
    started = time.perf_counter()
    for start in range(0, len(tokenized), SETTINGS.batch_size):
        part = tokenized[start : start + SETTINGS.batch_size]
        step([pair.chosen for pair in part], [pair.rejected for pair in part])
    return dict.fromkeys(PASSES, time.perf_counter() - started)


def the_courses_loop(pairs: list[Pair], dropout: float) -> dict[str, float]:
    """Seconds of one epoch; there is no reference."""
    model, _ = load_model(SETTINGS.base)
    slow = GPT(type(model.config)(**vars(model.config) | {"dropout": dropout}))
    slow.load_state_dict(model.state_dict())
    optimizer = torch.optim.AdamW(slow.train().parameters(), lr=SETTINGS.base_lr)

    def step(chosen: list[Sequence], rejected: list[Sequence]) -> None:
        both = assignment.padded(chosen), assignment.padded(rejected)
        assignment.train_step(slow, optimizer, *both, beta=0.5)

    return time_steps(pairs, step)


def the_notebooks_loop(pairs: list[Pair]) -> dict[str, float]:
    """Seconds of one epoch; the reference is scored in every step."""
    policy, reference = load()
    optimizer = torch.optim.AdamW(policy.parameters(), lr=SETTINGS.base_lr)
    step = partial(notebook_loop.train_step, policy, reference, optimizer, beta=SETTINGS.beta)
    return time_steps(pairs, step)


def trl(pairs: list[Pair], precision: str, tuned: bool) -> dict[str, float]:
    """Seconds of the steps of one epoch, the reference scored in every step or before."""
    tokenizer, models = load_tokenizer(), load()
    seconds, settings = {}, (SETTINGS.batch_size, SETTINGS.beta, SETTINGS.base_lr)
    for column, precompute in (("first epoch", False), ("reference known", True)):
        trainer = huggingface.make_trainer(
            *models, tokenizer, pairs, *settings, precompute, precision == "bfloat16", tuned
        )
        seconds[column] = huggingface.train_seconds(trainer)
    return seconds


# The limit


def limits(pairs: list[Pair]) -> dict:
    """Pairs/s by precision and column, if nothing but the weights' products took time.

    Counted is the least that a pair needs: its prompt once, and no padding. Beside them the
    characters of a pair, and the FLOP of its forward pass.
    """
    tokenized = tokenize_pairs(load_tokenizer(), pairs)
    characters = mean(map(packed_length, tokenized))
    flop = 2 * matrix_weights(load_model(SETTINGS.base)[0]) * characters
    rates = {
        precision: {
            column: matrix_peak(precision) / (passes * flop) for column, passes in PASSES.items()
        }
        for precision in precisions()
    }
    peaks = {precision: matrix_peak(precision) for precision in precisions()}
    return {"characters": characters, "flop": flop, "peaks": peaks, "rates": rates}


def attention() -> dict[str, dict[str, float]]:
    """Milliseconds of one layer's attention over 64 rows of 75 characters, by precision.

    On a CPU torch has a kernel of its own for each.
    """
    results = {}
    attention_mask = torch.ones(64, 1, 75, 75, dtype=torch.bool).tril()
    for precision in precisions():
        shape, dtype = (64, 6, 75, 58), getattr(torch, precision)
        q, k, v = (torch.randn(shape, dtype=dtype, requires_grad=True) for _ in range(3))
        forward, backward = [], []
        for _ in range(12):
            started = time.perf_counter()
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=attention_mask)
            half = time.perf_counter()
            y.sum().backward()
            forward.append(1000 * (half - started))
            backward.append(1000 * (time.perf_counter() - half))
        results[precision] = {"forward": median(forward), "backward": median(backward)}
    return results


# The measurement


def measure(rounds: int = ROUNDS, n: int = PAIRS) -> dict:
    """Pairs a second of every system and round; the limits; how well ours and TRL's agree."""
    pairs = load_pairs(pairs_file(n, "refusal"), load_tokenizer()).pairs
    one_batch = pairs[: SETTINGS.batch_size]
    agreement = check_agreement(one_batch) if huggingface else None
    rates, found = {}, systems()
    for name, system in found.items():
        system.epoch(one_batch)  # warms up
        rates[name] = {column: [] for column in PASSES}
    for _ in range(rounds):
        for name, system in found.items():
            for column, seconds in system.epoch(pairs).items():
                rates[name][column].append(len(pairs) / seconds)
    return {
        "pairs": len(pairs),
        "trl": version("trl") if huggingface else None,
        "agreement": agreement,
        "precision": {name: system.precision for name, system in found.items()},
        "rates": rates,
        "limits": limits(pairs),
        "attention": attention(),
    }


def best_of_trl(rates: dict, column: str) -> str | None:
    """The name of TRL's fastest row, if there is one."""
    names = [name for name in rates if name.startswith("TRL")]
    return max(names, key=lambda name: median(rates[name][column]), default=None)


def rates_table(values: dict, column: str) -> str:
    """A row per system: pairs a second, how many times as fast as others, share of the limit."""
    rates, best = values["rates"], best_of_trl(values["rates"], column)
    others = {"the course's loop": COURSE, "the notebook's": NOTEBOOK}
    others |= {"TRL's best": best} if best else {}
    heads = [f"to {other}" for other in others]
    rows = [["system", "pairs/s, median (lowest to highest)", *heads, "of the limit"]]
    for name, by_column in rates.items():
        own, precision = by_column[column], values["precision"][name]
        ratios = [ratio(own, rates[other][column]) for other in others.values()]
        limit = values["limits"]["rates"][precision][column]
        rows.append([name, median_and_spread(own), *ratios, f"{share(own, limit)} %"])
    return markdown(rows)


def limits_table(limits: dict) -> str:
    rows = [["precision", "fastest product, GFLOP/s", *(f"{name}, pairs/s" for name in PASSES)]]
    for precision, rates in limits["rates"].items():
        peak = f"{limits['peaks'][precision] / 1e9:,.0f}"
        rows.append([precision, peak, *(f"{rate:.1f}" for rate in rates.values())])
    return markdown(rows)


def agreement_in_words(values: dict) -> str:
    if values["trl"] is None:
        return "TRL was not installed (bench/requirements.txt): its rows are missing."
    return (
        f"Ours and TRL {values['trl']} agree on log-probabilities, loss and rewards of a batch "
        f"within {values['agreement']:.1e} (relative; of numbers below 1, in nats)."
    )


def render(values: dict) -> dict[str, str]:
    """Tables; and what prose quotes of ours in float32: ratios, and shares of the limit."""
    attention_rows = [["attention in", "forward, ms", "backward, ms"]]
    for precision, times in values["attention"].items():
        attention_rows.append([precision, *(f"{ms:.1f}" for ms in times.values())])
    texts = {
        "agreement": agreement_in_words(values),
        "first": rates_table(values, "first epoch"),
        "known": rates_table(values, "reference known"),
        "limits": limits_table(values["limits"]),
        "attention": markdown(attention_rows),
    }
    rates, limit = values["rates"], values["limits"]["rates"]["float32"]
    for key, column in (("first", "first epoch"), ("known", "reference known")):
        own = rates["ours, float32"][column]
        texts[f"{key}_rate"] = f"{median(own):.1f}"
        texts[f"{key}_share"] = share(own, limit[column])
        texts[f"{key}_to_course"] = ratio(own, rates[COURSE][column])
        texts[f"{key}_to_notebook"] = ratio(own, rates[NOTEBOOK][column])
        if "TRL, tuned, float32" in rates:
            texts[f"{key}_to_trl"] = ratio(own, rates["TRL, tuned, float32"][column])
    return texts


MEASUREMENT = Measurement(
    "throughput", "python -m bench.throughput", measure, render, 8, of_base=False
)

if __name__ == "__main__":
    print_result(MEASUREMENT)
