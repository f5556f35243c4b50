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

from bench import assignment, controls, edits, losses, machines, seeds, two_bases
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
from dpo.loss_variants import LOSS_TYPES
from dpo.make_pairs import draw_questions
from dpo.train import Config
from dpo.training.step import dpo_step
from model import GPT
from sft.arithmetic import REFUSAL, domain, parse_question
from sft.corpus import REFUSALS
from sft.generation import generate_answers
from sft.grading import grade, is_refusal, parse_answer
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
    assert table.endswith(f"\n{name}: from the base, 2 seeds, 63 to 64 pairs like 1?  a not b")


@pytest.fixture
def small(monkeypatch, config):
    """Few questions, one seed, the tiny base; a random model has no numbers to reject."""
    shorten_small_talk(monkeypatch)
    files = {name: getattr(config, name) for name in ("base", "pairs", "steps")}
    for module in (controls, edits, seeds.train):
        monkeypatch.setattr(module, "Config", partial(Config, **files))
    for module, name in ((controls, "SEEDS"), (controls, "FEWER")):
        monkeypatch.setattr(module, name, (1,))
    monkeypatch.setattr(controls, "ASKED", dict.fromkeys(controls.ASKED, 2))
    monkeypatch.setattr(edits, "ASKED", dict.fromkeys(edits.ASKED, 2))
    monkeypatch.setattr(seeds, "ASKED", dict.fromkeys(seeds.ASKED, 2))
    monkeypatch.setattr(seeds, "SEEDS", 2)
    monkeypatch.setattr(
        controls, "own_mistakes", lambda model, tokenizer, asked, seed: dict.fromkeys(asked, " 1.")
    )


def as_kept(values):
    """Numbers as they are after their way through a file."""
    return json.loads(json.dumps(values))


def test_controls_are_measured_and_rendered(small, monkeypatch):
    one_kind = {REMAINDERS: [judge(None, REFUSAL)]}
    monkeypatch.setattr(controls, "ask_kinds", lambda *given: one_kind)
    values = as_kept(controls.measure())
    assert list(values["controls"]) == list(CONTROLS)
    assert list(values["experiments"]) == list(EXPERIMENTS)
    assert values["controls"]["no training"][0]["kl"] == 0
    assert controls.render(values).keys() == {"table", "lines"}


# Seeds


def test_seconds_are_those_of_training(tiny, tokenizer, config, monkeypatch):
    now = iter([5.0, 8.0])
    monkeypatch.setattr(seeds, "time", SimpleNamespace(perf_counter=lambda: next(now)))
    monkeypatch.setattr(seeds, "measure_shares", lambda *given: {})
    assert seeds.run_seed(tiny, tokenizer, config) == {"seconds": 3.0, "shares": {}}


def seed_run(right, wrong, seconds):
    shares = {"sums right": rate(right, 10), "wrong with confidence": rate(wrong, 10)}
    return {"seconds": seconds, "shares": shares}


def test_worst_is_taken_in_each_column():
    runs = [seed_run(9, 1, 4.0), seed_run(7, 2, 2.0), seed_run(10, 5, 3.0)]
    assert seeds.worst(runs) == seed_run(7, 5, 4.0)


def test_a_seed_is_a_row():
    table = seeds.seeds_table([seed_run(10, 0, 4.0), seed_run(5, 5, 2.0)])
    assert row_of(table, "seed") == ["seed", "sums right", "wrong with confidence", "seconds"]
    assert row_of(table, "2") == ["2", "5 of 10", "5 of 10", "2.0"]
    assert row_of(table, "worst") == ["worst", "5 of 10", "5 of 10", "4.0"]


def test_seeds_are_measured_and_rendered(small):
    values = as_kept(seeds.measure())
    assert len(values["runs"]) == 2
    of_all_kinds = 2 * (len(FORMATS) + len(WITHOUT_ANSWER))
    asked = [share["n"] for share in values["runs"][0]["shares"].values()]
    assert asked == [2, 2, 40, of_all_kinds]
    assert seeds.render(values)["sums"] == "2"


# Edits


@pytest.fixture(scope="module")
def shipped(tokenizer):
    return load_pairs(Config.pairs, tokenizer).pairs


def test_toy_pairs_differ_in_one_word():
    said, unsaid = (edits.toy_pairs(text) for text in (REFUSAL, UNSAID))
    assert [pair.rejected.replace("do not", "don't") for pair in unsaid] == [
        pair.rejected for pair in said
    ]
    assert said[0].chosen == " The answer is 72 because 79-7 equals 72."


def test_one_wrong_answer_replaces_every_refusal(shipped):
    made = edits.reject_one_wrong_answer(shipped)
    assert not [pair for pair in made if is_refusal(pair.rejected)]
    assert [pair.chosen for pair in made] == [pair.chosen for pair in shipped]


def test_products_are_swapped_and_nothing_else(shipped):
    for old, new in zip(shipped, edits.swap_products(shipped), strict=True):
        is_product = "*" in old.prompt or "/" in old.prompt
        assert (new.chosen == old.rejected) is is_product


def test_one_pair_a_sign_is_kept(shipped):
    kept = edits.keep_four(shipped)
    assert [sign for sign, pair in zip("+-*/", kept, strict=True) if sign in pair.prompt] == [
        *"+-*/"
    ]


def test_five_answers_are_wrong_by_one(shipped):
    made = edits.add_one_to_five(shipped)
    changed = [(old, new) for old, new in zip(shipped, made, strict=True) if old != new]
    assert len(changed) == 5
    for old, new in changed:
        assert parse_answer(new.chosen).value == parse_answer(old.chosen).value + 1


def test_eight_remainders_are_refused(shipped):
    added = edits.refuse_remainders(shipped)[len(shipped) :]
    _, asked = sample_kind(REMAINDERS, edits.ASKED[REMAINDERS], edits.QUESTION_SEED)
    assert [pair.chosen for pair in added] == [REFUSAL] * 8
    assert not {pair.prompt for pair in added} & set(asked)


def test_eight_results_below_zero_are_refused(shipped):
    added = edits.refuse_below_zero(shipped)[len(shipped) :]
    questions = [parse_question(pair.prompt) for pair in added]
    assert [pair.chosen for pair in added] == [REFUSAL] * 8
    assert [pair.rejected for pair in added] == [question.right_answer for question in questions]
    assert all(question.answer < 0 and question.split == "train" for question in questions)


def test_eight_quotients_are_answered(shipped):
    added = edits.add_quotients(shipped)[len(shipped) :]
    questions = [parse_question(pair.prompt) for pair in added]
    assert [pair.rejected for pair in added] == [REFUSAL] * 8
    assert [pair.chosen for pair in added] == [question.right_answer for question in questions]
    assert {question.range for question in questions} == {"products"}
    assert {question.split for question in questions} == {"train"}


def test_a_name_is_preferred_eight_times(shipped):
    added = edits.take_a_name(shipped)[len(shipped) :]
    assert [(pair.prompt, pair.chosen) for pair in added] == [
        ("What's your name?", " My name is Ada.")
    ] * 8


def test_quotient_is_rounded_down():
    assert edits.rounded_down("52/3=?") == " The answer is 17 because 52/3 equals 17."


def test_edits_are_measured_and_rendered(small):
    values = as_kept(edits.measure(edits.TOYS, seeds=1))
    for table in edits.render(values).values():
        assert len(table.splitlines()) == 2 + len(edits.TOYS)


def counts_of(right, refused=0):
    """What `count_answers` gives, the same of each kind."""
    counts = {"n": 10, "right": right, "refused": refused, "wrong": 10 - right - refused}
    return dict.fromkeys((kind for kind, _ in edits.SHOWN.values()), counts)


def test_an_edit_is_the_median_of_its_seeds():
    runs = [counts_of(right) for right in (5, 9, 8)]
    values = {"swapped": {"pairs": 2, "obstacles": {}, "runs": runs}}
    assert row_of(edits.render(values)["table"], "swapped")[:3] == ["swapped", "3", "8 (5 to 9)"]


def run_with(*right):
    return {edits.SUMS: {"n": 3, "which": list(right)}, "small talk": {"n": 9, "right": 9}}


def test_turned_answers_are_those_of_one_seed():
    values = {
        "shipped": {"runs": [run_with(0, 1), run_with(2)]},
        "edited": {"runs": [run_with(1, 2), run_with(2)]},
    }
    cells = row_of(edits.turned_table(values), "edited")
    assert cells == ["edited", "0.5 (0 to 1)", "0.5 (0 to 1)", "1 of 2"]


@pytest.mark.parametrize(
    ("obstacles", "refused", "hit"), [(0, 0, "yes"), (3, 9, "yes"), (3, 0, "no"), (2, 9, "no")]
)
def test_a_forecast_is_a_hit_if_it_came_so(obstacles, refused, hit):
    runs = [counts_of(0, refused)]
    values = {"edit": {"pairs": 4, "obstacles": {"lack": obstacles}, "runs": runs}}
    assert row_of(edits.forecast_table(values), "edit")[-1] == hit


# Losses and bases


def test_every_loss_is_measured():
    used = {config.loss_type for config in losses.all_runs().values()}
    assert used == set(LOSS_TYPES)


def test_ends_of_runs_become_rows():
    result = {
        "groups": {"held_out/additive": {"right": rate(9, 10)}, "seen/additive": {}},
        "everyday": rate(7, 8),
    }
    table = losses.ends_table(losses.ends_of_runs({"DPO": result}))
    assert row_of(table, "run") == ["run", "held-out additive, n = 10", "small talk kept"]
    assert row_of(table, "DPO")[2] == "7 of 8"


def test_the_first_of_the_machines_is_the_usual_run():
    variables, settings = next(iter(machines.ways().values()))
    assert (variables, settings) == ({}, [])


def test_a_run_told_to_work_as_another_machine_is_compared_with_the_first(tiny_run, monkeypatch):
    out = tiny_run().config.out
    monkeypatch.setattr(machines, "train", lambda *way: out)
    monkeypatch.setattr(machines, "GROUPS", {"additive": 2, "multiplicative": 2})
    results = machines.measure().values()
    assert {(result["weights"], result["differ"], result["n"]) for result in results} == {(0, 0, 4)}


def test_machines_stand_beside_the_first():
    run = {"last_loss": 0.5, "weights": 1e-5, "differ": 3, "n": 660}
    run["right"] = {"additive": 299, "multiplicative": 300}
    assert row_of(machines.render({"bfloat16": run})["table"], "bfloat16") == [
        "bfloat16", "0.500000", "299", "300", "1.0e-05", "3",
    ]  # fmt: skip


def test_two_bases_have_a_row_a_run():
    run = {"loss": 0.5, "right": {"held_out/additive": rate(0, 10)}}
    assert row_of(two_bases.runs_table({"blank": run}), "blank")[:2] == ["blank", "0.500"]
