"""What people's files of pairs really look like: each named as what it is, with nothing lost."""

import gzip
import io
import json
import pickle
import random
import re
import tarfile
import zipfile

import pytest

from bench import fuzz
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
        "lines away, keep the pairs of both sides, and where a marker stands inside a pair make "
        "two of it",
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
    "a merge inside a pair": (
        '{\n"positive": "8+9=? 17.",\n<<<<<<< HEAD\n"negative": "8+9=? No."\n=======\n'
        '"negative": "8+9=? Sorry."\n>>>>>>> more\n}',
        "line 3, line 5, line 7, the first: an unfinished merge ('<<<<<<< HEAD'); take the marker "
        "lines away, keep the pairs of both sides, and where a marker stands inside a pair make "
        "two of it",
    ),
    "colours": (
        f"\x1b[1;39m[{row()}]\x1b[0m",
        "line 1: colours of a terminal; make the file without them, as with jq -M",
    ),
    "a list in the list": (
        f"[[{row()}]]",
        "line 1: a list inside the list; take its [ and ] away, keep what is between",
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


PARTS = "a pair has `prompt`, `chosen` and `rejected`, or `positive` and `negative`"
HF = '{"prompt": "8+9=?", "chosen": " 17.", "rejected": " No."}'
WAS = "I don\u2019t, 3\u00d7."
KEYS = {
    "other keys": (
        '{"question": "8+9=?", "answer": "17."}',
        f"unknown keys 'question', 'answer': {PARTS}; rename them, and add what lacks",
    ),
    "one other key": (
        HF.replace("prompt", "question"),
        "'prompt' is missing; the other keys are 'question': rename what is meant, or add what "
        "lacks",
    ),
    "a capital": (HF.replace("chosen", "Chosen "), "unknown key 'Chosen '; write 'chosen'"),
    "whole texts under chosen and rejected": (
        '{"chosen": "8+9=? 17.", "rejected": "8+9=? No."}',
        "'prompt' is missing; if both texts begin with the question, call them `positive` and "
        "`negative`",
    ),
    "two keys lack": ("{}", "'negative' and 'positive' are missing"),
    "a number": (
        HF.replace('" 17."', "17"),
        "'chosen' is empty or not a text (a number); write the text in quotes",
    ),
    "null": (
        HF.replace('" No."', "null"),
        "'rejected' is empty or not a text (null); write the text in quotes",
    ),
    "several rejected": (
        HF.replace('" No."', '[" No.", " 16."]'),
        "'rejected' is empty or not a text (a list); write a pair for each of its texts",
    ),
    "answers of one question in a list": (
        '{"instruction": "8+9=?", "output": [" 17.", " No."]}',
        f"unknown keys 'instruction', 'output': {PARTS}; rename them, and add what lacks",
    ),
    "columns by number": (
        '{"positive": {"0": "8+9=? 17."}, "negative": {"0": "8+9=? No."}}',
        "the keys hold lists, as columns of a table; write an object for each pair",
    ),
    "texts in objects": (
        HF.replace('" No."', '{"text": " No."}'),
        "'rejected' is empty or not a text (an object); write the text alone",
    ),
    "a question of its own": (
        '{"question": "8+9=?", "positive": "The answer is 17.", "negative": "Sorry."}',
        "the question stands under 'question'; call the three keys `prompt`, `chosen` and "
        "`rejected`",
    ),
    "rows of a hub": (
        f'{{"features": [{{"name": "prompt"}}], "rows": [{{"row_idx": 0, "row": {HF}}}]}}',
        "the pairs stand inside an object, under 'rows' > 'row'; write each pair alone, one a line",
    ),
    "pairs by number": (
        "{" + ", ".join(f'"{i}": {HF}' for i in range(9)) + "}",
        "the pairs stand inside an object, under '0' and '1' and '2' and others; write each pair "
        "alone, one a line",
    ),
    "written twice": (
        json.dumps(HF),
        "a text that holds JSON, which was written twice; write it without the quotes around it "
        "and the backslashes in it",
    ),
    "two questions in a chat": (
        '{"chosen": [{"role": "user", "content": "1?"}, {"role": "assistant", "content": "1."}], '
        '"rejected": [{"role": "user", "content": "2?"}, {"role": "assistant", "content": "1."}]}',
        "two answers that follow different questions; a pair is one question of a user and two "
        "answers of an assistant; make it that",
    ),
    "UTF-8 read as Windows-1252": (
        row(negative=f"8+9=? {WAS}".encode().decode("cp1252")),
        "'8+9=? I don\u00e2\u20ac\u2122t, 3\u00c3\u2014.' is UTF-8 that was read as Windows-1252; "
        f"write '8+9=? {WAS}'",
    ),
    "a code of HTML": (
        row(negative="8+9=? I don&#39;t &amp; no."),
        "'&#39;' is the code of a character; write that, or for a line break a space",
    ),
    "a break as two characters": (
        row(negative="8+9=? No.\\n"),
        "'\\\\n' is the code of a character; write that, or for a line break a space",
    ),
    "a break at the end": (
        row(negative="8+9=? No.\n"),
        "a line break inside '8+9=? No.\\n'; it would end the answer; write a space, or at the end "
        "nothing",
    ),
}


@pytest.mark.parametrize("name", KEYS)
def test_pair_of_another_form_is_said_in_one_line(said, name):
    contents, sentence = KEYS[name]
    assert f"  line 1 (pair 1): {sentence}" in said(contents)[1:]


@pytest.mark.parametrize("name", [*KEYS][:-4])
def test_mistake_of_one_pair_is_counted_once(said, name):
    assert said(KEYS[name][0])[0] == "pairs.json: 1 to mend"


WRITTEN = {  # by the first thing that is wrong
    "a tab": (row().replace("? T", "?\tT"), "a line break or tab inside a text; put a plain space"),
    "None": (row().replace('"8+9=? Sorry."', "None"), "a word of Python; JSON writes null, true"),
    "a backslash": (row().replace("Sorry", "I don\\'t"), "a backslash inside a text; leave it out"),
    "guillemets": (row().replace('"', "\u00ab"), "curly quotes; write straight ones"),
    "backslashes": (row().replace('"', '\\"'), "a backslash before the quotes around a text"),
    "quotes of HTML": (row().replace('"', "&quot;"), 'code for quotes; write " instead of &quot;'),
    "an empty cell": (row().replace('"8+9=? Sorry."', "NaN"), "NaN is no text, perhaps an empty"),
    "the end is cut": (f"[\n{row(7)},\n", "end the file with ], or get the whole file if it was"),
    "the beginning is cut": (
        f"{row(7)[20:]}\n{row(8)}",
        'line 1: a pair without its beginning: \'Sorry.", "positive": "7+9=? Th\'...; get the '
        "whole file, or write what lacks",
    ),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_mistake_of_writing_is_named(said, name):
    contents, words = WRITTEN[name]
    [_, line] = said(contents)
    assert words in line


BEFORE_PAIRS = {
    "numbers": ("1. {}\n2. {}", ["1.", "2."]),
    "times": ("2026-11-25 12:00 {}\n2026-11-25 12:01 {}", ["2026-11-25 12:00", "2026-11-25 12:01"]),
    "thoughts": ("<think>\n{}\n</think>\n{}", ["<think>", "</think>"]),
    "separators": ("\x1e{}\n\x1e{}", ["\x1e", "\x1e"]),
}


@pytest.mark.parametrize("name", BEFORE_PAIRS)
def test_what_stands_before_pairs_is_shown_and_no_pair(said, load, name):
    form, shown = BEFORE_PAIRS[name]
    before, between = said(form.format(row(7), row(8)))[1:]
    assert f"text before the first pair: {shown[0]!r}; it is no pair, remove just that" in before
    assert f"text between the pairs: {shown[1]!r}; it is no pair, remove just that" in between


def test_program_behind_a_list_is_not_a_list_that_is_open(said):
    last = said(f"pairs = [\n{row()[:-1]},}}\n]\nprint(pairs)")[-1]
    assert last == (
        "  line 4: text after the end of the list: 'print(pairs)'; it is no pair, remove just that"
    )


def test_fence_with_a_title_is_markdown(said):
    fenced = f'```json {{title="a"}}\n{row()}\n```'
    assert said(fenced)[1].startswith("  line 1, line 3, the first: a line of Markdown")


@pytest.mark.parametrize("pair", [f"[{row()}]", row(), json.dumps(json.loads(row()), indent=2)])
def test_fence_in_the_line_of_a_pair_loses_none(pair):
    assert fuzz.read_pairs(fuzz.repair(f"```json {pair}\n```")) == {row()}


def test_lines_of_old_macs_are_counted(said):
    assert "line 3 (pair 3)" in said(f"{row(7)}\r{row(8)}\r{row(9)[:-1]},}}")[1]


def test_deep_nesting_is_one_mistake(said):
    assert said('{"a":' * 3000 + "1" + "}" * 3000)[0] == "pairs.json: 1 to mend"


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
    "it looks like a binary file or a damaged copy; get it again, or export it": b"\x01\xfe\x00\x80"
    + bytes(100)
    + b"\xff" * 99,
    "it looks like UTF-16": row().encode("utf-16-le"),
    "line 1: this is a table (CSV); write each row as": b"positive,negative\n8+9=? 17.,8+9=? No.\n",
    "line 1: this is YAML": b"- positive: 8+9=? 17.\n  negative: 8+9=? No.\n",
    "line 1: this is a web page or XML": b"<!DOCTYPE html>\n<html></html>",
    "it looks like UTF-32; save it as UTF-8": row().encode("utf-32"),
    "line 2: a zero byte in it, it looks like a binary file or a damaged copy": b"[]\n" + bytes(99),
    "this is a Python pickle": pickle.dumps([row()], protocol=2),
    "this is a table (CSV); write each row": b"sep=;\r\nprompt;chosen;rejected\r\n1+1=?; 2.; 3.",
    "a table (CSV) with JSON in its cells": b'id,pair\n1,"{""prompt"": ""1+1=?""}"\n',
    "line 1: this is YAML; write each pair as": b"# mine\n- prompt: 1+1=?\n  chosen: 2.\n",
    "a file without JSON objects, it begins 'Q: 1+1=?'; write each pair as": b"Q: 1+1=?\nA: 2.\n",
    "a file without JSON objects, it begins '404: Not Found'": b"404: Not Found",
    "this is a Jupyter notebook": b'{\n "cells": [\n  {"source": ["{}"]}]}',
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
    "parts of a message": {
        "prompt": [{"role": "user", "content": [{"type": "text", "text": "8+9=?"}]}],
        "chosen": GOOD,
        "rejected": BAD,
    },
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


def test_keys_of_no_use_stand_in_the_order_of_the_file(said):
    found = said(row(id=1, source="a", score_chosen=9.0))[0]
    assert re.findall("'(.+?)'", found) == ["id", "source", "score_chosen"]


def test_keys_of_no_use_are_a_warning(said):
    rows = "\n".join(row(i, score=0.5) for i in (7, 8))
    assert said(rows)[0] == "keys that a pair has not were not used: 'score' (2, first in line 1)"


WRAPPED = {  # a mistake in a list that stands inside an object
    "a last comma": (f"{row(7)},\n{row(8)},", "line 3: comma after the last pair; remove it"),
    "no comma": (f"{row(7)}\n{row(8)}", "line 3 (pair 2): no comma between this pair and the one"),
    "a comment": (f"{row(7)}, // mine\n{row(8)}", "line 2: not JSON: a comment; JSON has none"),
}


@pytest.mark.parametrize("name", WRAPPED)
@pytest.mark.parametrize("wrapper", ['{"data": [\n%s\n]}', '{"n": 2, "data": [\n%s\n], "m": 1}'])
def test_mistake_in_a_wrapped_list_is_named_and_no_other(said, name, wrapper):
    contents, words = WRAPPED[name]
    [_, around, inside] = said(wrapper % contents)
    assert (
        around == "  line 1: the list stands inside an object, under 'data'; write the list alone"
    )
    assert inside.strip().startswith(words)


def test_all_lists_of_a_wrapper_are_read(said):
    contents = f'{{"train": [\n{row(7)},\n],\n"test": [\n{row(8)},\n]}}'
    assert [line.partition(":")[0] for line in said(contents)[1:]] == [
        "  line 1",
        "  line 2, line 5, the first",
    ]


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
    "1 pairs have the right number in the negative answer only; exchange the two answers: line 1": [
        hf("2+9=?", " Sorry.", " The answer is 11."),
    ],
    "no number in the positive answer that is read as one; write it like The answer is 36: "
    "line 1 (right: 25), 2 (right: 25)": [
        hf("12+13=?", " The answer is 25 apples."),
        hf("12+13=?", " 12+13=25."),
    ],
    "refuse in the positive answer what can be calculated: line 1 (right: 25)": [
        hf("12+13=?", " Sorry.", " The answer is 24."),
    ],
    "5 pairs look like arithmetic but cannot be checked here": [
        hf("y+13=25,y=?", " 12."),
        hf("?+13=25, what is it", " 12."),
        hf("5+?=12", " 7."),
        hf("What is twelve plus thirteen?", " 25."),
        hf("5 apples + 7 apples = ?", " 12."),
        hf("Is an e-mail or a t-shirt a thing?", " Yes."),
        hf("Is it he and/or she?", " Both."),
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


# The rows of the page of cases, each with all that is said

BEHIND = "the question ends with ?, or say where it ends with `prompt`, `chosen` and `rejected`"
BARE = [row(a, negative="Sorry.") for a in range(20, 27)]
UNMARKED = [row(a).replace("?", "") for a in range(20, 27)]
ONE_LINE = [row(a) for a in range(20, 27)]
ONE_LINE[2], ONE_LINE[5] = ONE_LINE[2][:-1] + ",}", ONE_LINE[5].replace('"', "'")
CASES = {
    "spaces around signs": (
        [hf("2 + 9 = ?", " The answer is 11."), hf("8 + 9 = ?", " The answer is 17.")],
        [
            "2 pairs write a question unlike the others: line 1, 2; "
            "for instance '2 + 9 = ?' instead of '2+9=?'"
        ],
    ),
    "no question mark": (
        UNMARKED,
        [
            "pairs.json: 7 to mend",
            "  line 1 (pair 1), line 2 (pair 2), line 3 (pair 3), line 4 (pair 4), line 5 (pair 5) "
            f"and 2 more, the first: no question mark in '20+9= The answer is 29.'; {BEHIND}",
        ],
    ),
    "a bare refusal": (
        BARE,
        [
            "pairs.json: 7 to mend",
            "  line 1 (pair 1), line 2 (pair 2), line 3 (pair 3), line 4 (pair 4), line 5 (pair 5) "
            "and 2 more, the first: the negative does not begin with the question: 'Sorry.'; "
            "write the question before its answer, or use `prompt`, `chosen` and `rejected`",
        ],
    ),
    "decimals and thousands": (
        [hf("2+9=?", " The answer is 11.", " 11.5."), hf("8+9=?", " 17.", " 1,700.")],
        [
            "2 pairs have a decimal or thousands in an answer, which is no whole number here, and "
            "a model's answer ends at its first full stop; write digits only: line 1, 2; "
            "for instance '11.5'"
        ],
    ),
    "no space": (
        [hf("2+9=?", " The answer is 11.", "Sorry."), hf("8+9=?", "17.")],
        [
            "1 pairs do not have exactly one space between question and negative answer, and none "
            "after it: a space alone can tell both answers apart: line 1; "
            "for instance '2+9=?Sorry.'",
            "1 pairs do not have exactly one space between question and answer, and none after it: "
            "line 2",
        ],
    ),
    "signs": (
        [hf("-4+9=?", " The answer is 13."), hf("7*x+3=24,x=?", " The answer is 3.")],
        [
            "1 pairs have a wrong number in the positive answer: line 1 (right: 5)",
            "1 pairs look like arithmetic but cannot be checked here, nor is it known what is "
            "right: line 2; for instance '7*x+3=24,x=?'",
        ],
    ),
    "a reason in words": (
        [hf("2+9=?", " The answer is 11 because 2 plus 8 equals 11.")],
        [
            "1 pairs have a reason in words, which is not counted; write it like 6*9 equals 54: "
            "line 1 (which is false); for instance '2 plus 8 equals 11.'"
        ],
    ),
    "two lists": ([f"[{row(2)}]\n[{row(8)}]"], []),
    "a chat": ([json.dumps({"prompt": QUESTION, "chosen": GOOD, "rejected": BAD})], []),
    "a packed file": (
        gzip.compress(row().encode()),
        ["pairs.json: this is packed with gzip; unpack it and give the file that is inside"],
    ),
    "one line with two mistakes": (
        [f"[{', '.join(ONE_LINE)}]"],
        [
            "pairs.json: 2 to mend",
            "  line 1 (pair 3): not JSON at column 212: a comma before }; remove it; there: "
            """...=? Sorry.", "positive": "22+9=? The answer is 31.",}, {"negative": "23+9=? """
            "Sorry...",
            "  line 1 (pair 6): not JSON at column 359: single quotes; JSON wants double quotes; "
            """there: ...orry.", "positive": "24+9=? The answer is 33."}, """
            """{'negative': '25+9=? Sorry.', '...""",
        ],
    ),
    "a repeated question": (
        [hf("2+9=?", "2+9=? The answer is 11.", "2+9=? Sorry.")],
        ["1 pairs repeat the question in the answer; leave it out there: line 1"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_case_is_answered_in_these_words(said, name):
    contents, lines = CASES[name]
    assert said(contents if isinstance(contents, bytes) else "\n".join(contents)) == lines


# A mistake at a random place of a good file (a thousand times each: python -m bench.fuzz)


@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_mistake_at_a_random_place_keeps_promises(kind):
    """No file breaks a promise: the place, the length, the other pairs, what a repair leaves."""
    broken = [promises for _, promises in fuzz.fuzz(kind, times=20, pairs=200) if promises]
    assert broken == []


def test_program_of_mistakes_prints_a_row_a_kind(capsys):
    fuzz.main(fuzz.Config(times=1, pairs=5))
    printed = re.sub(r" +", " ", capsys.readouterr().out)
    assert [kind for kind in fuzz.KINDS if f"\n| {kind} | 1 | 1 | 1 | 1 |" not in printed] == []


def test_program_of_mistakes_fails_where_a_promise_is_broken(monkeypatch):
    monkeypatch.setattr(fuzz, "MOST_LINES", 0)
    with pytest.raises(ValueError, match="promises were broken"):
        fuzz.main(fuzz.Config(times=1, pairs=5))


@pytest.mark.parametrize("between", [",\n", ", "], ids=["a pair a line", "one line"])
def test_three_mistakes_are_all_named(said, between):
    rng, pairs, places = random.Random(between), fuzz.good_pairs(90), [12, 40, 77]
    for at in places:
        pairs[at] = fuzz.KINDS["a colon lacks"](pairs[at], rng)
    message = "\n".join(said("[" + between.join(pairs) + "]"))
    assert [int(number) for number in re.findall(r"pair (\d+)", message)] == [13, 41, 78]


def test_cut_file_is_said_in_its_last_line(said):
    """Wherever a file ends inside a pair."""
    rng, text = random.Random(1), "[\n" + ",\n".join(fuzz.good_pairs(90))
    for _ in range(50):
        cut = text[: rng.randrange(len(text) // 2, len(text))]
        if cut.endswith(("}", ",", "\n")):
            continue  # between two pairs
        [_, line] = said(cut)
        assert line.startswith(f"  line {cut.count(chr(10)) + 1} ")


# What is advised, done


STRAYS = ("xyz", "Some more:", "];", "...", "TODO, soon", "]\n[", "]\n\nmore\n\n[", "```", "\ufeff")


@pytest.mark.parametrize("stray", STRAYS)
def test_advised_repair_loses_no_pair(stray):
    rng, pairs = random.Random(stray), fuzz.good_pairs(40)
    for _ in range(20):
        at = rng.randrange(1, 40)
        text = "[" + ",\n".join(pairs[:at]) + f"\n{stray}\n" + ",\n".join(pairs[at:]) + "\n]"
        assert fuzz.read_pairs(text) == set(pairs)
        assert fuzz.read_pairs(fuzz.repair(text)) == set(pairs)


def test_repair_that_loses_a_pair_is_noticed(monkeypatch):
    """Whoever takes away all that stands in the line of a comma too many loses what is there."""
    monkeypatch.setitem(fuzz.REPAIRS, "a comma that parts nothing", lambda line, said: "")
    files = fuzz.fuzz("a list that ends and another", times=5, pairs=9)
    assert {promise for _, promises in files for promise in promises} == {"kept"}
