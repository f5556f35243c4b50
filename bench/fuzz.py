"""Files of pairs with a mistake at a random place, a thousand of each kind: `python -m bench.fuzz`.

The file is good but for that place, a pair a line or all pairs in one line. PROMISES says what must
hold. Prints how often each did; exit code 1 if one did not. `python -m bench.fuzz --times=20
--pairs=200` takes seconds.
"""

import json
import random
import re
import tempfile
from ast import literal_eval
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from configurator import run_program
from dpo.data.json_reader import read_values
from dpo.data.pair import PairsError
from dpo.data.pair_file import load_pairs
from dpo.evaluation.tables import markdown
from sft.progress import Bar
from sft.tokenizer import Tokenizer, load_tokenizer

MOST_LINES = 20
MOST_PAIRS = 4_500  # sums of two numbers of two digits, each asked once
PROMISES = {
    "place": "what is said names the mistake's line and pair, and no other",
    "short": f"at most {MOST_LINES} lines are said",
    "rest": "all other pairs are read",
    "kept": "what was read is still read after the repair that is advised",
}


@dataclass
class Config:
    """python -m bench.fuzz: mistakes at random places of a good file of pairs."""

    times: int = 1000  # files of each kind of mistake
    pairs: int = 1000  # pairs of a file, 4500 at most
    seed: int = 1  # of the places


def good_pairs(n: int) -> list[str]:
    """So many pairs as JSON, each of another sum."""
    sums = [(a, b) for a in range(10, 60) for b in range(10, 100)]
    pairs = [
        {"negative": f"{a}+{b}=? Sorry.", "positive": f"{a}+{b}=? The answer is {a + b}."}
        for a, b in sums[:n]
    ]
    return [json.dumps(pair) for pair in pairs]


# Kinds of mistakes: each makes one of a pair and the comma behind it.

Mistake = Callable[[str, random.Random], str]
OTHER = '{"negative": "1+1=? Sorry.", "positive": "1+1=? The answer is 2."}'
THEIRS = f"\n=======\n{OTHER},\n>>>>>>> more\n"


def _without(part: str) -> Mistake:
    """One of the places where `part` stands is left out."""

    def leave_out(pair: str, rng: random.Random) -> str:
        at = rng.choice([match.start() for match in re.finditer(re.escape(part), pair)])
        return pair[:at] + pair[at + len(part) :]

    return leave_out


def _instead(old: str, new: str) -> Mistake:
    return lambda pair, rng: pair.replace(old, new)


def _once(old: str, new: str) -> Mistake:
    return lambda pair, rng: pair.replace(old, new, 1)


def _before(text: str) -> Mistake:
    return lambda pair, rng: text + pair


MISTAKES: dict[str, Mistake] = {
    "a quote lacks": _without('"'),
    "the first brace lacks": _without("{"),
    "the last brace lacks": _without("}"),
    "a colon lacks": _without('":'),
    "the comma between the texts lacks": _instead('", "', '" "'),
    "the comma between two pairs lacks": lambda pair, rng: f"{pair[:-1]} {OTHER},",
    "a comma in the pair too many": _instead("}", ",}"),
    "a comma between the pairs too many": lambda pair, rng: f"{pair},",
    "single quotes": _instead('"', "'"),
    "curly quotes": _instead('"', "\u201c"),
    "a comment in the pair": _instead("}", " // why\n}"),
    "a comment before the pair": _before("/* why */ "),
    "text before the pair": _before("Some more: "),
    "text in a line of its own": _before("and so on\n"),
    "a line of Markdown": _before("```json\n"),
    "an unfinished merge": lambda pair, rng: f"\n<<<<<<< HEAD\n{pair}{THEIRS}",
    "an invisible character": lambda pair, rng: rng.choice("\u200b\ufeff\u00a0") + pair,
    "another character": _instead("Sorry", "S\u00f3rry"),
    "an HTML code": _instead("Sorry", "I don&#39;t know"),
    "UTF-8 read as Windows-1252": _instead("Sorry", "I don\u00e2\u20ac\u2122t know"),
    "a line break in a text": _once("? ", "?\n"),
    "a tab in a text": _once("? ", "?\t"),
    "a backslash in a text": _once("? ", "? \\ "),
    "a list in the list": lambda pair, rng: f"[{pair[:-1]}],",
    "a list that ends and another": lambda pair, rng: f"{pair[:-1]}],[",
    "a list that does not end": _before("["),
    "a key misspelt": _instead("positive", "postive"),
    "a key twice": _instead("positive", "negative"),
    "no text": _instead('"negative": "', '"negative": null, "n": "'),
    "no number": _instead('"negative": "', '"negative": NaN, "n": "'),
    "no question mark": _instead("?", ""),
    "a bare refusal": lambda pair, rng: re.sub(r": \"[\d+=]+\? Sorry", ': "Sorry', pair),
    "two questions": lambda pair, rng: re.sub(r"\d\+", "1234+", pair, count=1),
    "a number": lambda pair, rng: "17,",
}


def _slip(change: Callable[[str, random.Random], str]) -> Mistake:
    """A slip at one character of the pair, its comma apart."""

    def slip(pair: str, rng: random.Random) -> str:
        at = rng.randrange(1, len(pair) - 2)
        return pair[:at] + change(pair[at], rng) + pair[at + 1 :]

    return slip


KEYS = "{}[]\",:'\\/x7? "  # what a finger may hit
SLIPS: dict[str, Mistake] = {  # after which the pair may still be good
    "a character lost": _slip(lambda character, rng: ""),
    "a character twice": _slip(lambda character, rng: 2 * character),
    "a character replaced": _slip(lambda character, rng: rng.choice(KEYS)),
    "a character too many": _slip(lambda character, rng: character + rng.choice(KEYS)),
}
KINDS = MISTAKES | SLIPS


# One file


@dataclass(frozen=True)
class BrokenFile:
    """A file with one mistake."""

    text: str
    may_be_good: bool
    lines: range  # that the mistake stands in
    numbers: range  # of the pairs that it stands in
    rest: list[str]  # all other pairs


def break_file(kind: str, pairs: list[str], rng: random.Random) -> BrokenFile:
    """A mistake of this kind at a random place, which is not the last pair."""
    at, between = rng.randrange(len(pairs) - 1), rng.choice("\n ")
    parts = [f"{pair}," for pair in pairs[:-1]] + pairs[-1:]
    parts[at] = broken = KINDS[kind](parts[at], rng)
    line = at + 2 if between == "\n" else 1
    values = max(1, broken.count("{"), broken.count("}"))  # that it can be taken for
    return BrokenFile(
        between.join(["[", *parts, "]"]),
        kind in SLIPS,
        range(line, line + broken.count("\n") + 1),
        range(at + 1, at + 1 + values),
        pairs[:at] + pairs[at + 1 :],
    )


def read_pairs(text: str) -> set[str]:
    """All values that are read, whatever else the text holds."""
    return {json.dumps(entry.value) for entry in read_values(text) if not entry.problem}


def check(file: BrokenFile, path: Path, tokenizer: Tokenizer) -> dict[str, bool]:
    """Which of PROMISES are kept where this file is read; it is written to `path`."""
    path.write_text(file.text, encoding="utf-8")
    try:
        lines, is_good = load_pairs(path, tokenizer).warnings, True
    except PairsError as error:
        lines, is_good = str(error).splitlines(), False
    read = read_pairs(file.text)
    return {
        "place": file.may_be_good if is_good else _names_the_place(lines, file),
        "short": len(lines) <= MOST_LINES,
        "rest": read.issuperset(file.rest),
        "kept": read <= read_pairs(repair(file.text)),
    }


def _names_the_place(lines: list[str], file: BrokenFile) -> bool:
    """Whether the message names a place, and only places that the mistake stands in."""
    places = re.findall(r"\bline (\d+)(?: \(pair (\d+)\))?", "\n".join(lines))
    return bool(places) and all(
        int(line) in file.lines and (not number or int(number) in file.numbers)
        for line, number in places
    )


# What is advised, done. A repair that only adds something can lose nothing.

_COMMA = re.compile(r",(?=\s*[,\]])|(?<=[\[\]])\s*,|^\s*,")
_INNER = re.compile(r"(?<=[\[,])\s*\[(?=\s*\{)|^\[(?=\{)")


def _remove_text(line: str, said: re.Match) -> str:
    return line.replace(literal_eval(said[1]), "", 1)


def _put_a_space(line: str, said: re.Match) -> str:
    return line.replace(chr(int(said[1], 16)), " ")


REPAIRS: dict[str, Callable[[str, re.Match], str]] = {  # by what is said: a line as it becomes
    r"text [^:]+: (.+?)(?:\.\.\.)?; it is no pair, remove just that": _remove_text,
    r"a comma that parts nothing": lambda line, said: _COMMA.sub("", line, count=1),
    r"a comma before }": lambda line, said: re.sub(r",\s*}", "}", line, count=1),
    r"a comment": lambda line, said: re.sub(r"/\*.*?\*/|//.*", "", line, count=1),
    r"an unfinished merge|a line of Markdown": lambda line, said: "",
    r"an invisible character .*U\+(\w+)": _put_a_space,
    r"a list inside the list": lambda line, said: _INNER.sub(" ", line, count=1),
}  # fmt: skip


def repair(text: str) -> str:
    """The text after all that is advised to be removed, in the lines that are named, is removed."""
    lines = text.split("\n")
    for entry in read_values(text):
        for advice, change in REPAIRS.items() if entry.problem else ():
            if said := re.search(advice, entry.problem.sentence):
                lines[entry.line - 1] = change(lines[entry.line - 1], said)
    return "\n".join(lines)


# All files


def fuzz(kind: str, times: int, pairs: int, seed: int = 1) -> Iterator[tuple[str, list[str]]]:
    """The text of each file with a mistake of this kind, and the promises that it breaks."""
    rng, good, tokenizer = random.Random(f"{seed} {kind}"), good_pairs(pairs), load_tokenizer()
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(times):
            file = break_file(kind, good, rng)
            kept = check(file, Path(folder, "pairs.json"), tokenizer)
            yield file.text, [promise for promise, holds in kept.items() if not holds]


def main(config: Config) -> None:
    if config.times < 1 or not 2 <= config.pairs <= MOST_PAIRS:
        raise ValueError(f"times must be at least 1, and pairs from 2 to {MOST_PAIRS}")
    rows, all_broken = [["mistake", *PROMISES]], 0
    with Bar(len(KINDS) * config.times, "reading", "file") as bar:
        for kind in KINDS:
            broken = Counter()
            for _, promises in fuzz(kind, config.times, config.pairs, config.seed):
                broken.update(promises)
                bar.update()
            rows.append([kind, *(f"{config.times - broken[promise]:,}" for promise in PROMISES)])
            all_broken += broken.total()
    legend = "\n".join(f"{promise}: {meaning}" for promise, meaning in PROMISES.items())
    print(
        f"\n{config.times:,} files of {config.pairs:,} pairs a kind\n{legend}\n\n{markdown(rows)}"
    )
    if all_broken:
        raise ValueError(f"{all_broken:,} promises were broken")


if __name__ == "__main__":
    run_program(main, Config())
