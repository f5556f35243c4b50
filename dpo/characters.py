"""The single characters of an answer: how likely a model finds each, and what it might have written instead."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dpo.arithmetic import domain, parse_question
from dpo.pairs import Pair
from model import GPT
from sft.answers import answer_prompts, as_drawn
from sft.rows import collate, encode_row
from sft.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Character:
    """One character of an answer, its probability there, and the likeliest others with theirs."""

    text: str
    probability: float
    rivals: list[tuple[str, float]]


@torch.no_grad()
def completion_logps(model: GPT, tokenizer: Tokenizer, prompt: str, answer: str) -> Tensor:
    """log pi of every character at every place of the answer and of the newline that ends it: (length + 1, V), nats."""
    batch = collate([encode_row(tokenizer, prompt, answer)], next(model.parameters()).device)
    logits, _ = model(batch.inputs, full_seq=True)
    return logits[batch.completion_mask].float().log_softmax(dim=-1).cpu()


def answer_logps(model: GPT, tokenizer: Tokenizer, prompt: str, answer: str) -> list[float]:
    """Log-probability of each character of the answer and of the newline after it, in nats; they sum to its logp."""
    ids = torch.tensor(encode_row(tokenizer, prompt, answer).completion)
    return completion_logps(model, tokenizer, prompt, answer).gather(1, ids[:, None])[:, 0].tolist()


def first_difference(chosen: str, rejected: str) -> int:
    """Place of the first character where two answers part: there the choice between them is made."""
    pairs = zip(f"{chosen}\n", f"{rejected}\n", strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(chosen), len(rejected)))


def answer_characters(model: GPT, tokenizer: Tokenizer, prompt: str, rivals: int = 3) -> list[Character]:
    """The greedy answer to a prompt, character by character, with the likeliest other characters at each place.

    The newline is one of them if it is what ended the answer.
    """
    [answer] = answer_prompts(model, tokenizer, [prompt])
    characters = []
    for text, logps in zip(as_drawn(answer), completion_logps(model, tokenizer, prompt, answer), strict=False):
        ranked = [(tokenizer.itos[i], logps[i].exp().item()) for i in logps.argsort(descending=True).tolist()]
        others = [(other, probability) for other, probability in ranked if other != text]
        characters.append(Character(text, dict(ranked)[text], others[:rivals]))
    return characters


def least_sure(characters: list[Character], count: int = 3) -> str:
    """The characters that the model was least sure of, with their rivals, in words."""
    lines = []
    for character in sorted(characters, key=lambda c: c.probability)[:count]:
        rivals = ", ".join(f"{text!r} {probability:.1%}" for text, probability in character.rivals)
        lines.append(f"{character.text!r} {character.probability:.1%} (rivals {rivals})")
    return "least sure of " + "; ".join(lines)


def acquaintance(prompt: str, pairs: list[Pair]) -> str:
    """Whether the fact behind a prompt was held out, and which pairs share it, in words."""
    question = parse_question(prompt)
    if question is None:
        return "not a question of the twelve forms with a whole-number answer"
    same = {pair.prompt for pair in pairs if (q := parse_question(pair.prompt)) and q.family == question.family}
    inside = question in domain(question.form)
    split = "held out from the base" if question.held_out else "not held out" if inside else "out of the base's range"
    known = f"in the training pairs as {', '.join(sorted(same)[:4])}" if same else "in no training pair"
    return f"fact family {question.family}, {split}, {known}; right is {question.answer}"
