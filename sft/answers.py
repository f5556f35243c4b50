"""Text in, text out: the answers of a model to many prompts at once."""

import sys

import torch
from tqdm import tqdm

from model import GPT, NEWLINE_ID
from sft.tokenizer import Tokenizer


def answer_prompts(
    model: GPT,
    tokenizer: Tokenizer,
    prompts: list[str],
    temperature: float = 0.0,
    max_new_tokens: int = 80,
    batch_size: int = 256,
    generator: torch.Generator | None = None,
    progress: str = "",
) -> list[str]:
    """One answer (without its prompt) per prompt, in order; greedy at temperature 0. `progress` labels a bar."""
    device = next(model.parameters()).device
    encoded = [tokenizer.encode(prompt) for prompt in prompts]
    order = sorted(range(len(prompts)), key=lambda i: len(encoded[i]))  # alike lengths together
    answers = [""] * len(prompts)
    was_training = model.training
    model.eval()
    with tqdm(
        total=len(prompts), desc=progress, unit="answer", disable=not progress, mininterval=1.0, file=sys.stdout
    ) as bar:
        for start in range(0, len(order), batch_size):
            indices = order[start : start + batch_size]
            lengths = torch.tensor([len(encoded[i]) for i in indices])
            idx = torch.full((len(indices), int(lengths.max())), NEWLINE_ID)
            for row, i in enumerate(indices):
                idx[row, : lengths[row]] = torch.tensor(encoded[i])
            out, _ = model.generate(idx.to(device), max_new_tokens, temperature, lengths=lengths, generator=generator)
            for i, length, ids in zip(indices, lengths.tolist(), out.tolist(), strict=True):
                answers[i] = tokenizer.decode(ids[length:]).rstrip("\n")
            bar.update(len(indices))
    model.train(was_training)
    return answers
