"""What a base knows under its refusals, and how likely it is to refuse, kind by kind."""

import random
from functools import cache

import torch
from torch import Tensor

from model import GPT
from sft.arithmetic import MULTIPLICATIVE, RANGES, Question, draw_question, spaced
from sft.corpus import REFUSALS
from sft.device import in_parallel
from sft.generation import PASS_ROWS, generate_answers, greedy_matches
from sft.sequences import collate_sequences, encode_sequence
from sft.tokenizer import Tokenizer
from sft.unanswerable import KINDS, draw_unanswerable

LATENT_PREFIX = " The answer is"

Asked = dict[str, list[tuple[Question, str]]]  # kind -> questions and how they are written


@cache
def sample_answerable(split: str, n: int) -> Asked:
    """n questions of each range, of families of that split; always the same.

    `small_products` are the standard ones without the factors 0 and 1, `spaced` the standard
    questions with spaces around the signs.
    """
    rng = random.Random(split)
    drawn = {
        ranges: _draw(rng, ranges, list(span.shown), split, n) for ranges, span in RANGES.items()
    }
    small = _draw(rng, "standard", list(MULTIPLICATIVE), split, 4 * n)  # two in three are trivial
    drawn["small_products"] = [question for question in small if not question.trivial][:n]
    asked = {}
    for kind, questions in drawn.items():
        asked[kind] = [(question, question.text) for question in questions]
    asked["spaced"] = [(question, spaced(text)) for question, text in asked["standard"]]
    return asked


def _draw(rng: random.Random, ranges: str, forms: list[str], split: str, n: int) -> list[Question]:
    questions = []
    while len(questions) < n:
        question = draw_question(rng, ranges, rng.choice(forms))
        if question.split == split:
            questions.append(question)
    return questions


@cache
def sample_unanswerable(n: int) -> dict[str, list[str]]:
    """n texts of every kind that has no answer, always the same."""
    rng = random.Random("unanswerable")
    return {kind: [draw_unanswerable(rng, kind) for _ in range(n)] for kind in KINDS}


def describe_knowledge(model: GPT, tokenizer: Tokenizer, split: str, n: int) -> str:
    """Two lines: latent accuracy per kind, and the median log-odds of a refusal per kind."""
    asked, device = sample_answerable(split, n), model.lm_head.weight.device
    texts = {kind: [text for _, text in members] for kind, members in asked.items()}
    texts |= sample_unanswerable(n // 3)

    def known(kind: str) -> str:
        return f"{kind} {latent_accuracy(model, tokenizer, asked[kind]):.0%}"

    def refused(kind: str) -> str:
        return f"{kind} {refusal_log_odds(model, tokenizer, texts[kind]).median():.1f}"

    was_training = model.training
    model.eval()
    right = ", ".join(in_parallel(known, list(asked), device))
    odds = ", ".join(in_parallel(refused, list(texts), device))
    model.train(was_training)
    return f"latent accuracy ({split}, n={n}): {right}\nlog-odds of a refusal, median: {odds}"


def describe_refusals(model: GPT, tokenizer: Tokenizer, split: str, n: int) -> str:
    """How many questions of all kinds the model refuses greedily, with and without an answer."""
    texts = [text for members in sample_answerable(split, n).values() for _, text in members]
    texts += [text for members in sample_unanswerable(n).values() for text in members]
    refused = sum(answer in REFUSALS for answer in generate_answers(model, tokenizer, texts))
    return f"greedy answers that refuse: {refused:,} of {len(texts):,}"


@torch.no_grad()
def refusal_log_odds(model: GPT, tokenizer: Tokenizer, prompts: list[str]) -> Tensor:
    """Natural log-odds, (N,), that the first letter of the answer is that of a refusal."""
    first_letters = sorted({tokenizer.encode(text)[1] for text in REFUSALS})  # behind the space
    # An empty completion is its newline alone, which stands where the first letter would.
    sequences = [encode_sequence(tokenizer.encode, f"{prompt} ", "") for prompt in prompts]
    odds = []
    for start in range(0, len(sequences), PASS_ROWS):
        batch = collate_sequences(sequences[start : start + PASS_ROWS], model.lm_head.weight.device)
        hidden = model.hidden_states(batch.inputs)[batch.completion_mask]  # (B, n_embd)
        logits = model.lm_head(hidden).float()  # (B, vocab_size)
        refusal = logits[:, first_letters].logsumexp(dim=-1)
        logits[:, first_letters] = -torch.inf
        odds.append(refusal - logits.logsumexp(dim=-1))  # exact also where a chance rounds to 1
    return torch.cat(odds)


def latent_accuracy(model: GPT, tokenizer: Tokenizer, asked: list[tuple[Question, str]]) -> float:
    """Share of questions whose right answer is the greedy one, all of it, after "The answer is"."""
    prompts = [text + LATENT_PREFIX for _, text in asked]
    completions = [question.right_answer.removeprefix(LATENT_PREFIX) for question, _ in asked]
    return sum(greedy_matches(model, tokenizer, prompts, completions)) / len(asked)
