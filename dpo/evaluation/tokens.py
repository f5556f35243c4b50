"""The single characters of an answer: how likely a model finds each, and the alternatives."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dpo.data.pair import Pair
from model import GPT
from sft.arithmetic import parse_question
from sft.generation import generate_answers, with_end_mark
from sft.sequences import collate_sequences, encode_sequence
from sft.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Character:
    """One character of an answer, its probability there, and the likeliest others with theirs."""

    text: str
    probability: float
    alternatives: list[tuple[str, float]]


@torch.no_grad()
def completion_logps(model: GPT, tokenizer: Tokenizer, prompt: str, answer: str) -> Tensor:
    """log pi in nats of every character of the alphabet, at every place of an answer.

    (L, vocab_size), where L counts the characters of the answer and the newline at its end.
    """
    sequence = encode_sequence(tokenizer.encode, prompt, answer)
    batch = collate_sequences([sequence], model.lm_head.weight.device)
    logits, _ = model(batch.inputs, full_seq=True)  # (1, T, vocab_size)
    return logits[batch.completion_mask].float().log_softmax(dim=-1).cpu()


def answer_logps(model: GPT, tokenizer: Tokenizer, prompt: str, answer: str) -> list[float]:
    """log pi in nats of each character of the answer and of its newline: the sum is log pi(y|x)."""
    ids = torch.tensor(encode_sequence(tokenizer.encode, prompt, answer).completion)  # (L,)
    logps = completion_logps(model, tokenizer, prompt, answer)  # (L, vocab_size)
    return logps.gather(1, ids[:, None])[:, 0].tolist()


def first_difference(chosen: str, rejected: str) -> int:
    """Place of the first character that differs: there the choice between two answers is made."""
    pairs = zip(f"{chosen}\n", f"{rejected}\n", strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(chosen), len(rejected)))


def answer_characters(
    model: GPT, tokenizer: Tokenizer, prompt: str, alternatives: int = 3
) -> list[Character]:
    """The greedy answer to a prompt, and at each place the likeliest other characters.

    The newline is one of its characters if it is what ended the answer.
    """
    [answer] = generate_answers(model, tokenizer, [prompt])
    all_logps = completion_logps(model, tokenizer, prompt, answer)
    characters = []
    for text, logps in zip(with_end_mark(answer), all_logps, strict=False):
        best_first = logps.argsort(descending=True).tolist()  # ids
        ranked = [(tokenizer.itos[i], logps[i].exp().item()) for i in best_first]
        others = [(other, probability) for other, probability in ranked if other != text]
        characters.append(Character(text, dict(ranked)[text], others[:alternatives]))
    return characters


def least_confident(characters: list[Character], count: int = 3) -> str:
    """The characters that the model was least sure of, with their alternatives, in words."""
    lines = []
    for character in sorted(characters, key=lambda c: c.probability)[:count]:
        others = ", ".join(f"{text!r} {share:.1%}" for text, share in character.alternatives)
        lines.append(f"{character.text!r} {character.probability:.1%} (else {others})")
    return "least sure: " + "; ".join(lines)


def describe_familiarity(prompt: str, pairs: list[Pair]) -> str:
    """Whether the fact behind a prompt was held out, and which pairs share it, in words."""
    question = parse_question(prompt)
    if question is None:
        return "not a question of the twelve forms with a whole-number answer"
    same = set()
    for pair in pairs:
        asked = parse_question(pair.prompt)
        if asked and asked.family == question.family:
            same.add(pair.prompt)
    if question.range is None:
        split = "out of the base's range"
    else:
        split = "held out from the base" if question.held_out else "not held out"
    listed = ", ".join(sorted(same)[:4])
    known = f"in the training pairs as {listed}" if same else "in no training pair"
    return f"fact family {question.family}, {split}, {known}; right is {question.answer}"
