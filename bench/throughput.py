"""Pairs a second of one process, against the course's loop and TRL: `python -m bench.throughput`.

Same weights, same pairs with refusals as negatives, batches of 64, one epoch of a few batches in every round; the
systems take turns. First, ours and TRL's must agree on log-probabilities, loss and rewards. Needs
bench/requirements.txt. Prints tables and writes runs/throughput.json.
"""

import time
from collections.abc import Callable
from statistics import median

import torch
from torch.nn import functional as F

from bench import assignment, huggingface
from bench.learning import pairs_file
from bench.report import hardware, median_and_spread, ratio
from dpo.data.batches import batches, collate_pairs, pack_pairs, packed_length, tokenize_pairs
from dpo.data.pair import Pair
from dpo.data.pair_file import load_pairs
from dpo.evaluation.tables import markdown
from dpo.train import Config
from dpo.training.logps import compute_reference_logps, pair_logps
from dpo.training.step import dpo_step, train_step
from model import GPT
from sft.checkpoint.weights import load_model
from sft.device import autocast
from sft.files import write_json
from sft.optimizers import make_optimizers, make_schedulers
from sft.tokenizer import load_tokenizer

ROUNDS, PAIRS, CPU = 3, 256, torch.device("cpu")
SETTINGS = Config(nll_coef=0.0)


def load() -> tuple[GPT, GPT]:
    policy, reference = (load_model(SETTINGS.base)[0] for _ in range(2))
    return policy, reference


def check_agreement(pairs: list[Pair]) -> float:
    """The largest relative difference between ours and TRL's in float32; AssertionError above 1e-4."""
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
    names = (
        "loss",
        "rewards/chosen",
        "rewards/rejected",
        "rewards/margins",
        "rewards/accuracies",
        "logps/chosen",
    )
    here = torch.cat([logps.flatten(), torch.tensor([metrics[name] for name in names])])
    there = torch.cat([*their_logps, torch.tensor([theirs[name] for name in names])])
    torch.testing.assert_close(here, there, rtol=1e-4, atol=1e-9)
    return ((here - there).abs() / there.abs().clamp(min=1e-9)).max().item()


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


def the_courses_loop(pairs: list[Pair], dropout: float) -> dict[str, float]:
    model, _ = load_model(SETTINGS.base)
    slow = GPT(type(model.config)(**vars(model.config) | {"dropout": dropout}))
    slow.load_state_dict(model.state_dict())
    optimizer = torch.optim.AdamW(slow.train().parameters(), lr=SETTINGS.base_lr)
    tokenized = tokenize_pairs(load_tokenizer(), pairs)
    started = time.perf_counter()
    for start in range(0, len(tokenized), SETTINGS.batch_size):
        part = tokenized[start : start + SETTINGS.batch_size]
        chosen, rejected = (
            assignment.padded([e.chosen for e in part]),
            assignment.padded([e.rejected for e in part]),
        )
        assignment.train_step(slow, optimizer, chosen, rejected, beta=0.5)
    seconds = time.perf_counter() - started
    return {"first epoch": seconds, "reference known": seconds}  # it has none


def trl(pairs: list[Pair], bf16: bool, tuned: bool = True) -> dict[str, float]:
    tokenizer, models = load_tokenizer(), load()
    return {
        column: huggingface.train_seconds(
            huggingface.make_trainer(
                *models,
                tokenizer,
                pairs,
                SETTINGS.batch_size,
                SETTINGS.beta,
                SETTINGS.base_lr,
                precompute,
                bf16,
                tuned,
            )
        )
        for column, precompute in (("first epoch", False), ("reference known", True))
    }


def matrix_peak(dtype: torch.dtype) -> float:
    """FLOP/s of the model's largest kind of matrix product."""
    rows, weights, out = (
        torch.randn(shape).to(dtype) for shape in ((4096, 348), (348, 1392), (4096, 1392))
    )
    seconds = []
    for _ in range(100):
        started = time.perf_counter()
        torch.mm(rows, weights, out=out)
        seconds.append(time.perf_counter() - started)
    return 2 * 4096 * 348 * 1392 / min(seconds)


def limits(pairs: list[Pair]) -> list[list[str]]:
    """What the machine could do if there were nothing but the weights' products, without padding, at full speed."""
    model, _ = load_model(SETTINGS.base)
    weights = (
        sum(p.numel() for p in model.transformer.h.parameters() if p.dim() == 2)
        + model.lm_head.weight.numel()
    )
    tokenized = tokenize_pairs(load_tokenizer(), pairs)
    characters = sum(map(packed_length, tokenized)) / len(tokenized)
    rows = [
        [
            "precision",
            "products, GFLOP/s",
            "limit of a first epoch, pairs/s",
            "limit with reference known",
        ]
    ]
    for dtype in (torch.float32, torch.bfloat16):
        peak = matrix_peak(dtype)
        first, known = (
            peak / (passes * 2 * weights * characters) for passes in (4, 3)
        )  # backward counts twice
        rows.append(
            [str(dtype).removeprefix("torch."), f"{peak / 1e9:.0f}", f"{first:.1f}", f"{known:.1f}"]
        )
    print(
        f"\n{2 * weights * characters / 1e9:.2f} GFLOP per pair and forward pass ({characters:.1f} characters)"
    )
    return rows


def attention() -> list[list[str]]:
    """Milliseconds of one layer's attention over 64 rows of 75 characters, in torch's two kernels for a CPU."""
    rows = [["attention in", "forward, ms", "backward, ms"]]
    attention_mask = torch.ones(64, 1, 75, 75, dtype=torch.bool).tril()
    for dtype in (torch.float32, torch.bfloat16):
        q, k, v = (torch.randn(64, 6, 75, 58, dtype=dtype, requires_grad=True) for _ in range(3))
        forward, backward = [], []
        for _ in range(12):
            started = time.perf_counter()
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=attention_mask)
            half = time.perf_counter()
            y.sum().backward()
            forward.append(1000 * (half - started))
            backward.append(1000 * (time.perf_counter() - half))
        rows.append(
            [str(dtype).removeprefix("torch."), f"{median(forward):.1f}", f"{median(backward):.1f}"]
        )
    return rows


def main() -> None:
    pairs = load_pairs(pairs_file(PAIRS, "refusal"), load_tokenizer()).pairs
    print(f"ours and TRL's agree: largest relative difference {check_agreement(pairs[:64]):.1e}")
    systems: dict[str, Callable[[list[Pair]], dict[str, float]]] = {
        "the course's loop": lambda p: the_courses_loop(p, assignment.DROPOUT),
        "the same without dropout": lambda p: the_courses_loop(p, 0.0),
        "TRL as it comes (bfloat16)": lambda p: trl(p, bf16=True, tuned=False),
        "TRL, float32": lambda p: trl(p, bf16=False),
        "TRL, bfloat16": lambda p: trl(p, bf16=True),
        "ours, float32": lambda p: ours(p, "float32"),
        "ours, bfloat16": lambda p: ours(p, "bfloat16"),
    }
    rates = {
        column: {name: [] for name in systems} for column in ("first epoch", "reference known")
    }
    for number in range(ROUNDS + 1):
        for name, system in systems.items():
            seconds = system(pairs)
            print(f"round {number}, {name}: {seconds}", flush=True)
            for column in rates if number else ():  # the first round warms up
                rates[column][name].append(len(pairs) / seconds[column])
    characters = sum(2 * len(p.prompt) + len(p.chosen) + len(p.rejected) + 2 for p in pairs) / len(
        pairs
    )
    print(
        "\nCharacters are those of both texts, so a prompt counts twice, though ours computes it once."
    )
    print(
        f"{ROUNDS} rounds of {len(pairs)} pairs in batches of {SETTINGS.batch_size}, {hardware()}"
    )
    for column, by_system in rates.items():
        alternatives = (
            "the course's loop",
            "TRL as it comes (bfloat16)",
            "TRL, float32",
            "TRL, bfloat16",
        )
        header = ["system", "pairs/s, median (lowest to highest)", "characters/s"]
        rows = [[*header, *(f"ratio to {rival}" for rival in alternatives)]]
        for name, values in by_system.items():
            speed = f"{median(values) * characters:,.0f}"
            ratios = (ratio(values, by_system[rival]) for rival in alternatives)
            rows.append([name, median_and_spread(values), speed, *ratios])
        print(f"\n{column}\n\n{markdown(rows)}")
    limit = limits(pairs)
    print(f"\n{markdown(limit)}\n\n{markdown(attention())}")
    write_json(
        "runs/throughput.json", {"hardware": hardware(), "pairs_per_second": rates, "limits": limit}
    )


if __name__ == "__main__":
    main()
