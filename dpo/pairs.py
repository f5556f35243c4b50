"""Reads and checks a file of preference pairs: every problem at once, each with its line and its remedy.

A JSON list, or one JSON object a line, with `positive` and `negative` (prompt and answer in one text, as in the
assignment) or with `prompt`, `chosen` and `rejected` (as in Hugging Face's preference datasets).
`python -m dpo.pairs FILE` checks a file; --report says what is in it, --convert=FILE writes it in the other format.
"""

import difflib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from configurator import run_program
from dpo.arithmetic import grade, parse_answer, parse_question
from sft.files import open_plain, write_atomically
from sft.tokenizer import LOOK_ALIKES, Tokenizer, describe, load_tokenizer, remedy

KEYS = ({"positive", "negative"}, {"prompt", "chosen", "rejected"})
FORMATS = ("hf", "assignment")
SHOWN_PROBLEMS = 20
NEAR = 200  # characters around a mistake that are looked at
MOST_PROBLEMS = 1000
MOST_SYNTAX_ERRORS = 100  # after so many the rest of the file is not read: it is something else than pairs
LARGEST_FILE = 256 * 2**20  # bytes


@dataclass
class Config:
    """python -m dpo.pairs FILE ...: check files of pairs; exit code 1 if one cannot be trained on."""

    files: tuple[str, ...] = ("dpo/pos_neg_pairs.json",)  # files to check
    report: bool = False  # also say what the files hold, and what is odd about that
    figure: str = ""  # also draw what the file holds into this picture
    convert: str = ""  # also write the pairs to this file: .jsonl gives one object a line, anything else a list
    format: str = "hf"  # of that file: hf (prompt, chosen, rejected) or assignment (negative, positive)
    max_length: int = 256  # longest prompt and answer, in characters


class PairsError(ValueError):
    """The pairs file cannot be used; the message lists what to mend, line by line."""


@dataclass(frozen=True, slots=True)
class Pair:
    prompt: str
    chosen: str  # the two answers, as they follow the prompt
    rejected: str
    line: int  # where it starts in its file


@dataclass
class PairsFile:
    pairs: list[Pair] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def load_pairs(path: str | Path, tokenizer: Tokenizer, max_length: int = 256) -> PairsFile:
    """All pairs of the file and what is odd about them; PairsError lists everything that cannot be trained on."""
    path, problems, found = Path(path), [], PairsFile()
    replaced: dict[str, list[int]] = {}  # lines of every look-alike
    for number, (line, value, problem) in enumerate(_objects(_read_text(path)), start=1):
        texts, wrong = (None, [problem]) if problem else _texts(value, line, replaced)
        if texts:
            prompt, chosen, rejected = texts
            found.pairs.append(Pair(prompt, chosen, rejected, line))
            wrong = [
                p for text in (prompt + chosen, prompt + rejected) for p in _text_problems(text, tokenizer, max_length)
            ]
        problems += [f"line {line} (pair {number}): {text}" for text in dict.fromkeys(wrong[:SHOWN_PROBLEMS])]
        if len(problems) >= MOST_PROBLEMS:
            problems.append(f"line {line}: so many mistakes that the rest of the file was not read")
            break
    problems += _contradictions(found.pairs)
    if not found.pairs and not problems:
        problems = [
            'line 1: no pairs; write {"negative": "79-7=? Sorry.", "positive": "79-7=? The answer is 72."}, one a line'
        ]
    if problems:
        more = f"\n  ... and {len(problems) - SHOWN_PROBLEMS} more" if len(problems) > SHOWN_PROBLEMS else ""
        raise PairsError(f"{path.name}: {len(problems)} to mend\n  " + "\n  ".join(problems[:SHOWN_PROBLEMS]) + more)
    if replaced:
        listed = ", ".join(
            f"{old!r} -> {LOOK_ALIKES[old]!r} ({len(lines)}, first in line {lines[0]})"
            for old, lines in replaced.items()
        )
        found.warnings.append(f"characters outside the alphabet were replaced: {listed}")
    found.warnings += _oddities(found.pairs)
    return found


def _read_text(path: Path) -> str:
    with open_plain(path, LARGEST_FILE, PairsError, "`python -m dpo.make_pairs` makes a file of pairs") as file:
        data = file.read(LARGEST_FILE)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        looks = "UTF-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "another encoding, such as Windows-1252"
        line = data[: error.start].count(b"\n") + 1
        raise PairsError(
            f"{path.name} line {line}: the file is not UTF-8, it looks like {looks}; save it as UTF-8"
        ) from None


def _objects(text: str) -> Iterator[tuple[int, object, str]]:
    """(line, value, problem) of every element; after a syntax error, go on at the next line that opens an object."""
    decoder = json.JSONDecoder(object_pairs_hook=_no_duplicate_keys, parse_constant=_no_constant)
    position, line, counted = _skip_space(text, 0), 1, 0
    in_list = text.startswith("[", position)
    position += in_list
    expect_comma, syntax_errors = False, 0
    while True:
        position = _skip_space(text, position)
        line, counted = line + text.count("\n", counted, position), position
        if position >= len(text) or (in_list and text[position] == "]"):
            break
        if in_list and expect_comma:
            expect_comma = False
            if text[position] == ",":
                position += 1
                if text.startswith("]", _skip_space(text, position)):
                    yield line, None, "comma after the last pair; remove it"
                continue
            yield line, None, "no comma between this pair and the one before; add it"
        try:
            value, position = decoder.raw_decode(text, position)
            yield line, value, ""
            expect_comma = True
        except (ValueError, RecursionError) as error:
            yield getattr(error, "lineno", line), None, _syntax_hint(error, text)
            position, expect_comma, syntax_errors = _next_object(text, position), False, syntax_errors + 1
            if syntax_errors == MOST_SYNTAX_ERRORS:
                yield line, None, f"the {MOST_SYNTAX_ERRORS}th mistake of its kind; the rest of the file was not read"
                return
    if in_list and position >= len(text):
        yield line, None, "the list is not closed; end the file with ]"
    elif in_list and (rest := text[position + 1 :].strip()):
        yield line, None, f"text after the end of the list: {rest[:30]!r}; remove it"


def _skip_space(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position


def _next_object(text: str, position: int) -> int:
    """Where to go on after a mistake at `position`: the next line that opens an object, or the end of the list."""
    after = position + 1
    while (position := text.find("\n", position)) >= 0:
        position = _skip_space(text, position)
        if text.startswith("{", position):
            return position
    return max(after, len(text.rstrip().removesuffix("]")))


def _syntax_hint(error: Exception, text: str) -> str:
    if isinstance(error, PairsError):
        return str(error)
    if not isinstance(error, json.JSONDecodeError):
        return "nested too deeply or a number too long; a pair holds texts only"
    start = max(0, error.pos - NEAR)
    before, rest = text[start : error.pos].rstrip(), text[error.pos : error.pos + NEAR].lstrip()
    hints = {
        "'": "single quotes; JSON wants double quotes",
        "\u201c": "curly quotes; write straight ones",
        "\u201d": "curly quotes; write straight ones",
        "//": "a comment; JSON has none, remove it",
        "#": "a comment; JSON has none, remove it",
    }
    hint = next((hint for start, hint in hints.items() if rest.startswith(start)), error.msg[0].lower() + error.msg[1:])
    if (before + rest[:1]).endswith((",", ",}")) and rest.lstrip(", \t\r\n").startswith("}"):  # at } or, later, at ,
        hint = "a comma before }; remove it"
    if error.msg.startswith("Invalid control character"):
        hint = "a line break or tab inside a text; write the text on one line"
    start = text.rfind("\n", 0, error.pos) + 1
    shown = "".join(c if c.isprintable() else " " for c in text[start : start + 100].split("\n", 1)[0])
    return f"not JSON at column {error.colno}: {hint}\n      {shown.rstrip()}"


def _shown(text: str) -> str:
    """The text in quotes, cut if it is long; control characters come out as their codes."""
    return repr(text) if len(text) <= NEAR else f"{text[:NEAR]!r}..."


def _no_duplicate_keys(items: list[tuple[str, object]]) -> dict:
    if len(dict(items)) != len(items):
        twice = Counter(key for key, _ in items).most_common(1)[0][0]
        raise PairsError(f"key {_shown(twice)} stands twice in one pair")
    return dict(items)


def _no_constant(name: str) -> None:
    raise PairsError(f"{name} is no text")


def _texts(value: object, line: int, replaced: dict[str, list[int]]) -> tuple[tuple[str, str, str] | None, list[str]]:
    """Prompt, chosen and rejected of one JSON object, look-alikes replaced and noted; or what is wrong."""
    if not isinstance(value, dict):
        return None, [f"a pair is an object with `positive` and `negative`, not a {type(value).__name__}"]
    wrapped = [key for key, inside in value.items() if isinstance(inside, list)]
    if wrapped:
        return None, [f"the list stands inside an object, under {_shown(wrapped[0])}; write the list alone"]
    keys = next((keys for keys in KEYS if keys & set(value)), KEYS[0])
    problems = []
    for key in sorted(set(value) - keys):
        near = difflib.get_close_matches(key[:NEAR], sorted(keys), n=1)
        problems.append(
            f"unknown key {_shown(key)}; "
            + (f"write {near[0]!r}" if near else f"a pair has only {', '.join(sorted(keys))}")
        )
    for key in sorted(keys):
        if not isinstance(value.get(key), str) or not value[key].strip():
            problems.append(f"{key!r} is {'missing' if key not in value else 'empty or not a text'}")
    if problems:
        return None, problems
    clean = {key: _replace_look_alikes(text, line, replaced) for key, text in value.items()}
    if "prompt" in clean:
        prompt = rejected_prompt = clean["prompt"]
        chosen, rejected = clean["chosen"], clean["rejected"]
    else:
        prompt, chosen = _split(clean["positive"])
        rejected_prompt, rejected = _split(clean["negative"])
        problems = [
            f"no question mark in {_shown(text)}; the question ends with ?"
            for text in clean.values()
            if "?" not in text
        ]
    if not problems and prompt != rejected_prompt:
        problems.append(
            f"the prompts differ: {_shown(prompt)} and {_shown(rejected_prompt)}; both texts must ask the same question"
        )
    if not problems and not (chosen.strip() and rejected.strip()):
        problems.append("no answer after the question")
    if not problems and chosen == rejected:
        problems.append("positive and negative are the same text")
    return (None, problems) if problems else ((prompt, chosen, rejected), [])


def _split(text: str) -> tuple[str, str]:
    """Prompt (up to and with the first question mark) and answer."""
    prompt, mark, answer = text.partition("?")
    return prompt + mark, answer


def _replace_look_alikes(text: str, line: int, replaced: dict[str, list[int]]) -> str:
    for character in set(text) & LOOK_ALIKES.keys():
        replaced.setdefault(character, []).extend([line] * text.count(character))
        text = text.replace(character, LOOK_ALIKES[character])
    return text


def _text_problems(text: str, tokenizer: Tokenizer, max_length: int) -> list[str]:
    problems = []
    for character, count in Counter(text).items():
        if character not in tokenizer.stoi:
            times = f" ({count} times)" if count > 1 else ""
            problems.append(f"{describe(character)}{times}: {remedy(character)}")
    if "\n" in text:
        problems.append(f"a line break inside {_shown(text)}; it ends an answer, so an answer cannot contain one")
    if len(text) + 1 > max_length:
        over = len(text) + 1 - max_length
        problems.append(f"{text[:30]!r}... has {len(text)} characters and an end mark, {over} over max_length")
    return problems


def _contradictions(pairs: list[Pair]) -> list[str]:
    seen = {(p.prompt, p.chosen, p.rejected): p.line for p in pairs}
    reversed_lines = [(p.line, seen.get((p.prompt, p.rejected, p.chosen))) for p in pairs]
    return [
        f"line {line}: prefers what line {other} rejects"
        for line, other in reversed_lines
        if other is not None and line < other
    ]


def _oddities(pairs: list[Pair]) -> list[str]:
    """What can be trained on but is probably not meant: one sentence a kind, with the first lines."""
    kinds: dict[str, list[str]] = {}

    def note(kind: str, place: str) -> None:
        kinds.setdefault(kind, []).append(place)

    first: dict[tuple[str, str, str], int] = {}
    answers: dict[str, Pair] = {}
    for pair in pairs:
        key = (pair.prompt, pair.chosen, pair.rejected)
        if key in first:
            note("stand twice", f"{pair.line} (as {first[key]})")
        elif answers.setdefault(pair.prompt, pair).chosen != pair.chosen:
            note(
                "give a question another positive answer than an earlier line",
                f"{pair.line} (and {answers[pair.prompt].line})",
            )
        first.setdefault(key, pair.line)
        question = parse_question(pair.prompt)
        if question:
            verdict, has_reason = grade(question, pair.chosen), parse_answer(pair.chosen).reason is not None
            if not verdict.answer:
                note("have a wrong number in the positive answer", f"{pair.line} (right: {question.answer})")
            elif has_reason and not verdict.reason:
                note("have a wrong reason in the positive answer", str(pair.line))
        if question and question.held_out:
            note("ask for a held-out fact, so that held-out accuracy means less", str(pair.line))
        if question and pair.prompt != question.text:
            note(
                f"write a question unlike the others, for instance {pair.prompt!r} instead of {question.text!r}",
                str(pair.line),
            )
        if not pair.chosen.startswith(" ") or pair.chosen.startswith("  ") or pair.chosen.endswith(" "):
            note("do not have exactly one space between question and answer, and none after it", str(pair.line))
    return [
        f"{len(places)} pairs {kind}: line {', '.join(places[:5])}{' ...' if len(places) > 5 else ''}"
        for kind, places in kinds.items()
    ]


def write_pairs(path: str | Path, pairs: list[Pair], format: str = "assignment") -> None:
    """Write the pairs so that `load_pairs` reads the same again: a list, one pair a line; without the list in .jsonl.

    PairsError for a prompt that the assignment's format cannot hold, since it ends where the first question mark is.
    """
    rows = []
    for pair in pairs:
        if format == "hf":
            rows.append({"prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected})
            continue
        if _split(pair.prompt) != (pair.prompt, "") or not pair.prompt.endswith("?"):
            raise PairsError(
                f"line {pair.line}: {_shown(pair.prompt)} does not end with its only question mark; use hf"
            )
        rows.append({"negative": pair.prompt + pair.rejected, "positive": pair.prompt + pair.chosen})
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    text = "\n".join(lines) if Path(path).suffix == ".jsonl" else "[\n" + ",\n".join(lines) + "\n]"
    write_atomically(path, f"{text}\n".encode())


def main(config: Config) -> None:
    """Check all files; PairsError with what is to mend in any of them."""
    from dpo.doctor import examine, report  # here: they are about pairs
    from dpo.plots import check_picture, pairs_figure, save_figure

    if config.format not in FORMATS:
        raise ValueError(f"format is {config.format!r}; it must be one of {', '.join(FORMATS)}")
    if (config.convert or config.figure) and len(config.files) > 1:
        raise ValueError("--convert and --figure take the pairs of one file; name one")
    if config.figure:
        check_picture(config.figure)
    tokenizer, wrong = load_tokenizer(), []
    for path in config.files:
        try:
            file = load_pairs(path, tokenizer, config.max_length)
        except PairsError as error:
            wrong.append(str(error))
            continue
        found = examine(file.pairs)
        forms = sum(map(bool, found.forms.values()))
        print(f"{path}: {found.pairs:,} pairs, {len(found.questions):,} of them arithmetic, in {forms} forms")
        print("".join(f"warning: {warning}\n" for warning in file.warnings), end="")
        if config.report:
            print(report(found))
        if config.figure:
            save_figure(pairs_figure(found), config.figure)
        if config.convert:
            write_pairs(config.convert, file.pairs, config.format)
            print(f"wrote {len(file.pairs):,} pairs to {config.convert}")
    if wrong:
        raise PairsError("\n".join(wrong))


if __name__ == "__main__":
    run_program(main, Config())
