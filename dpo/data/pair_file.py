"""Reads and writes a file of preference pairs; one with mistakes is refused, all of them named.

A JSON list, or one JSON object a line. An object has `positive` and `negative` (prompt and answer
in one text, as in the assignment), or `prompt`, `chosen` and `rejected` (as in Hugging Face's
preference datasets).
"""

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from dpo.data.checks import (
    find_contradictions,
    find_oddities,
    find_text_problems,
    read_pair_texts,
    split_text,
)
from dpo.data.json_reader import read_text, read_values, shorten
from dpo.data.pair import Pair, PairsError, PairsFile
from sft.arithmetic import parse_question
from sft.files import write_atomically
from sft.tokenizer import LOOK_ALIKES, Tokenizer

SHOWN_PROBLEMS = 20  # of a file, and at most of one pair
MOST_PROBLEMS = 1000  # after so many the rest of a file is not read
NO_PAIRS = (
    "line 1: no pairs; write "
    '{"positive": "79-7=? The answer is 72.", "negative": "79-7=? Sorry."}, one a line'
)


def load_pairs(path: str | Path, tokenizer: Tokenizer, max_length: int = 256) -> PairsFile:
    """All pairs of the file and what is odd about them.

    PairsError lists everything that cannot be trained on. Prompt, answer and the newline at its end
    have at most `max_length` characters.
    """
    path, found = Path(path), PairsFile()
    problems, replaced = _read_pairs(read_text(path), tokenizer, max_length, found.pairs)
    problems += find_contradictions(found.pairs)
    if not found.pairs and not problems:
        problems = [NO_PAIRS]
    if problems:
        raise PairsError(_list_problems(path.name, problems))
    if replaced:
        found.warnings.append(_list_replaced(replaced))
    found.warnings += find_oddities(found.pairs)
    return found


def _read_pairs(
    text: str, tokenizer: Tokenizer, max_length: int, pairs: list[Pair]
) -> tuple[list[str], dict[str, list[int]]]:
    """Append the pairs of the text; the problems, and the lines of every look-alike character."""
    problems: list[str] = []
    replaced: dict[str, list[int]] = {}
    for number, (line, value, problem) in enumerate(read_values(text), start=1):
        texts, wrong = (None, [problem]) if problem else read_pair_texts(value, line, replaced)
        if texts:
            prompt, chosen, rejected = texts
            pairs.append(Pair(prompt, chosen, rejected, line))
            for answer in (chosen, rejected):
                wrong += find_text_problems(prompt + answer, tokenizer, max_length)
        # What is wrong with the prompt is found in both texts, but said once.
        for one in dict.fromkeys(wrong[:SHOWN_PROBLEMS]):
            problems.append(f"line {line} (pair {number}): {one}")
        if len(problems) >= MOST_PROBLEMS:
            problems.append(f"line {line}: so many mistakes that the rest of the file was not read")
            break
    return problems, replaced


def _list_problems(name: str, problems: list[str]) -> str:
    """How many there are, and the first of them."""
    shown = [f"{name}: {len(problems)} to mend", *problems[:SHOWN_PROBLEMS]]
    if len(problems) > SHOWN_PROBLEMS:
        shown.append(f"... and {len(problems) - SHOWN_PROBLEMS} more")
    return "\n  ".join(shown)


def _list_replaced(replaced: dict[str, list[int]]) -> str:
    listed = ", ".join(
        f"{old!r} -> {LOOK_ALIKES[old]!r} ({len(lines)}, first in line {lines[0]})"
        for old, lines in replaced.items()
    )
    return f"characters outside the alphabet were replaced: {listed}"


def spread(pairs: list[Pair], most: int) -> list[Pair]:
    """So many of the pairs, evenly spread over the file; all if `most` is 0 or there are fewer."""
    n = min(most or len(pairs), len(pairs))
    return [pairs[i * len(pairs) // n] for i in range(n)]


def write_pairs(path: str | Path, pairs: list[Pair], format: str = "assignment") -> None:
    """Write the pairs, one a line, so that `load_pairs` reads the same again; .jsonl has no list.

    In a list where each form of question stands together, an empty line parts the forms. PairsError
    for a prompt that the assignment's format cannot hold: there a prompt ends at its first question
    mark.
    """
    lines = [json.dumps(_as_object(pair, format), ensure_ascii=False) for pair in pairs]
    if Path(path).suffix == ".jsonl":
        text = "\n".join(lines)
    else:
        text = "[\n" + "".join(_with_separators(pairs, lines)) + "\n]"
    write_atomically(path, f"{text}\n".encode())


def _with_separators(pairs: list[Pair], lines: list[str]) -> Iterator[str]:
    """The lines, with a comma and one or two line breaks after each but the last."""
    asked = [parse_question(pair.prompt) for pair in pairs]
    forms = [question and question.form for question in asked]
    changes = [one != next_one for one, next_one in pairwise(forms)]
    in_blocks = sum(changes) <= len(set(forms))
    for line, is_last_of_form in zip(lines, [*changes, None], strict=True):
        yield line
        if is_last_of_form is not None:
            yield ",\n\n" if is_last_of_form and in_blocks else ",\n"


def _as_object(pair: Pair, format: str) -> dict[str, str]:
    if format == "hf":
        return {"prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected}
    if split_text(pair.prompt) != (pair.prompt, "") or not pair.prompt.endswith("?"):
        raise PairsError(
            f"line {pair.line}: {shorten(pair.prompt)} does not end with its only question mark; "
            "use hf"
        )
    return {"positive": pair.prompt + pair.chosen, "negative": pair.prompt + pair.rejected}
