import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpo.pairs import PairsError, load_pairs
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


def test_the_assignments_toy_pairs_load(load):
    rows = [{"negative": f"{p} Sorry, I do not know!", "positive": p + answer} for p, answer in TOY]
    file = load(json.dumps(rows, indent=4))
    assert [(p.prompt, p.chosen, p.rejected) for p in file.pairs] == [
        (p, answer, " Sorry, I do not know.") for p, answer in TOY
    ]
    assert [p.line for p in file.pairs] == [2, 6, 10, 14]
    assert file.warnings == ["characters outside the alphabet were replaced: '!' -> '.' (4)"]


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
    '{"negative": "8+9=? Sorry.", "postive": "8+9=? 17."}': "unknown key 'postive'; write 'positive'",
    ROW % ("8+9=? 17.", "8+9=? 17."): "positive and negative are the same text",
    ROW % ("8+8=? Sorry.", "8+9=? 17."): "the prompts differ: '8+9=?' and '8+8=?'",
    ROW % ("8+9=?", "8+9=? 17."): "no answer after the question",
    ROW % ("8+9 Sorry.", "8+9 17."): "no question mark in '8+9 17.'",
    ROW % ("8+9=? (no)", "8+9=? 17."): "character '(' (U+0028 LEFT PARENTHESIS) is not in the model's alphabet: remove",
    ROW % ("8+9=? Sorry.", "8+9=? " + "1" * 300): "characters and an end mark, 51 over max_length",
    ROW % ("8+9=? Sor\\nry.", "8+9=? 17."): "a line break inside",
    "[1, 2]": "a pair is an object with `positive` and `negative`, not a list",
    "17": "not a int",
    '{"negative": "8+9=? S.", "negative": "8+9=? S.", "positive": "8+9=? 17."}': "key 'negative' stands twice",
    '{"negative": NaN, "positive": "8+9=? 17."}': "NaN is no text",
    '{"negative": "8+9=? S.", "positive": "8+9=? 17.",}': "a comma before }; remove it",
    '{"negative": }': "expecting value",
    "{'negative': '8+9=? S.', 'positive': '8+9=? 17.'}": "single quotes; JSON wants double quotes",
    '{\u201cnegative\u201d: "8+9=? S.", "positive": "8+9=? 17."}': "curly quotes",
}


@pytest.mark.parametrize("row", BAD_ROWS)
def test_each_mistake_is_named_with_its_line(load, row):
    message = problems_of(load, f"[\n{GOOD},\n{row}\n]")
    assert " to mend\n  line 3 (pair 2): " in message and BAD_ROWS[row] in message
    assert message.count("\n  line ") == message.count("\n  line 3 (pair 2): "), "the good row is no mistake"


def test_all_mistakes_come_at_once_and_good_rows_are_no_mistakes(load):
    rows = [row for row in BAD_ROWS if row.startswith("{")]
    message = problems_of(
        load, "[\n" + ",\n".join(f"{GOOD.replace('8', str(i))},\n{row}" for i, row in enumerate(rows)) + "\n]"
    )
    assert f"{message.count(chr(10) + '  line ')} to mend" in message
    for i, row in enumerate(rows):
        assert f"line {2 * i + 3} (pair {2 * i + 2}): " in message and BAD_ROWS[row] in message
    many = problems_of(load, "\n".join(['{"negative": "a"}'] * 30))
    assert many.count("\n  line ") == 20 and "... and 10 more" in many


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; `python -m dpo.make_pairs` makes a file of pairs"),
        ("[]", "line 1: no pairs"),
        (f"[{GOOD}", "the list is not closed"),
        (f"[{GOOD},]", "comma after the last pair"),
        (f"[{GOOD}\n{GOOD.replace('8', '7')}]", "line 2 (pair 2): no comma between this pair and the one before"),
        (f"[{GOOD}] and more", "text after the end of the list: 'and more'"),
        ("// pairs\n[" + GOOD + "]", "a comment; JSON has none"),
        ('[\n {\n  "negative": "8+9=? S.",\n  "positive" "8+9=? 17."\n }\n]', "line 4 (pair 1): not JSON at column 14"),
        ('{"negative": "8+9=? S.\n", "positive": "8+9=? 17."}', "a line break or tab inside a text"),
        (ROW % ("8+9=? (({", "8+9=? 17."), "(U+007B LEFT CURLY BRACKET)"),
        (ROW % ("8+9=? (({", "8+9=? 17."), "(U+0028 LEFT PARENTHESIS) is not in the model's alphabet (2 times)"),
        ("[" * 100_000, "nested too deeply"),
        ('{"negative": ' + "9" * 5000 + "}", "a number too long"),
    ],
)
def test_broken_files(load, text, message):
    assert message in problems_of(load, text)


def test_other_encodings_and_missing_file(load, tmp_path, tokenizer):
    assert "looks like UTF-16" in problems_of(load, f"[{GOOD}]", encoding="utf-16")
    assert "line 2: the file is not UTF-8" in problems_of(
        load, f"[\n{GOOD.replace('Sorry', 'Sórry')}]", encoding="latin-1"
    )
    with pytest.raises(PairsError, match="no such file"):
        load_pairs(tmp_path / "nowhere.json", tokenizer)


def test_a_pair_and_its_reverse_contradict(load):
    reverse = '{"positive": "8+9=? Sorry.", "negative": "8+9=? The answer is 17."}'
    assert "line 1: prefers what line 3 rejects" in problems_of(load, f"{GOOD}\n\n{reverse}")


def test_oddities_are_warnings(load):
    file = load(
        "\n".join(
            [
                GOOD,
                GOOD,
                ROW % ("8+9=? No.", "8+9=? The answer is 18."),
                ROW % ("0*2=? No.", "0*2=? The answer is 0."),
                ROW % ("x+1=2, x=? No.", "x+1=2, x=? The answer is 1."),
                ROW % ("7+9=? No.", "7+9=?The answer is 16."),
                ROW % ("7×8=? No.", "7×8=? The answer is 56."),
                ROW % ("9+8=? No.", "9+8=? The answer is 17 because 9+9 equals 17."),
            ]
        )
    )
    assert len(file.pairs) == 8
    text = "\n".join(file.warnings)
    for expected in (
        "'×' -> '*' (2)",
        "1 pairs stand twice: line 2 (as 1)",
        "1 pairs have a wrong reason in the positive answer: line 8",
        "another positive answer than an earlier line: line 3 (and 1)",
        "wrong number in the positive answer: line 3 (right: 17)",
        "held-out fact, so that held-out accuracy means less: line 4",
        "'x+1=2, x=?' instead of 'x+1=2,x=?': line 5",
        "exactly one space between question and answer, and none after it: line 6",
    ):
        assert expected in text


@settings(max_examples=200, deadline=None)
@given(rows=st.lists(st.tuples(*[st.text(ALPHABET[1:] + "!×(", max_size=12)] * 2), max_size=4))
def test_what_is_accepted_can_be_encoded_and_decoded(rows, tmp_path_factory):
    path = tmp_path_factory.mktemp("pairs") / "p.json"
    path.write_text(json.dumps([{"positive": f"1+1=?{a}", "negative": f"1+1=?{b}"} for a, b in rows]))
    tokenizer = load_tokenizer()
    try:
        file = load_pairs(path, tokenizer)
    except PairsError:
        return
    assert len(file.pairs) == len(rows)
    for pair in file.pairs:
        for text in (pair.prompt + pair.chosen, pair.prompt + pair.rejected):
            assert tokenizer.decode(tokenizer.encode(text)) == text
