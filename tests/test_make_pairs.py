import json
from collections import Counter

import pytest

from dpo.arithmetic import FORMS, domain, families_in, grade, is_held_out, parse_question
from dpo.make_pairs import Config, main, make_pairs
from dpo.pairs import load_pairs


@pytest.mark.parametrize("negatives", ["refusal", "near_miss", "base"])
def test_pairs_are_right_balanced_and_not_held_out(negatives, base_file):
    pairs = make_pairs(Config(n=120, negatives=negatives, base=str(base_file)))
    assert len(pairs) == len({pair.prompt for pair in pairs}) == 120
    forms = Counter()
    for pair in pairs:
        question = parse_question(pair.prompt)
        forms[question.form] += 1
        assert grade(question, pair.chosen).correct
        assert pair.rejected.strip() and not grade(question, pair.rejected).answer
        families = families_in(pair.prompt + pair.chosen) | families_in(pair.prompt + pair.rejected)
        assert not any(map(is_held_out, families))
    assert forms == dict.fromkeys(FORMS, 10)


def test_seed_file_format_and_large_files(tmp_path, tokenizer):
    for seed, name in ((1, "a"), (1, "b"), (2, "c")):
        main(Config(n=20_000, seed=seed, negatives="near_miss", out=str(tmp_path / name)))
    a, b, c = ((tmp_path / name).read_text() for name in "abc")
    assert a == b != c
    assert a.count("\n") == 20_002 and len(json.loads(a)) == 20_000, "one pair a line"
    assert len(load_pairs(tmp_path / "a", tokenizer).pairs) == 20_000


def test_wider_ranges_are_added():
    pairs = make_pairs(Config(n=600, negatives="refusal", ranges="standard,products,negatives,sums"))
    asked = {pair.prompt for pair in pairs}
    for ranges in ("standard", "products", "negatives", "sums"):
        assert asked & {question.text for form in FORMS for question in domain(form, ranges)}, ranges


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"negatives": "insults"}, "negatives is 'insults'; it must be one of base, refusal, near_miss"),
        ({"ranges": "standard,huge"}, "ranges names 'huge'"),
        ({"n": 0}, "at least one pair"),
    ],
)
def test_mistakes(settings, message):
    with pytest.raises(ValueError, match=message):
        make_pairs(Config(**settings))
