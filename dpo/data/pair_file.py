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
    Replaced,
    find_contradictions,
    find_text_problems,
    read_pair_texts,
    split_text,
)
from dpo.data.json_reader import read_values
from dpo.data.oddities import find_oddities
from dpo.data.pair import Findings, Pair, PairsError, PairsFile
from dpo.data.syntax_hints import shorten
from dpo.data.text_reader import read_text
from sft.arithmetic import parse_question
from sft.files import write_atomically
from sft.tokenizer import Tokenizer

NO_PAIRS = (
    "line 1: no pairs; write "
    '{"positive": "79-7=? The answer is 72.", "negative": "79-7=? Sorry."}, one a line'
)


def load_pairs(path: str | Path, tokenizer: Tokenizer, max_length: int = 256) -> PairsFile:
    """All pairs of the file and what is odd about them.

    PairsError lists everything that cannot be trained on, a line a kind. Prompt, answer and the
    newline at its end have at most `max_length` characters.
    """
    path, found = Path(path), PairsFile()
    text = read_text(path)
    characters, unused_keys = Replaced(), Replaced()
    mistakes = _read_pairs(text, tokenizer, max_length, found.pairs, characters, unused_keys)
    if not found.pairs and not mistakes.kinds:
        raise PairsError(f"{path.name}: 1 to mend\n  {NO_PAIRS}")
    if mistakes.kinds:
        listed = [f"{path.name}: {len(mistakes):,} to mend", *mistakes.mistakes()]
        raise PairsError("\n  ".join(listed))
    if characters.found:
        found.warnings.append(f"characters outside the alphabet were replaced: {characters}")
    if unused_keys.found:
        found.warnings.append(f"keys that a pair has not were not used: {unused_keys}")
    found.warnings += find_oddities(found.pairs)
    return found


def _read_pairs(
    text: str,
    tokenizer: Tokenizer,
    max_length: int,
    pairs: list[Pair],
    characters: Replaced,
    unused_keys: Replaced,
) -> Findings:
    """Append the pairs of the text, and note what was replaced and not used; the mistakes."""
    mistakes, numbers = Findings(), []
    alphabet = frozenset(tokenizer.stoi) - {"\n"}
    for line, number, value, problem in read_values(text):
        texts, wrong = None, [problem]
        if not problem:
            texts, wrong = read_pair_texts(value, line, characters, unused_keys)
        if texts:
            prompt, chosen, rejected = texts
            pairs.append(Pair(prompt, chosen, rejected, line))
            numbers.append(number)
            for answer in (chosen, rejected):
                wrong += find_text_problems(prompt + answer, alphabet, max_length)
        # What is wrong with the prompt is found in both texts, but said once.
        for one in {one.kind: one for one in wrong}.values():
            place = f"line {line} (pair {number})" if number else f"line {line}"
            mistakes.add(one.kind, place, one.sentence)
    find_contradictions(pairs, numbers, mistakes)
    return mistakes


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
