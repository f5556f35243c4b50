"""The measured systems do what they are said to do; the measuring itself is left to bench/."""

import json
import random
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from conftest import make_tiny, same_bits, shorten_small_talk, teach
from torch.nn import functional as F

from bench import assignment, controls, seeds
from bench.controls import CONTROLS, DPO, EXPERIMENTS, MISSPELT, REMAINDERS, SFT, UNSAID, tune
from bench.learning import TEST_SEED, TimedHistory, like_the_pairs
from bench.report import median_and_spread, ratio
from dpo.data.batches import collate_pairs, tokenize_pairs
from dpo.data.pair import Pair
from dpo.data.pair_file import load_pairs
from dpo.evaluation.replies import judge
from dpo.evaluation.tables import rate
from dpo.evaluation.tokens import answer_logps
from dpo.formats import FORMATS, OUTCOMES, WITHOUT_ANSWER, sample_kind
from dpo.make_pairs import draw_questions
from dpo.train import Config
from dpo.training.step import dpo_step
from model import GPT
from sft.arithmetic import REFUSAL, domain, parse_question
from sft.corpus import REFUSALS
from sft.generation import generate_answers
from sft.grading import grade
from sft.sequences import encode_sequence

# The course's loop


def test_course_generates_the_answers_of_ours(tiny, tokenizer):
    prompts = ["1+2=?", "x+1=7,x=?", "Hi?"]
    teach(tiny, tokenizer, prompts, [" 3.", " 6. and more", " No"])
    tiny.config.block_size = 20
    for prompt, ours in zip(prompts, generate_answers(tiny, tokenizer, prompts), strict=True):
        theirs = assignment.generate(tiny, torch.tensor([tokenizer.encode(prompt)]), 80)[0].tolist()
        assert tokenizer.decode(theirs) == prompt + ours


@pytest.fixture
def course_ids(tokenizer):
    """A right answer and a refusal, as the course lays them out."""
    answers = (" 3.", " Sorry.")
    return assignment.padded([encode_sequence(tokenizer.encode, "1+2=?", a) for a in answers])


def test_course_rows_are_padded_with_newlines(course_ids):
    assert course_ids.shape == (2, 64)
    assert course_ids[0, 8:].eq(0).all()


def test_course_means_run_over_prompt_and_answer(tiny, tokenizer, course_ids):
    whole = answer_logps(tiny, tokenizer, "1", "+2=? 3.")
    scored = whole[:-1]  # without the newline, which its mask drops
    mean = assignment.mean_logps(tiny, course_ids)[0].item()
    assert mean == pytest.approx(sum(scored) / len(scored), rel=1e-4)


def test_course_step_raises_the_chosen_answer(tiny, course_ids):
    before = assignment.mean_logps(tiny, course_ids)[0].item()
    model = GPT(tiny.config)
    model.load_state_dict(tiny.state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    assignment.train_step(model, optimizer, course_ids[:1], course_ids[1:], beta=0.5)
    assert assignment.mean_logps(model, course_ids)[0].item() > before


# What is measured


def test_seconds_leave_the_evals_out(monkeypatch):
    now = iter([0.0, 5.0, 8.0, 8.0, 20.0, 21.0, 21.0])
    monkeypatch.setattr("bench.learning.time", SimpleNamespace(perf_counter=lambda: next(now)))
    history = TimedHistory()
    history.append_eval({"kl": 0.0})  # ended at 5
    history.append({"loss": 1.0})  # at 8: three seconds of work
    history.append_eval({"kl": 0.1})  # ended at 20
    history.append({"loss": 0.9})  # at 21: one more
    assert history.evals["seconds"] == [0.0, 3.0]
    assert history.seconds == 4.0


def test_median_stands_with_its_range():
    assert median_and_spread([3.0, 1.0, 2.0]) == "2.0 (1.0 to 3.0)"


def test_ratio_is_taken_within_a_round():
    assert ratio([10.0, 2.0, 9.0], [5.0, 1.0, 3.0]) == "2.00"


def test_questions_like_the_pairs_are_seen_ones(tiny, tokenizer, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "bench.learning.answer_questions", lambda *given: asked.extend(given[2]) or []
    )
    questions = draw_questions(60, ["standard"], random.Random(TEST_SEED))
    half = {question.text for question in questions[::2]}
    assert like_the_pairs(tiny, tokenizer, half, 60)["trained"] == 0.5
    assert len(asked) == 60
    assert not any(question.held_out for question in asked)
    assert len({question.form for question in asked}) == 12


# Controls: how they are trained


@pytest.fixture
def config(base_file, pairs_file):
    """Four steps of four on the eight pairs."""
    files = {"base": str(base_file), "pairs": str(pairs_file)}
    return Config(**files, device="cpu", steps=4, batch_size=4, base_lr=1e-3)


@pytest.fixture
def pairs(pairs_file, tokenizer):
    return load_pairs(pairs_file, tokenizer).pairs


def test_dpo_of_the_controls_is_the_default_run(tiny, tokenizer, pairs, config, tiny_run):
    trained = tiny_run(epochs=0, steps=4, batch_size=4, base_lr=1e-3).policy
    assert same_bits(tune(tiny, tokenizer, pairs, config, (DPO,)), trained)


def mean_nll(model, tokenizer, pair):
    """The chosen answer's negative log-likelihood a character, in nats, of a pass by itself."""
    text = encode_sequence(tokenizer.encode, pair.prompt, pair.chosen)
    ids = torch.tensor([text.prompt + text.completion])
    logits, _ = model(ids[:, :-1], full_seq=True)  # (1, T, vocab_size)
    n = len(text.completion)
    return F.cross_entropy(logits[0, -n:], ids[0, -n:])


def test_sft_has_the_gradient_of_the_chosen_answers_alone(tiny, tokenizer, pairs):
    batch = collate_pairs(tokenize_pairs(tokenizer, pairs), torch.randn(len(pairs), 2))
    dpo_step(tiny, batch, **SFT)[0].backward()
    by_hand = make_tiny()
    (sum(mean_nll(by_hand, tokenizer, pair) for pair in pairs) / len(pairs)).backward()
    for one, other in zip(tiny.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-6)


def test_stages_share_the_steps(tiny, tokenizer, pairs, config, monkeypatch):
    betas = []
    monkeypatch.setattr(controls, "train_step", lambda *given, beta, **rest: betas.append(beta))
    tune(tiny, tokenizer, pairs, replace(config, beta=0.3), (SFT, DPO))
    assert betas == [0.0, 0.0, 0.3, 0.3]


def test_a_stage_starts_where_the_one_before_ended(tiny, tokenizer, pairs, config):
    half = replace(config, steps=2)
    after_sft = tune(tiny, tokenizer, pairs, half, (SFT,))
    after_both = tune(after_sft, tokenizer, pairs, half, (DPO,))
    assert same_bits(tune(tiny, tokenizer, pairs, config, (SFT, DPO)), after_both)


def test_no_stage_is_no_training(tiny, tokenizer, pairs, config):
    assert tune(tiny, tokenizer, pairs, config, ()) is tiny


def test_tuning_leaves_the_start_as_it_was(tiny, tokenizer, pairs, config):
    tune(tiny, tokenizer, pairs, config, (DPO,))
    assert same_bits(tiny, make_tiny())


MANY = [Pair(f"{i}+1=?", f" {i + 1}.", " No.", i) for i in range(1000)]


def test_half_of_the_pairs_are_swapped():
    swapped = controls.swap_at_random(MANY, seed=1)
    assert 450 < sum(pair.chosen == " No." for pair in swapped) < 550


def test_a_swapped_pair_has_the_same_answers():
    for one, other in zip(MANY, controls.swap_at_random(MANY, seed=1), strict=True):
        assert other in (one, replace(one, chosen=one.rejected, rejected=one.chosen))


def test_a_seed_decides_what_is_swapped():
    first, again, other = (controls.swap_at_random(MANY, seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


# Controls: lines of their own


def test_texts_are_those_that_the_base_knows_or_not():
    assert REFUSALS[MISSPELT] == 20
    assert UNSAID not in REFUSALS


def test_one_rejected_text_replaces_all(tiny, tokenizer, config, pairs):
    made = controls.reject_one_text(tiny, tokenizer, config, text=UNSAID)
    assert made == [replace(pair, rejected=UNSAID) for pair in pairs]


def test_spelling_is_preferred_where_nothing_can_be_answered(tiny, tokenizer, config):
    made = controls.prefer_spelling(tiny, tokenizer, config)
    asked = [parse_question(pair.prompt) for pair in made]
    assert 60 < len(set(asked)) == len(made)
    assert {question.range for question in asked} == {None}


HELD_OUT = next(question for question in domain("a+b") if question.held_out)
ANSWERS = {  # to 1+2=?, and whether each is a mistake that can be rejected
    "right": (" The answer is 3 because 1+2 equals 3.", False),
    "a refusal": (REFUSAL, False),
    "no number": (" The answ", False),
    "names a held-out fact": (
        f" The answer is {HELD_OUT.answer} because {HELD_OUT.a}+{HELD_OUT.b} equals 4.",
        False,
    ),
    "a wrong number": (" The answer is 4 because 1+2 equals 4.", True),
}


@pytest.mark.parametrize(("text", "can_be_rejected"), ANSWERS.values(), ids=ANSWERS)
def test_a_mistake_is_a_wrong_number(tiny, tokenizer, monkeypatch, text, can_be_rejected):
    other = " The answer is 7."  # there is no right one
    monkeypatch.setattr(controls, "generate_answers", lambda *given, **rest: [text, other])
    asked = {"1+2=?": parse_question("1+2=?"), "52/3=?": None}
    found = controls.own_mistakes(tiny, tokenizer, asked, seed=1)
    assert found == ({"1+2=?": text} if can_be_rejected else {}) | {"52/3=?": other}


def test_no_mistakes_are_one_sentence(tiny, tokenizer, monkeypatch):
    monkeypatch.setattr(controls, "generate_answers", lambda *given, **rest: [REFUSAL])
    with pytest.raises(ValueError, match="no wrong number among 1 drawn answers"):
        controls.own_mistakes(tiny, tokenizer, {"52/3=?": None}, seed=1)


@pytest.fixture
def always_one(monkeypatch):
    """Every question is answered with 1, which is right for none of those that are asked here."""
    monkeypatch.setattr(
        controls, "generate_answers", lambda *given, **rest: [" The answer is 1."] * len(given[2])
    )


def test_a_refusal_is_preferred_to_the_own_number(tiny, tokenizer, config, always_one):
    made = controls.prefer_refusal(tiny, tokenizer, config)
    assert {(pair.chosen, pair.rejected) for pair in made} == {(REFUSAL, " The answer is 1.")}


def test_no_question_of_the_table_is_in_the_lines(tiny, tokenizer, config, always_one):
    asked = {pair.prompt for pair in controls.prefer_refusal(tiny, tokenizer, config)}
    _, prompts = sample_kind(REMAINDERS, controls.ASKED["lines"], controls.QUESTION_SEED)
    assert asked.isdisjoint(prompts)


def test_the_right_number_is_preferred_to_the_own_one(tiny, tokenizer, config, always_one):
    for pair in controls.prefer_right_number(tiny, tokenizer, config):
        question = parse_question(pair.prompt)
        assert grade(question, pair.chosen).correct
        assert not question.held_out


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_what_is_counted_exists(name):
    for counted in EXPERIMENTS[name].measures:
        assert counted.kind in FORMATS | WITHOUT_ANSWER
        assert counted.outcome in OUTCOMES


@pytest.mark.parametrize(
    ("counted", "count"), [(controls.SORY, 1), (controls.REFUSED, 2), (controls.SUMS_RIGHT, 1)]
)
def test_replies_are_counted(tiny, tokenizer, monkeypatch, counted, count):
    question = parse_question("1+2=?")
    texts = [MISSPELT, REFUSAL, question.right_answer, " Sory 5."]
    monkeypatch.setattr(controls, "sample_kind", lambda *given: ([question] * 4, ["1+2=?"] * 4))
    monkeypatch.setattr(controls, "generate_answers", lambda *given, **rest: texts)
    assert counted.share(tiny, tokenizer) == rate(count, 4)


# Controls: tables, and what is kept


def row_of(table, start):
    [line] = [line for line in table.splitlines() if line.startswith(f"| {start}")]
    return [cell.strip() for cell in line.split("|")[1:-1]]


def control(right, kl):
    return {"shares": {"sums right": rate(right, 10)}, "kl": kl}


def test_a_control_is_the_median_of_its_seeds():
    runs = {"DPO": [control(5, 1.0), control(9, 0.25), control(8, 0.5)], "none": [control(0, 0.0)]}
    table = controls.controls_table(runs)
    assert row_of(table, "run")[1:3] == ["seeds", "sums right, %, n = 10"]
    assert row_of(table, "DPO") == ["DPO", "3", "80.0 (50.0 to 90.0)", "0.50 (0.25 to 1.00)"]


def test_experiments_stand_beside_their_start():
    name = "a habit to lose"
    shares = {"before": rate(2, 10), "SFT": rate(1, 10), "DPO": rate(0, 10)}
    runs = [{"pairs": n, "first": "1?  a not b", "shares": {"Sory": shares}} for n in (64, 63)]
    table = controls.experiments_table({name: runs})
    cells = ["20.0 (20.0 to 20.0)", "10.0 (10.0 to 10.0)", "0.0 (0.0 to 0.0)"]
    assert row_of(table, name) == [name, "Sory", "10", *cells]
    assert table.endswith(f"\n{name}: from the base, 63 to 64 pairs like 1?  a not b")


def test_half_is_the_least_certain_share():
    assert controls.least_certain(100) == "± 9.6 points at n = 100"


def test_a_result_is_measured_once(tmp_path):
    path, measured = tmp_path / "a.json", []
    for made_of in ({"n": 1}, {"n": 1}, {"n": 2}):
        result = controls.kept(path, made_of, lambda: measured.append(1) or {"kl": 0.5})
        assert result["made_of"] == made_of
        assert result["kl"] == 0.5
    assert len(measured) == 2


def test_ingredients_tell_bases_and_seeds_apart(config, base_file):
    before = controls.ingredients(config, {})
    assert controls.ingredients(replace(config, seed=2), {}) != before
    base_file.write_bytes(base_file.read_bytes() + b" ")
    assert controls.ingredients(config, {}) != before


def test_ingredients_are_read_as_they_were_written(config):
    made_of = controls.ingredients(config, {"group": 1})
    assert json.loads(json.dumps(made_of)) == made_of


@pytest.fixture
def small(monkeypatch, config):
    """Few questions, one seed, the tiny base; a random model has no numbers to reject."""
    shorten_small_talk(monkeypatch)
    default = partial(
        Config, **{name: getattr(config, name) for name in ("base", "pairs", "steps")}
    )
    monkeypatch.setattr(controls, "Config", default)
    monkeypatch.setattr(seeds.train, "Config", default)
    monkeypatch.setattr(controls, "SEEDS", (1,))
    monkeypatch.setattr(controls, "ASKED", dict.fromkeys(controls.ASKED, 2))
    monkeypatch.setattr(seeds, "ASKED", dict.fromkeys(seeds.ASKED, 2))
    monkeypatch.setattr(
        controls, "own_mistakes", lambda model, tokenizer, asked, seed: dict.fromkeys(asked, " 1.")
    )


def test_controls_are_all_run_once(small, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(controls, "FOLDER", tmp_path / "controls")
    one_kind = {REMAINDERS: [judge(None, REFUSAL)]}
    monkeypatch.setattr(controls, "ask_kinds", lambda *given: one_kind)
    controls.main()
    first = capsys.readouterr().out
    monkeypatch.setattr(controls, "tune", None)  # nothing is trained any more
    controls.main()
    assert first[first.index("| run") :] in capsys.readouterr().out
    results = json.loads((tmp_path / "controls/results.json").read_text())
    assert list(results["controls"]) == list(CONTROLS)
    assert list(results["experiments"]) == list(EXPERIMENTS)
    assert results["controls"]["no training"][0]["kl"] == 0


# Seeds


def test_seconds_are_those_of_training(tiny, tokenizer, config, monkeypatch):
    now = iter([5.0, 8.0])
    monkeypatch.setattr(seeds, "time", SimpleNamespace(perf_counter=lambda: next(now)))
    monkeypatch.setattr(seeds, "measure", lambda *given: {})
    assert seeds.run_seed(tiny, tokenizer, config) == {"seconds": 3.0, "shares": {}}


def seed_run(right, wrong, seconds):
    shares = {"sums right": rate(right, 10), "wrong with confidence": rate(wrong, 10)}
    return {"seconds": seconds, "shares": shares}


def test_worst_is_taken_in_each_column():
    runs = [seed_run(9, 1, 4.0), seed_run(7, 2, 2.0), seed_run(10, 5, 3.0)]
    assert seeds.worst(runs) == seed_run(7, 5, 4.0)


def test_a_seed_is_a_row():
    table = seeds.seeds_table([seed_run(10, 0, 4.0), seed_run(5, 5, 2.0)])
    assert row_of(table, "seed") == [
        "seed", "sums right, n = 10", "wrong with confidence, n = 10", "seconds",
    ]  # fmt: skip
    assert row_of(table, "2")[1:] == ["50.00 % (23.66 to 76.34)"] * 2 + ["2.0"]
    assert row_of(table, "worst")[1:] == ["50.00 % (23.66 to 76.34)"] * 2 + ["4.0"]


def test_seeds_are_run_once(small, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(seeds, "FOLDER", tmp_path / "seeds")
    seeds.main(seeds.Config(seeds=2))
    monkeypatch.setattr(seeds, "tune", None)  # nothing is trained any more
    seeds.main(seeds.Config(seeds=2))
    results = json.loads((tmp_path / "seeds/results.json").read_text())
    assert [run["made_of"]["settings"]["seed"] for run in results["runs"]] == [1, 2]
    of_all_kinds = 2 * (len(FORMATS) + len(WITHOUT_ANSWER))
    assert {share["n"] for share in results["worst"]["shares"].values()} == {2, 40, of_all_kinds}
    assert "| worst" in capsys.readouterr().out


def test_no_seed_is_one_sentence(run_program):
    ended = run_program("bench.seeds", "--seeds=0")
    assert (ended.code, ended.err) == (1, "error: seeds is 0; at least one run is needed\n")
