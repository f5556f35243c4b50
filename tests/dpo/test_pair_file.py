"""Files of pairs: what is read, what is refused with its line, and what is only odd."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpo.data.pair import Pair, PairsError
from dpo.data.pair_file import load_pairs, write_pairs
from dpo.pairs import Config, main
from sft.tokenizer import ALPHABET, load_tokenizer

ROW = '{"negative": "%s", "positive": "%s"}'
GOOD = '{"negative": "8+9=? Sorry.", "positive": "8+9=? The answer is 17."}'
TOY = [  # the assignment's own pairs
    ("79-7=?", " The answer is 72 because 79-7 equals 72."),
    ("x+55=95,x=?", " The answer is 40 because 95-55 equals to 40."),
    ("74+8=?", " The answer is 82 because 74+8 equals 82."),
    ("1*x=6,x=?", " The answer is 6 because 6/1 equals to 6."),
]


@pytest.fixture
def load(tmp_path, tokenizer):
    def load_text(text, encoding="utf-8", **settings):
        (tmp_path / "pairs.json").write_bytes(text.encode(encoding))
        return load_pairs(tmp_path / "pairs.json", tokenizer, **settings)

    return load_text


def problems_of(load, text, **settings):
    with pytest.raises(PairsError) as error:
        load(text, **settings)
    return str(error.value)


@pytest.fixture
def toy(load):
    """The assignment's own file, which is written over several lines a pair."""
    rows = [{"negative": f"{p} Sorry, I do not know!", "positive": p + answer} for p, answer in TOY]
    return load(json.dumps(rows, indent=4))


def test_toy_pairs_of_the_assignment_load(toy):
    expected = [(prompt, answer, " Sorry, I do not know.") for prompt, answer in TOY]
    assert [(p.prompt, p.chosen, p.rejected) for p in toy.pairs] == expected


def test_pairs_know_their_lines(toy):
    assert [pair.line for pair in toy.pairs] == [2, 6, 10, 14]


def test_replaced_characters_are_a_warning(toy):
    replaced = "'!' -> '.' (4, first in line 2)"
    assert toy.warnings == [f"characters outside the alphabet were replaced: {replaced}"]


@pytest.mark.parametrize(
    "text",
    [
        f"[{GOOD}]",
        f"\ufeff[\r\n{GOOD}\r\n]\r\n",
        f"{GOOD}\n",
        f"\n\n{GOOD}",
        '{"prompt": "8+9=?", "chosen": " The answer is 17.", "rejected": " Sorry."}',
    ],
)
def test_forms_of_a_file(load, text):
    [pair] = load(text).pairs
    assert (pair.prompt, pair.chosen, pair.rejected) == ("8+9=?", " The answer is 17.", " Sorry.")


BAD_ROWS = {
    '{"negative": "8+9=? Sorry."}': "'positive' is missing",
    ROW % ("8+9=? Sorry.", ""): "'positive' is empty or not a text",
    '{"negative": "8+9=? Sorry.", "positive": 17}': "'positive' is empty or not a text",
    '{"negative": "8+9=? Sorry.", "postive": "8+9=? 17."}': (
        "unknown key 'postive'; write 'positive'"
    ),
    ROW % ("8+9=? 17.", "8+9=? 17."): "positive and negative are the same text",
    ROW % ("8+8=? Sorry.", "8+9=? 17."): "the prompts differ: '8+9=?' and '8+8=?'",
    ROW % ("8+9=?", "8+9=? 17."): "no answer after the question",
    ROW % ("8+9 Sorry.", "8+9 17."): "no question mark in '8+9 17.'",
    ROW % ("8+9=? (no)", "8+9=? 17."): (
        "character '(' (U+0028 LEFT PARENTHESIS) is not in the model's alphabet: remove"
    ),
    ROW % ("8+9=? Sorry.", "8+9=? " + "1" * 300): "characters and an end mark, 51 over max_length",
    ROW % ("8+9=? Sor\\nry.", "8+9=? 17."): "a line break inside",
    "[1, 2]": "a pair is an object with `positive` and `negative`, not a list",
    "17": "not a number; write {",
    '{"negative": "8+9=? S.", "negative": "8+9=? S.", "positive": "8+9=? 17."}': (
        "key 'negative' stands twice"
    ),
    '{"negative": NaN, "positive": "8+9=? 17."}': "NaN is no text",
    '{"negative": "8+9=? S.", "positive": "8+9=? 17.",}': "a comma before }; remove it",
    '{"negative": }': "expecting value",
    "{'negative': '8+9=? S.', 'positive': '8+9=? 17.'}": "single quotes; JSON wants double quotes",
    '{\u201cnegative\u201d: "8+9=? S.", "positive": "8+9=? 17."}': "curly quotes",
}


@pytest.mark.parametrize("row", BAD_ROWS)
def test_each_mistake_is_named_with_its_line(load, row):
    message = problems_of(load, f"[\n{GOOD},\n{row}\n]")
    assert " to mend\n  line 3 (pair 2): " in message
    assert BAD_ROWS[row] in message


@pytest.mark.parametrize("row", BAD_ROWS)
def test_a_good_row_is_no_mistake(load, row):
    message = problems_of(load, f"[\n{GOOD},\n{row}\n]")
    assert message.count("\n  line ") == message.count("\n  line 3 (pair 2): ")


def test_all_mistakes_come_at_once(load):
    bad = [row for row in BAD_ROWS if row.startswith("{")]
    rows = [f"{GOOD.replace('8', str(i))},\n{row}" for i, row in enumerate(bad)]
    message = problems_of(load, "[\n" + ",\n".join(rows) + "\n]")
    for i in range(len(bad)):
        assert f"line {2 * i + 3} (pair {2 * i + 2})" in message


def test_mistakes_of_a_kind_are_one_line(load):
    message = problems_of(load, "\n".join(['{"negative": "a"}'] * 30))
    places = ", ".join(f"line {i} (pair {i})" for i in range(1, 6))
    missing = f"{places} and 25 more, the first: 'positive' is missing"
    assert message == f"pairs.json: 30 to mend\n  {missing}"


def test_kinds_of_mistakes_are_cut_after_a_screen(load):
    odd = [chr(0x4E00 + i) for i in range(40)]
    message = problems_of(load, "\n".join(ROW % (f"8+9=? {c}", "8+9=? 17.") for c in odd))
    assert message.count("\n") == 18
    assert message.endswith("... and 23 other kinds")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; `python -m dpo.make_pairs` makes a file of pairs"),
        ("[]", "line 1: no pairs"),
        (f"[{GOOD}", "the list is not closed"),
        (f"[{GOOD},]", "comma after the last pair"),
        (
            f"[{GOOD}\n{GOOD.replace('8', '7')}]",
            "line 2 (pair 2): no comma between this pair and the one before",
        ),
        (f"[{GOOD}] and more", "text after the end of the list: 'and more'; it is no pair"),
        ("// pairs\n[" + GOOD + "]", "a comment; JSON has none"),
        (
            '[\n {\n  "negative": "8+9=? S.",\n  "positive" "8+9=? 17."\n }\n]',
            "line 4 (pair 1): not JSON at column 14",
        ),
        (
            '{"negative": "8+9=? S.\n", "positive": "8+9=? 17."}',
            "a line break or tab inside a text",
        ),
        (ROW % ("8+9=? (({", "8+9=? 17."), "(U+007B LEFT CURLY BRACKET)"),
        (
            ROW % ("8+9=? (({", "8+9=? 17."),
            "(U+0028 LEFT PARENTHESIS) is not in the model's alphabet (2 times)",
        ),
        ("[" * 100_000, "nested too deeply"),
        ('{"negative": ' + "9" * 5000 + "}", "a number too long"),
    ],
)
def test_broken_files(load, text, message):
    assert message in problems_of(load, text)


def test_utf_16_is_named(load):
    assert "looks like UTF-16" in problems_of(load, f"[{GOOD}]", encoding="utf-16")


def test_other_encodings_are_named_with_their_line(load):
    text = f"[\n{GOOD.replace('Sorry', 'Sórry')}]"
    assert "line 2: the file is not UTF-8" in problems_of(load, text, encoding="latin-1")


def test_a_missing_file_is_one_sentence(tmp_path, tokenizer):
    with pytest.raises(PairsError, match="no such file"):
        load_pairs(tmp_path / "nowhere.json", tokenizer)


def test_a_pair_and_its_reverse_contradict(load):
    reverse = '{"positive": "8+9=? Sorry.", "negative": "8+9=? The answer is 17."}'
    assert "line 1 (pair 1): prefers what line 3 (pair 2) rejects" in problems_of(
        load, f"{GOOD}\n\n{reverse}"
    )


ODD_ROWS = [
    GOOD,
    GOOD,
    ROW % ("8+9=? No.", "8+9=? The answer is 18."),
    ROW % ("0*2=? No.", "0*2=? The answer is 0."),
    ROW % ("x+1=2, x=? No.", "x+1=2, x=? The answer is 1."),
    ROW % ("7+9=? No.", "7+9=?The answer is 16."),
    ROW % ("7×8=? No.", "7×8=? The answer is 56."),
    ROW % ("9+8=? No.", "9+8=? The answer is 17 because 9+9 equals 17."),
]


@pytest.mark.parametrize(
    "warning",
    [
        "'×' -> '*' (2, first in line 7)",
        "1 pairs stand twice: line 2 (as 1)",
        "1 pairs have a wrong reason in the positive answer: line 8",
        "another positive answer than an earlier line: line 3 (and 1)",
        "wrong number in the positive answer: line 3 (right: 17)",
        "held-out fact, so that held-out accuracy means less: line 4",
        "unlike the others: line 5; for instance 'x+1=2, x=?' instead of 'x+1=2,x=?'",
        "exactly one space between question and answer, and none after it: line 6",
    ],
)
def test_oddities_are_warnings(load, warning):
    assert warning in "\n".join(load("\n".join(ODD_ROWS)).warnings)


def test_odd_pairs_are_loaded(load):
    assert len(load("\n".join(ODD_ROWS)).pairs) == 8


answers = st.text(ALPHABET[1:] + "!×(", max_size=12)


@settings(max_examples=200, deadline=None)
@given(rows=st.lists(st.tuples(answers, answers), max_size=4))
def test_what_is_accepted_can_be_encoded(rows, tmp_path_factory):
    path = tmp_path_factory.mktemp("pairs") / "p.json"
    texts = [{"positive": f"1+1=?{a}", "negative": f"1+1=?{b}"} for a, b in rows]
    path.write_text(json.dumps(texts))
    tokenizer = load_tokenizer()
    try:
        file = load_pairs(path, tokenizer)
    except PairsError:
        return
    assert len(file.pairs) == len(rows)
    for pair in file.pairs:
        for text in (pair.prompt + pair.chosen, pair.prompt + pair.rejected):
            assert tokenizer.decode(tokenizer.encode(text)) == text


words = st.text("0123 +=,x.'aZ", min_size=1).filter(str.strip)


@settings(max_examples=50)
@given(rows=st.lists(st.tuples(words, words, words), min_size=1, max_size=5))
def test_both_formats_and_layouts_hold_the_same(rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    pairs = [Pair(f"{i}{p}?", c, r if r != c else f"{r}a", i) for i, (p, c, r) in enumerate(rows)]
    expected = [(pair.prompt, pair.chosen, pair.rejected) for pair in pairs]
    for format in ("hf", "assignment"):
        for name in ("pairs.json", "pairs.jsonl"):
            write_pairs(folder / name, pairs, format)
            read = load_pairs(folder / name, load_tokenizer()).pairs
            assert [(pair.prompt, pair.chosen, pair.rejected) for pair in read] == expected
    assert (folder / "pairs.jsonl").read_text().count("\n") == len(pairs)  # one object a line


@pytest.mark.parametrize("prompt", ["Say hi", "Why? Say it"])
def test_assignments_format_cannot_hold_a_prompt(tmp_path, prompt):
    pairs = [Pair(prompt, " Hi.", " No.", 1)]
    write_pairs(tmp_path / "a.json", pairs, "hf")
    message = r"line 1: .* does not end with its only question mark; use hf"
    with pytest.raises(PairsError, match=message):
        write_pairs(tmp_path / "b.json", pairs, "assignment")
    assert not (tmp_path / "b.json").exists()


# The program


@pytest.fixture
def files(tmp_path):
    """A good file, one with a wrong number, one without pairs, and one that is missing, by name."""
    odd = '[{"negative": "8+9=? No.", "positive": "8+9=? The answer is 18."}]'
    for name, text in (("good", f"[{GOOD}]"), ("odd", odd), ("bad", "[]")):
        (tmp_path / f"{name}.json").write_text(text)
    return {name: str(tmp_path / f"{name}.json") for name in ("good", "odd", "bad", "nowhere")}


def test_program_checks_every_file(files, capsys):
    main(Config(files=(files["good"], files["odd"])))
    out = capsys.readouterr().out
    assert "good.json: 1 pairs, 1 of them arithmetic, in 1 forms\n" in out
    assert "odd.json: 1 pairs" in out
    assert "warning: 1 pairs have a wrong number in the positive answer: line 1" in out


def test_program_converts_there_and_back(files, tmp_path):
    there, back = tmp_path / "hf.jsonl", tmp_path / "back.json"
    main(Config(files=(files["good"],), convert=str(there)))
    row = {"prompt": "8+9=?", "chosen": " The answer is 17.", "rejected": " Sorry."}
    assert json.loads(there.read_text()) == row
    main(Config(files=(str(there),), convert=str(back), format="assignment"))
    assert json.loads(back.read_text()) == json.loads(f"[{GOOD}]")


def test_program_names_all_files_to_mend(files):
    with pytest.raises(PairsError, match=r"(?s)bad.json: 1 to mend.*nowhere.json: no such file"):
        main(Config(files=(files["bad"], files["good"], files["nowhere"])))


@pytest.mark.parametrize(
    ("setting", "message"),
    [({"format": "csv"}, "format is 'csv'"), ({"convert": "x"}, "name one")],
)
def test_program_refuses_what_it_cannot_do(setting, message):
    with pytest.raises(ValueError, match=message):
        main(Config(files=("a", "b"), **setting))
