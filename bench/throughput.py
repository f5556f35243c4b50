"""Pairs a second of one process, against the course's loop and TRL: `python -m bench.throughput`.

Same weights, same pairs with refusals as negatives, batches of 64, one epoch of a few batches in
every round; the systems take turns. First, ours and TRL's must agree on log-probabilities, loss and
rewards. Needs bench/requirements.txt. Prints tables and writes runs/throughput.json.
"""

import time
from collections.abc import Callable
from statistics import median

import torch
from torch.nn import functional as F

from bench import assignment, huggingface
from bench.large import large_run, pairs_file
from bench.report import hardware, median_and_spread, ratio
from dpo.data.batches import batches, collate_pairs, pack_pairs, packed_length, tokenize_pairs
from dpo.data.pair import Pair
from dpo.data.pair_file import load_pairs
from dpo.evaluation.tables import markdown
from dpo.training.logps import compute_reference_logps, pair_logps
from dpo.training.step import dpo_step, train_step
from model import GPT
from sft.checkpoint.weights import load_model
from sft.device import autocast
from sft.files import write_json
from sft.optimizers import make_optimizers, make_schedulers
from sft.tokenizer import load_tokenizer

ROUNDS, PAIRS, CPU = 3, 256, torch.device("cpu")
SETTINGS = large_run(nll_coef=0.0)
COLUMNS = ("first epoch", "reference known")
ALTERNATIVES = (  # systems that all are compared with
    "the course's loop",
    "TRL as it comes (bfloat16)",
    "TRL, float32",
    "TRL, bfloat16",
)


def load() -> tuple[GPT, GPT]:
    """Policy and reference, the same weights twice."""
    policy, reference = (load_model(SETTINGS.base)[0] for _ in range(2))
    return policy, reference


def check_agreement(pairs: list[Pair]) -> float:
    """The largest relative difference of ours and TRL's in float32; AssertionError above 1e-4."""
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
    torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-9)
    return ((own - other).abs() / other.abs().clamp(min=1e-9)).max().item()


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
    """Seconds of one epoch; as there is no reference, the same in both columns."""
    model, _ = load_model(SETTINGS.base)
    slow = GPT(type(model.config)(**vars(model.config) | {"dropout": dropout}))
    slow.load_state_dict(model.state_dict())
    optimizer = torch.optim.AdamW(slow.train().parameters(), lr=SETTINGS.base_lr)
    tokenized = tokenize_pairs(load_tokenizer(), pairs)
    started = time.perf_counter()
    for start in range(0, len(tokenized), SETTINGS.batch_size):
        part = tokenized[start : start + SETTINGS.batch_size]
        chosen = assignment.padded([pair.chosen for pair in part])
        rejected = assignment.padded([pair.rejected for pair in part])
        assignment.train_step(slow, optimizer, chosen, rejected, beta=0.5)
    seconds = time.perf_counter() - started
    return {"first epoch": seconds, "reference known": seconds}


def trl(pairs: list[Pair], bf16: bool, tuned: bool = True) -> dict[str, float]:
    """Seconds of the steps of one epoch, the reference scored in every step or before."""
    tokenizer, models = load_tokenizer(), load()
    seconds, settings = {}, (SETTINGS.batch_size, SETTINGS.beta, SETTINGS.base_lr)
    for column, precompute in (("first epoch", False), ("reference known", True)):
        trainer = huggingface.make_trainer(
            *models, tokenizer, pairs, *settings, precompute, bf16, tuned
        )
        seconds[column] = huggingface.train_seconds(trainer)
    return seconds


def matrix_peak(dtype: torch.dtype) -> float:
    """FLOP/s of the model's largest kind of matrix product."""
    n, width, inner = 4096, 348, 1392  # characters, and the two sides of the weights
    rows, weights, out = (
        torch.randn(shape).to(dtype) for shape in ((n, width), (width, inner), (n, inner))
    )
    seconds = []
    for _ in range(100):
        started = time.perf_counter()
        torch.mm(rows, weights, out=out)
        seconds.append(time.perf_counter() - started)
    return 2 * n * width * inner / min(seconds)  # a multiplication and an addition each


def limits(pairs: list[Pair]) -> list[list[str]]:
    """What the machine could do at full speed if nothing but the weights' products took time."""
    model, _ = load_model(SETTINGS.base)
    matrices = [p for p in model.transformer.h.parameters() if p.dim() == 2]
    weights = sum(p.numel() for p in [*matrices, model.lm_head.weight])
    tokenized = tokenize_pairs(load_tokenizer(), pairs)
    characters = sum(map(packed_length, tokenized)) / len(tokenized)  # of a pair, without padding
    flop = 2 * weights * characters  # of a pair's forward pass
    limit_names = ["limit of a first epoch, pairs/s", "limit with reference known"]
    rows = [["precision", "products, GFLOP/s", *limit_names]]
    for dtype in (torch.float32, torch.bfloat16):
        peak = matrix_peak(dtype)
        # Forward once and backward, which is twice that; the first epoch scores the reference, too.
        first, known = peak / (4 * flop), peak / (3 * flop)
        name = str(dtype).removeprefix("torch.")
        rows.append([name, f"{peak / 1e9:.0f}", f"{first:.1f}", f"{known:.1f}"])
    print(f"\n{flop / 1e9:.2f} GFLOP per pair and forward pass ({characters:.1f} characters)")
    return rows


def attention() -> list[list[str]]:
    """Milliseconds of one layer's attention over 64 rows of 75 characters, in both precisions.

    On a CPU torch has a kernel of its own for each.
    """
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
        name = str(dtype).removeprefix("torch.")
        rows.append([name, f"{median(forward):.1f}", f"{median(backward):.1f}"])
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
    rates = {column: {name: [] for name in systems} for column in COLUMNS}
    for number in range(ROUNDS + 1):
        for name, system in systems.items():
            seconds = system(pairs)
            print(f"round {number}, {name}: {seconds}", flush=True)
            for column in rates if number else ():  # the first round warms up
                rates[column][name].append(len(pairs) / seconds[column])
    print(
        "\nCharacters are those of both texts: a prompt counts twice, though ours computes it once."
    )
    print(f"{ROUNDS} rounds of {len(pairs)} pairs, batches of {SETTINGS.batch_size}, {hardware()}")
    texts = [(pair.prompt + answer) for pair in pairs for answer in (pair.chosen, pair.rejected)]
    characters = sum(len(text) + 1 for text in texts) / len(pairs)  # of a pair, with its newlines
    for column, by_system in rates.items():
        print(f"\n{column}\n\n{rates_table(by_system, characters)}")
    limit = limits(pairs)
    print(f"\n{markdown(limit)}\n\n{markdown(attention())}")
    results = {"hardware": hardware(), "pairs_per_second": rates, "limits": limit}
    write_json("runs/throughput.json", results)


def rates_table(by_system: dict[str, list[float]], characters: float) -> str:
    """A row per system: pairs and characters a second, and how many times as fast as the others."""
    head = ["system", "pairs/s, median (lowest to highest)", "characters/s"]
    rows = [[*head, *(f"ratio to {other}" for other in ALTERNATIVES)]]
    for name, values in by_system.items():
        speed = f"{median(values) * characters:,.0f}"
        ratios = [ratio(values, by_system[other]) for other in ALTERNATIVES]
        rows.append([name, median_and_spread(values), speed, *ratios])
    return markdown(rows)


if __name__ == "__main__":
    main()
