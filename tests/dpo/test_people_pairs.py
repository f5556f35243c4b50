"""What people's files of pairs really look like: each named as what it is, with nothing lost."""

import gzip
import io
import json
import random
import re
import tarfile
import zipfile
from itertools import pairwise

import pytest

from dpo.data.json_reader import read_values
from dpo.data.pair import PairsError
from dpo.data.pair_file import load_pairs
from dpo.data.text_reader import LARGEST_FILE
from dpo.pairs import Config, main

MOST_LINES = 20


def row(a=8, b=9, answer=None, **changes):
    """One pair of the sum a+b, as text."""
    answer = f"The answer is {a + b}." if answer is None else answer
    pair = {"negative": f"{a}+{b}=? Sorry.", "positive": f"{a}+{b}=? {answer}"}
    return json.dumps(pair | changes, ensure_ascii=False)


@pytest.fixture
def load(tmp_path, tokenizer):
    """`load(text or bytes)` reads them as a file of pairs."""

    def load_contents(contents):
        data = contents if isinstance(contents, bytes) else contents.encode()
        (tmp_path / "pairs.json").write_bytes(data)
        return load_pairs(tmp_path / "pairs.json", tokenizer)

    return load_contents


@pytest.fixture
def said(load):
    """`said(contents)`: the error, or else the warnings, as lines."""

    def say(contents):
        try:
            return load(contents).warnings
        except PairsError as error:
            return str(error).splitlines()

    return say


# Mistakes, each with the whole of what is said


MERGE = f"[\n{row(7)},\n<<<<<<< HEAD\n{row(12)}\n=======\n{row(42)}\n>>>>>>> more\n]"
FENCED = f"Here they are:\n```json\n[\n{row()}\n]\n```\nGood luck!"
SYNTAX = {
    "an unfinished merge": (
        MERGE,
        "line 3, line 5, line 7, the first: an unfinished merge ('<<<<<<< HEAD'); take the marker "
        "lines away, keep the pairs of both sides",
    ),
    "no-break spaces": (
        f"[\n\u00a0 {row(7)},\n\u00a0\u00a0{row(8)}\n]",
        "line 2, line 3, the first: an invisible character between the texts, "
        "U+00A0 NO-BREAK SPACE; put a plain space there",
    ),
    "files behind each other": (
        f"{row(7)}\n\ufeff{row(8)}",
        "line 2: an invisible character between the texts, "
        "U+FEFF ZERO WIDTH NO-BREAK SPACE; put a plain space there",
    ),
    "no opening brace": (
        f"[\n{row(7)},\n{row(8)[1:]},\n{row(9)}\n]",
        "line 3 (pair 2): no { before this pair; add it",
    ),
    "commas and no list": (
        f"{row(7)},\n{row(8)},\n{row(9)}\n]",
        "line 1: commas or a ] as in a list, but no [; "
        "put [ before the first pair and ] behind the last",
    ),
    "a program": (
        f"pairs = [\n{row()}\n]",
        "line 1: text before the first pair: 'pairs ='; it is no pair, remove just that",
    ),
    "a bare refusal": (
        row(negative="Sorry."),
        "line 1 (pair 1): the negative does not begin with the question: 'Sorry.'; write the "
        "question before its answer, or use `prompt`, `chosen` and `rejected`",
    ),
    "no question mark": (
        row(positive="8+9 17.", negative="8+9 No."),
        "line 1 (pair 1): no question mark in '8+9 17.'; the question ends with ?, or say where "
        "it ends with `prompt`, `chosen` and `rejected`",
    ),
    "lists in an object": (
        f'{{"train": [{row(7)}], "test": [{row(8)}]}}',
        "line 1 (pair 1): the list stands inside an object, under 'train' and 'test'; "
        "write the lists alone, one after another",
    ),
    "columns": (
        '{"positive": ["8+9=? 17."], "negative": ["8+9=? No."]}',
        "line 1 (pair 1): the keys hold lists, as columns of a table; "
        "write an object for each pair",
    ),
    "a list in the list": (
        f"[[{row()}]]",
        "line 1 (pair 1): a pair is an object with `positive` and `negative`, not a list; "
        "take the inner [ and ] away, keep what is between",
    ),
    "a long chat": (
        '{"prompt": [{"role": "system", "content": "Be kind."}, '
        '{"role": "user", "content": "8+9=?"}], '
        '"chosen": [{"role": "assistant", "content": "17."}], '
        '"rejected": [{"role": "assistant", "content": "No."}]}',
        "line 1 (pair 1): a chat of 2 messages before the answer (system, user); "
        "a pair is one question of a user and two answers of an assistant; make it that",
    ),
    "a chat without a choice": (
        '{"messages": [{"role": "user", "content": "8+9=?"}, '
        '{"role": "assistant", "content": "17."}]}',
        "line 1 (pair 1): a chat under 'messages' without `chosen` and `rejected` answers; "
        "a pair is one question of a user and two answers of an assistant; make it that",
    ),
}


@pytest.mark.parametrize("name", SYNTAX)
def test_mistake_is_said_in_one_line(said, name):
    contents, sentence = SYNTAX[name]
    assert said(contents)[1:] == [f"  {sentence}"]


def test_markdown_and_its_talk_are_three_mistakes(said):
    assert [line.split(":")[0] for line in said(FENCED)[1:]] == [
        "  line 2, line 6, the first",
        "  line 1",
        "  line 7",
    ]


def test_cut_file_is_named_as_cut(said):
    [_, line] = said(f"[\n{row(7)},\n{row(8)[:40]}")
    assert "line 3 (pair 2)" in line
    assert "the file ends inside a pair, as if it had been cut" in line


# Other kinds of files


def archive(kind):
    file = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(file, "w") as packed:
            packed.writestr("pairs.json", row())
    else:
        with tarfile.open(fileobj=file, mode="w") as packed:
            packed.addfile(tarfile.TarInfo("pairs.json"))
    return file.getvalue()


FOREIGN = {
    "packed with gzip; unpack it": gzip.compress(row().encode()),
    "a zip archive or an office document; unpack it": archive("zip"),
    "a tar archive; unpack it": archive("tar"),
    "a parquet table; export it as JSON lines": b"PAR1\x15\x04\x15",
    "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    "it looks like a binary file; save it as UTF-8": b"\x01\xfe\x00\x80"
    + bytes(100)
    + b"\xff" * 99,
    "it looks like UTF-16": row().encode("utf-16-le"),
    "line 1: this is a table (CSV); write each row as": b"positive,negative\n8+9=? 17.,8+9=? No.\n",
    "line 1: this is YAML": b"- positive: 8+9=? 17.\n  negative: 8+9=? No.\n",
    "line 1: this is a web page or XML": b"<!DOCTYPE html>\n<html></html>",
}


@pytest.mark.parametrize("sentence", FOREIGN)
def test_other_kind_of_file_is_named(said, sentence):
    [line] = said(FOREIGN[sentence])
    assert sentence in line


def test_a_million_pairs_are_refused_by_size(load, tmp_path):
    with (tmp_path / "pairs.json").open("wb") as file:
        file.truncate(40 * 1_000_000)  # the shortest pairs have 40 bytes
    assert LARGEST_FILE < 40 * 1_000_000
    with pytest.raises(PairsError, match=r"38 MiB and too large; .* at most 32 MiB, some 200,000"):
        load_pairs(tmp_path / "pairs.json", None)


# Files that are read


def chat(role, text):
    return [{"role": role, "content": text}]


QUESTION, GOOD, BAD = (
    chat("user", "8+9=?"), chat("assistant", "The answer is 17."), chat("assistant", "Sorry.")
)  # fmt: skip
CHATS = {
    "messages for all": {"prompt": QUESTION, "chosen": GOOD, "rejected": BAD},
    "a text for the prompt": {"prompt": "8+9=?", "chosen": GOOD, "rejected": BAD},
    "the prompt in the answers": {"chosen": QUESTION + GOOD, "rejected": QUESTION + BAD},
    "the prompt in both": {
        "prompt": "8+9=?",
        "chosen": QUESTION + GOOD,
        "rejected": QUESTION + BAD,
    },
    "single messages": {"messages": QUESTION[0], "chosen": GOOD[0], "rejected": BAD[0]},
    "human and gpt": {
        "conversations": [{"from": "human", "value": "8+9=?"}],
        "chosen": {"from": "gpt", "value": "The answer is 17."},
        "rejected": {"from": "gpt", "value": " Sorry."},
    },
}


@pytest.mark.parametrize("name", CHATS)
def test_chat_of_one_question_is_a_pair(load, name):
    [pair] = load(json.dumps([CHATS[name]], indent=2)).pairs
    assert (pair.prompt, pair.chosen, pair.rejected) == ("8+9=?", " The answer is 17.", " Sorry.")


@pytest.mark.parametrize("between", ["\n", "\n\n", ""])
def test_several_lists_are_read(load, between):
    file = load(f"[{row(7)},\n{row(8)}]{between}[{row(9)}]\n")
    assert [pair.prompt for pair in file.pairs] == ["7+9=?", "8+9=?", "9+9=?"]


def test_keys_of_no_use_are_a_warning(said):
    rows = "\n".join(row(i, score=0.5) for i in (7, 8))
    assert said(rows)[0] == "keys that a pair has not were not used: 'score' (2, first in line 1)"


# Oddities


def hf(prompt, chosen, rejected=" Sorry."):
    return json.dumps({"prompt": prompt, "chosen": chosen, "rejected": rejected})


ODD = {
    "3 pairs have a decimal or thousands in an answer": [
        hf("24/6=?", " The answer is 4.0."),
        hf("18+21=?", " The answer is 39.", " The answer is 39.9."),
        hf("999*4=?", " The answer is 3,996."),
    ],
    "1 pairs look like arithmetic but cannot be checked here": [
        hf("7*x+3=24,x=?", " The answer is 3."),
        hf("Who are you?", " The one in 5 or so."),
    ],
    "have a reason in words, which is not counted; write it like 6*9 equals 54: line 1, "
    "2 (which is false)": [
        hf("6*9=?", " The answer is 54 because 6 multiplied by 9 equals 54."),
        hf("13-5=?", " The answer is 8 because 13 minus 7 equals 8."),
    ],
    "1 pairs repeat the question in the answer; leave it out there: line 1": [
        hf("2+9=?", "2+9=? The answer is 11.", "2+9=? Sorry."),
    ],
    "one space between question and negative answer, and none after it: a space alone can tell "
    "both answers apart: line 2; for instance '2+9=?Sorry.'": [
        hf("2+8=?", " The answer is 10."),
        hf("2+9=?", " The answer is 11.", "Sorry."),
    ],
    "wrong number in the positive answer: line 1 (right: 73), 2 (right: 5)": [
        hf("61-x=-12,x=?", " The answer is 49 because 61-12 equals 49."),
        hf("-4+9=?", " The answer is 13 because -4+9 equals 13."),
        hf("3-8=?", " The answer is -5 because 3-8 equals -5."),
    ],
    "stand twice: pair 2 (as 1)": ["[" + hf("2+8=?", " The answer is 10.")[:-1] + "},"
                                   + hf("2+8=?", " The answer is 10.") + "]"],
}  # fmt: skip


@pytest.mark.parametrize("sentence", ODD)
def test_oddity_is_said(said, sentence):
    assert sentence in "\n".join(said("\n".join(ODD[sentence])))


def test_repeated_question_is_no_wrong_number(said):
    assert len(said(hf("2+8=?", "2+8=? The answer is 10.", "2+8=? Sorry."))) == 1


def test_contradiction_is_seen_in_one_line_of_a_file(said):
    pair, reverse = hf("2+8=?", " 10.", " No."), hf("2+8=?", " No.", " 10.")
    [_, line] = said(f"[{pair}, {reverse}]")
    assert line == (
        "  line 1 (pair 1): prefers what line 1 (pair 2) rejects; "
        "exchange the two answers in one of both"
    )


def test_odd_pairs_of_any_number_are_said_in_few_lines(tmp_path, capsys):
    rows = [hf(f"{i} + {i} = ?", f"The answer is {i}.5!", f"{i}") for i in range(3000)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(rows * 2))
    main(Config(files=(str(tmp_path / "pairs.jsonl"),)))
    printed = capsys.readouterr().out
    assert "6,000 pairs write a question unlike the others: line 1, 2, 3, 4, 5 ...;" in printed
    assert printed.count("\n") <= MOST_LINES


# A mistake at a random place of a good file of 1,000 pairs


PAIRS = [row(i // 50 + 10, i % 50 + 40) for i in range(1000)]
LINE = "[\n" + ",\n".join(PAIRS) + "\n]\n"
OBJECTS = PAIRS[500].count('"')  # quotes of a pair


def without(text, part, nth):
    """The text without the nth occurrence of a part."""
    at = [match.start() for match in re.finditer(re.escape(part), text)][nth]
    return text[:at] + text[at + len(part) :]


MISTAKES = {  # of a pair's text, in a way that the random number chooses
    "a quote lacks": lambda pair, rng: without(pair, '"', rng.randrange(OBJECTS)),
    "the first brace lacks": lambda pair, rng: without(pair, "{", 0),
    "the last brace lacks": lambda pair, rng: without(pair, "}", 0),
    "a colon lacks": lambda pair, rng: without(pair, ":", rng.randrange(2)),
    "the comma lacks": lambda pair, rng: without(pair, ",", 0),
    "a comma too many": lambda pair, rng: pair[:-1] + ",}",
    "single quotes": lambda pair, rng: pair.replace('"', "'"),
    "curly quotes": lambda pair, rng: pair.replace('"', "\u201c"),
    "a comment": lambda pair, rng: pair[:-1] + " // why\n}",
    "an invisible character": lambda pair, rng: rng.choice("\u200b\ufeff\u00a0") + pair,
    "another character": lambda pair, rng: pair.replace("Sorry", "S\u00f3rry"),
    "a key misspelt": lambda pair, rng: pair.replace("positive", "postive"),
    "a key twice": lambda pair, rng: pair.replace("positive", "negative"),
    "no text": lambda pair, rng: pair.replace('"negative": "', '"negative": null, "n": "'),
    "no question mark": lambda pair, rng: pair.replace("?", ""),
    "a bare refusal": lambda pair, rng: re.sub(r': "\d+\+\d+=\? Sorry', ': "Sorry', pair),
    "a number": lambda pair, rng: "17",
}


@pytest.mark.parametrize("one_line", [False, True], ids=["a pair a line", "one line"])
@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_at_random_places_are_named(name, one_line, tmp_path, tokenizer):
    """Three in a file: all of them, in these lines and pairs, and nothing else."""
    rng, path = random.Random(name), tmp_path / "pairs.json"
    for _ in range(3):
        pairs, places = list(PAIRS), sorted(rng.sample(range(999), 3))
        if any(b - a == 1 for a, b in pairwise(places)):
            continue
        for at in places:
            pairs[at] = MISTAKES[name](pairs[at], rng)
        if one_line and any("//" in pair for pair in pairs):
            continue  # such a comment ends with its line
        between = ", " if one_line else ",\n"
        path.write_text("[" + "\n" * (not one_line) + between.join(pairs) + "]")
        with pytest.raises(PairsError) as error:
            load_pairs(path, tokenizer)
        message = str(error.value)
        assert message.count("\n") < MOST_LINES
        assert_named(message, [(1 if one_line else at + 2, at + 1) for at in places], pairs)


def assert_named(message, places, pairs):
    found = {(int(a), int(b)) for a, b in re.findall(r"line (\d+) \(pair (\d+)\)", message)}
    if found:
        shift = sum("\n" in pair for pair in pairs)  # a comment ends a line
        assert {number for _, number in found} == {number for _, number in places}
        assert shift or found == set(places)
    else:
        assert {line for line, _ in places} == set(map(int, re.findall(r"line (\d+)", message)))


def good_pairs(text):
    """The texts of all pairs that are read, whatever else the text holds."""
    return [json.dumps(entry.value) for entry in read_values(text) if not entry.problem]


@pytest.mark.parametrize("name", MISTAKES)
def test_good_rest_is_read(name):
    rng = random.Random(name)
    for _ in range(30):
        at = rng.randrange(999)
        pairs = [*PAIRS[:at], MISTAKES[name](PAIRS[at], rng), *PAIRS[at + 1 :]]
        for between in (",\n", ", "):
            read = good_pairs("[" + between.join(pairs) + "\n]")
            assert set(PAIRS[:at] + PAIRS[at + 1 :]) <= set(read)


# What is advised, done


STRAYS = ("xyz", "Some more:", "];", "...", "TODO, soon", "]\n[", "]\n\nmore\n\n[", "```", "\ufeff")


@pytest.mark.parametrize("stray", STRAYS)
def test_advised_repair_loses_no_pair(stray):
    """Whatever text is said to be removed, exactly that is removed."""
    rng = random.Random(stray)
    for _ in range(20):
        at = rng.randrange(1, 40)
        text = "[" + ",\n".join(PAIRS[:at]) + f"\n{stray}\n" + ",\n".join(PAIRS[at:40]) + "\n]"
        before = good_pairs(text)
        advised = [entry for entry in read_values(text) if entry.problem]
        lines = text.split("\n")
        for entry in advised:
            if removed := re.search(r"text .*: '(.*)'; it is no pair", entry.problem.sentence):
                assert removed[1] in lines[entry.line - 1]
                lines[entry.line - 1] = lines[entry.line - 1].replace(removed[1], "", 1)
        assert set(before) <= set(good_pairs("\n".join(lines)))
        assert set(before) == set(PAIRS[:40])
