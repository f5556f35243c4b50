"""A base that has nothing to bring out, known by what it does; and the two roads from there.

DPO makes likelier what a base can say. A base that never says a right answer has to be taught.
"""

import copy
import time

import torch

from dpo.data.batches import batches, tokenize_pairs
from dpo.data.pair import Pair
from dpo.evaluation.replies import judge, sample_questions
from dpo.training.logps import compute_reference_logps
from dpo.training.step import train_step
from model import GPT, GPTConfig
from sft.arithmetic import REFUSAL
from sft.corpus import Corpus
from sft.generation import generate_answers
from sft.optimizers import make_optimizers, make_schedulers
from sft.progress import Bar
from sft.sequences import encode_sequence
from sft.tokenizer import Tokenizer
from sft.train import BATCH_LINES, STAGES, WEIGHT_DECAY, sft_step, split_batch

QUESTIONS, DRAWS = 4, 64  # by which a blank base is recognised; answers drawn to each
[SHORT] = STAGES["short"]
TINY_STEPS, TINY_LINES = 94, 64  # that make the tiny blank base, and lines in each
MANY_PAIRS, BATCH_PAIRS, PASSES = 40_000, 128, 2  # the last two as in dpo/settings/blank_base.py


def knows_nothing(model: GPT, tokenizer: Tokenizer, seed: int = 1) -> bool:
    """Whether none of 64 answers, drawn at temperature 1 to each of four questions, is right.

    The questions are sums and differences of seen families. A right number without a reason is
    something to bring out, too.
    """
    questions = sample_questions("seen/additive", QUESTIONS, seed)
    asked = [question for question in questions for _ in range(DRAWS)]
    prompts, generator = [q.text for q in asked], torch.Generator().manual_seed(seed)
    texts = generate_answers(model, tokenizer, prompts, temperature=1.0, generator=generator)
    return not any(
        judge(question, text).answer for question, text in zip(asked, texts, strict=True)
    )


def describe_roads(base: str, model: GPT, tokenizer: Tokenizer) -> str:
    """A box of text: that this base can only be taught, how, and how long that takes here.

    Empty for a base that knows something. `base` is the file of the model. The minutes come from
    one step of each road, on a copy.
    """
    if not knows_nothing(model, tokenizer):
        return ""
    with Bar(2, "timing a step of each road", "step") as bar:
        pairs_minutes = MANY_PAIRS * _seconds_for_a_pair(model, tokenizer) / 60
        bar.update()
        lines_minutes = SHORT.lines * _seconds_for_a_line(model, tokenizer) / 60
        bar.update()
    return _in_box(
        f"{base} has nothing that DPO could bring out: of {DRAWS} answers drawn to each of",
        f"{QUESTIONS} questions none is right. It has to be taught, on one of two roads.",
        "",
        f"1. DPO with NLL on {MANY_PAIRS:,} pairs, {_about(pairs_minutes)} here:",
        f"   python -m dpo.make_pairs --n={MANY_PAIRS} --negatives=refusal --out=runs/many.json",
        f"   python -m dpo.train dpo/settings/blank_base.py --base={base} "
        "--pairs=runs/many.json --out=runs/taught",
        "",
        f"2. {SHORT.lines:,} lines of arithmetic, {_about(lines_minutes)} here, then DPO with NLL:",
        f"   python -m sft.train --arithmetic=short --init={base} --out=runs/calculates.pt",
        "   python -m dpo.make_pairs --n=3072 --out=runs/pairs.json",
        "   python -m dpo.train dpo/settings/large_file.py --pairs=runs/pairs.json "
        "--base=runs/calculates.pt --nll_coef=1 --base_lr=1e-4 --out=runs/taught",
    )


def _seconds_for_a_line(model: GPT, tokenizer: Tokenizer) -> float:
    """From one step of `sft.train --arithmetic=short`."""
    lines = Corpus(1, SHORT.ranges).draw(BATCH_LINES, SHORT.mixture)
    sequences = [encode_sequence(tokenizer.encode, *line) for line in lines]
    pupil = copy.deepcopy(model).train()
    optimizers = make_optimizers(pupil, "muon", SHORT.adamw_lr, SHORT.muon_lr)
    begun = time.perf_counter()
    sft_step(pupil, optimizers, split_batch(sequences, 16))  # as there on a CPU
    return (time.perf_counter() - begun) / BATCH_LINES


def _seconds_for_a_pair(model: GPT, tokenizer: Tokenizer) -> float:
    """In all passes and in the reference's, from one step of dpo/settings/blank_base.py."""
    questions = sample_questions("seen/additive", BATCH_PAIRS, seed=1)
    pairs = [Pair(q.text, q.right_answer, REFUSAL, line) for line, q in enumerate(questions, 1)]
    tokenized, device = tokenize_pairs(tokenizer, pairs), model.lm_head.weight.device
    pupil = copy.deepcopy(model)
    optimizers = make_optimizers(pupil, "muon", lr=1e-3, muon_lr=1e-2)
    begun = time.perf_counter()
    logps = compute_reference_logps(model, tokenized)
    reference_known = time.perf_counter()
    [micro_batches] = batches(tokenized, logps, BATCH_PAIRS, seed=1, epochs=1, device=device)
    schedulers = make_schedulers(optimizers, steps=1)
    train_step(pupil, micro_batches, optimizers, schedulers, beta=0.1, nll_coef=1.0)
    one_pass = time.perf_counter() - reference_known
    return (reference_known - begun + PASSES * one_pass) / BATCH_PAIRS


def _about(minutes: float) -> str:
    if minutes < 90:
        return f"about {max(1, round(minutes))} min"
    return f"about {round(minutes / 60)} h"


def _in_box(*lines: str) -> str:
    width = max(map(len, lines))
    rule = f"+{'-' * (width + 2)}+"
    return "\n".join([rule, *(f"| {line:<{width}} |" for line in lines), rule])


# A base that shows it


def make_tiny_blank(tokenizer: Tokenizer, seed: int, device: torch.device) -> GPT:
    """A small model that refuses every sum and has seen none answered; ten seconds on two cores."""
    torch.manual_seed(seed)
    size = {"n_layer": 3, "n_head": 4, "n_embd": 96}
    model = GPT(GPTConfig(vocab_size=len(tokenizer), dropout=0.0, **size)).to(device)
    optimizers, corpus = make_optimizers(model, "muon", 3e-3, 0.02, WEIGHT_DECAY), Corpus(seed)
    schedulers = make_schedulers(optimizers, TINY_STEPS)
    for _ in range(TINY_STEPS):
        lines = corpus.draw(TINY_LINES, {"refusal": 50, "everyday": 50})
        sequences = [encode_sequence(tokenizer.encode, *line) for line in lines]
        sft_step(model, optimizers, split_batch(sequences, TINY_LINES))
        for scheduler in schedulers:
            scheduler.step()
    return model.eval()
