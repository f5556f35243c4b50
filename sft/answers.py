"""Text in, text out: the answers of a model to many prompts at once."""

import torch

from model import GPT, NEWLINE_ID
from sft.bar import Bar
from sft.rows import Row, collate
from sft.tokenizer import Tokenizer

MAX_NEW_TOKENS = 80  # an answer that has not ended by then is cut off
PASS_ROWS = 32  # rows in one forward pass over known texts; more leave a CPU's cache


def answer_prompts(
    model: GPT,
    tokenizer: Tokenizer,
    prompts: list[str],
    temperature: float = 0.0,
    max_new_tokens: int = MAX_NEW_TOKENS,
    batch_size: int = 256,
    generator: torch.Generator | None = None,
    progress: str = "",
    guesses: list[str] | None = None,
) -> list[str]:
    """One answer (without its prompt) per prompt, in order; greedy at temperature 0. `progress` labels a bar.

    `guesses`, one per prompt, save time and change no greedy answer (but for ties within rounding): where a guess is
    what the model would write, one pass over it shows that, and only the others are answered character by character.
    """
    device = next(model.parameters()).device
    encoded = [tokenizer.encode(prompt) for prompt in prompts]
    order = sorted(range(len(prompts)), key=lambda i: len(encoded[i]))  # alike lengths together
    answers = [""] * len(prompts)
    was_training = model.training
    model.eval()
    with Bar(len(prompts), progress, "answer") as bar:
        if guesses and temperature == 0:
            room = model.config.block_size
            tried = [i for i in order if _is_whole(guesses[i], min(max_new_tokens, room - len(encoded[i])))]
            given = gives(model, tokenizer, [prompts[i] for i in tried], [guesses[i] for i in tried], bar)
            for i in (i for i, confirmed in zip(tried, given, strict=True) if confirmed):
                answers[i] = guesses[i]
            order = [i for i in order if not answers[i]]
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


def _is_whole(answer: str, most: int) -> bool:
    """Whether generation of at most so many characters would stop exactly where this text ends."""
    return answer.endswith(".") and answer.count(".") == 1 and "\n" not in answer and len(answer) <= most


def as_drawn(answer: str) -> str:
    """The answer with the newline that ended it, unless a full stop or the limit did."""
    return answer if answer.endswith(".") or len(answer) == MAX_NEW_TOKENS else f"{answer}\n"


@torch.no_grad()
def gives(model: GPT, tokenizer: Tokenizer, prompts: list[str], texts: list[str], bar: Bar | None = None) -> list[bool]:
    """Whether greedy decoding writes each text after its prompt: every character is the likeliest one at its place."""
    rows = [Row(tokenizer.encode(p), tokenizer.encode(t)) for p, t in zip(prompts, texts, strict=True)]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    given = [False] * len(rows)
    for start in range(0, len(order), PASS_ROWS):
        indices = order[start : start + PASS_ROWS]
        batch = collate([rows[i] for i in indices], next(model.parameters()).device)
        logits, _ = model(batch.inputs, full_seq=True)
        hits = (logits.argmax(dim=-1) == batch.targets) | ~batch.completion_mask
        for i, hit in zip(indices, hits.all(dim=1).tolist(), strict=True):
            given[i] = hit
        if bar is not None:
            bar.update(sum(given[i] for i in indices))
    return given
