"""Text in, text out: the answers of a model to many prompts at once."""

import torch

from model import GPT, NEWLINE_ID
from sft.progress import Bar
from sft.sequences import Sequence, collate_sequences
from sft.tokenizer import Tokenizer

MAX_NEW_TOKENS = 80  # an answer that has not ended by then is cut off
PASS_ROWS = 32  # sequences in one forward pass over known texts; more leave a CPU's cache


def generate_answers(
    model: GPT,
    tokenizer: Tokenizer,
    prompts: list[str],
    temperature: float = 0.0,
    max_new_tokens: int = MAX_NEW_TOKENS,
    batch_size: int = 256,
    generator: torch.Generator | None = None,
    progress: str = "",
    drafts: list[str] | None = None,
) -> list[str]:
    """One answer (without its prompt) per prompt, in order; greedy at temperature 0.

    `progress` labels a bar. `drafts`, one per prompt, save time and change no greedy answer (but
    for ties within rounding): a draft that one pass confirms is taken, the other answers are
    written out character by character.
    """
    encoded = [tokenizer.encode(prompt) for prompt in prompts]
    todo = sorted(range(len(prompts)), key=lambda i: len(encoded[i]))  # little padding in a batch
    answers = [""] * len(prompts)
    was_training = model.training
    model.eval()
    with Bar(len(prompts), progress, "answer") as bar:
        if drafts and temperature == 0:
            room = model.config.block_size
            whole = [
                i for i in todo if _is_whole(drafts[i], min(max_new_tokens, room - len(encoded[i])))
            ]
            texts = [drafts[i] for i in whole]
            confirmed = greedy_matches(model, tokenizer, [prompts[i] for i in whole], texts, bar)
            for i, is_confirmed in zip(whole, confirmed, strict=True):
                if is_confirmed:
                    answers[i] = drafts[i]
            todo = [i for i in todo if not answers[i]]
        for start in range(0, len(todo), batch_size):
            indices = todo[start : start + batch_size]
            batch = [encoded[i] for i in indices]
            texts = _continue(model, tokenizer, batch, max_new_tokens, temperature, generator)
            for i, text in zip(indices, texts, strict=True):
                answers[i] = text
            bar.update(len(indices))
    model.train(was_training)
    return answers


def _continue(
    model: GPT,
    tokenizer: Tokenizer,
    encoded: list[list[int]],
    max_new_tokens: int,
    temperature: float,
    generator: torch.Generator | None,
) -> list[str]:
    """The answers to one batch of prompts, given as ids."""
    lengths = torch.tensor([len(ids) for ids in encoded])  # (B,)
    idx = torch.full((len(encoded), int(lengths.max())), NEWLINE_ID)  # (B, longest prompt)
    for row, ids in enumerate(encoded):
        idx[row, : lengths[row]] = torch.tensor(ids)
    out, _ = model.generate(
        idx.to(model.lm_head.weight.device),
        max_new_tokens,
        temperature,
        lengths=lengths,
        generator=generator,
    )
    # Each row goes on where its own prompt ends; what stands behind its answer is newlines.
    rows = zip(lengths.tolist(), out.tolist(), strict=True)
    return [tokenizer.decode(ids[length:]).rstrip("\n") for length, ids in rows]


def _is_whole(answer: str, most: int) -> bool:
    """Whether an answer of at most `most` characters would stop exactly where this text ends."""
    ends_once = answer.endswith(".") and answer.count(".") == 1
    return ends_once and "\n" not in answer and len(answer) <= most


def with_end_mark(answer: str) -> str:
    """The answer with the newline that ended it, unless a full stop or the limit did."""
    ended = answer.endswith(".") or len(answer) == MAX_NEW_TOKENS
    return answer if ended else f"{answer}\n"


@torch.no_grad()
def greedy_matches(
    model: GPT, tokenizer: Tokenizer, prompts: list[str], texts: list[str], bar: Bar | None = None
) -> list[bool]:
    """Whether greedy decoding writes each text after its prompt.

    One pass shows it: each character must be the likeliest one after all that stands before it.
    """
    sequences = [
        Sequence(tokenizer.encode(prompt), tokenizer.encode(text))
        for prompt, text in zip(prompts, texts, strict=True)
    ]
    order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
    matches = [False] * len(sequences)
    for start in range(0, len(order), PASS_ROWS):
        indices = order[start : start + PASS_ROWS]
        batch = collate_sequences([sequences[i] for i in indices], model.lm_head.weight.device)
        logits, _ = model(batch.inputs, full_seq=True)  # (B, T, vocab_size)
        hits = (logits.argmax(dim=-1) == batch.targets) | ~batch.completion_mask  # (B, T)
        for i, hit in zip(indices, hits.all(dim=1).tolist(), strict=True):
            matches[i] = hit
        if bar is not None:
            bar.update(sum(matches[i] for i in indices))
    return matches
