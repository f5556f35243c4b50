"""The pairs as the base sees them: by hand, against autograd, and against what a run then does."""

import copy
import math
from dataclasses import dataclass

import pytest
from conftest import make_tiny, teach

import dpo.pairs
from dpo.data.batches import collate_pairs, tokenize_pairs
from dpo.data.pair import Pair
from dpo.evaluation.forecast import (
    ScoredPair,
    describe_forecast,
    find_obstacle,
    first_pushes,
    score_pairs,
)
from dpo.evaluation.tokens import answer_logps, completion_logps
from dpo.pairs import Config, main
from dpo.plots.pairs import likelihood_figure
from dpo.training.logps import compute_reference_logps
from dpo.training.step import train_step
from sft.generation import generate_answers
from sft.optimizers import make_optimizers, make_schedulers

RIGHT, REFUSAL, FOREIGN = " The answer is 36.", " Sorry, I don't know.", " Sorry, I do not know."
PAIRS = [
    Pair("17+19=?", RIGHT, REFUSAL, 1),
    Pair("x+17=36,x=?", " The answer is 19 because 36-17 equals to 19.", " No.", 2),
    Pair("3*4=?", " The answer is 12.", " The answer is 13.", 3),
]


# Scores


@pytest.fixture
def scored(tiny, tokenizer):
    return score_pairs(tiny, tokenizer, PAIRS)


def test_scores_keep_the_order_of_the_pairs(scored):
    assert [it.pair for it in scored] == PAIRS


@pytest.mark.parametrize("i", range(3))
def test_scores_are_those_of_single_answers(scored, tiny, tokenizer, i):
    for answer, logps in (
        (PAIRS[i].chosen, scored[i].chosen),
        (PAIRS[i].rejected, scored[i].rejected),
    ):
        alone = answer_logps(tiny, tokenizer, PAIRS[i].prompt, answer)
        assert logps == pytest.approx(alone, rel=1e-4)


def test_scores_sum_to_what_a_run_starts_from(scored, tiny, tokenizer):
    reference = compute_reference_logps(tiny, tokenize_pairs(tokenizer, PAIRS)).flatten().tolist()
    sums = [logp for it in scored for logp in (it.chosen_logp, it.rejected_logp)]
    assert sums == pytest.approx(reference, rel=1e-4)


# Where a run pushes first


def likely(chosen=RIGHT, rejected=REFUSAL, line=1, in_chosen=(), in_rejected=()):
    """A scored pair of sure characters, but for these (place, probability)."""
    sides = []
    for answer, unsure in ((chosen, in_chosen), (rejected, in_rejected)):
        logps = [math.log(0.9999)] * (len(answer) + 1)
        for place, probability in unsure:
            logps[place] = math.log(probability)
        sides.append(logps)
    return ScoredPair(Pair("17+19=?", chosen, rejected, line), *sides)


def test_pushes_by_hand():
    # The answers part at 0. Behind that: 0.5 in the chosen one, 0.75 and 1 - 1e-5 in the other.
    it = ScoredPair(
        Pair("17+19=?", "ab", "cde", 1),
        [math.log(0.3), math.log(0.5), 0.0],
        [math.log(0.6), math.log(0.25), math.log(1e-5), 0.0],
    )
    total = 1 + 0.5 + 0.75 + (1 - 1e-5)
    pushes = {"parting": 1, "chosen": 0.5, "rejected": 1.75 - 1e-5, "never": 1 - 1e-5}
    expected = {name: push / total for name, push in pushes.items()}
    assert first_pushes([it]) == pytest.approx(expected)


def test_a_parting_that_is_never_written_counts_as_never():
    it = ScoredPair(Pair("17+19=?", "a", "b", 1), [0.0, 0.0], [math.log(1e-5), 0.0])
    assert first_pushes([it])["never"] == 1


def test_pushes_of_many_pairs_are_those_of_one():
    one = likely(in_chosen=[(1, 0.3), (15, 0.5)], in_rejected=[(1, 0.6)])
    assert first_pushes([one] * 7) == pytest.approx(first_pushes([one]))


@pytest.mark.parametrize("pair", PAIRS, ids=["refusal", "unlike", "near miss"])
def test_pushes_are_half_the_gradient_of_the_margin(pair, tiny, tokenizer):
    logits = {}  # by what stands before: both answers read the same ones until they part

    def logp(answer):
        total = 0.0
        all_logps = completion_logps(tiny, tokenizer, pair.prompt, answer)
        for place, character in enumerate(f"{answer}\n"):
            leaf = logits.setdefault(answer[:place], all_logps[place].clone().requires_grad_())
            total = total + leaf.log_softmax(dim=0)[tokenizer.stoi[character]]
        return total

    (logp(pair.chosen) - logp(pair.rejected)).backward()
    [it] = score_pairs(tiny, tokenizer, [pair])
    pushed = {before: leaf.grad.abs().sum().item() / 2 for before, leaf in logits.items()}
    parting = pushed[pair.chosen[: it.parting]]
    share = parting / sum(pushed.values())
    assert parting == pytest.approx(1, abs=1e-5)
    assert first_pushes([it])["parting"] == pytest.approx(share, rel=1e-4)


# Pairs that leave the base no choice

OBSTACLES = {
    "lack the space before an answer": likely(rejected=REFUSAL[1:], in_rejected=[(0, 1e-6)]),
    "prefer what the base cannot say": likely(in_chosen=[(1, 0.3), (15, 1e-4)]),
    "prefer what the base says already": likely(rejected=" The answer is 37."),
    "reject what the base never says": likely(
        rejected=FOREIGN, in_chosen=[(1, 0.3)], in_rejected=[(12, 1e-9), (15, 1e-6)]
    ),
}
FREE = likely(in_chosen=[(1, 0.3)], in_rejected=[(1, 0.6)])


@pytest.mark.parametrize("name", OBSTACLES)
def test_obstacle_is_found(name):
    assert find_obstacle(OBSTACLES[name]).name == name


def test_a_choice_is_no_obstacle():
    assert find_obstacle(FREE) is None


def test_an_unlikely_parting_is_no_obstacle_of_the_chosen_answer():
    assert find_obstacle(likely(in_chosen=[(1, 1e-5)])) is None


def test_an_unlikely_character_is_none_that_is_never_written():
    assert (
        find_obstacle(likely(in_chosen=[(1, 0.3), (15, 0.002)], in_rejected=[(4, 0.002)])) is None
    )


def test_an_answer_without_space_is_fine_where_the_base_says_so():
    spaceless = likely(RIGHT[1:], REFUSAL[1:], in_chosen=[(0, 0.3)], in_rejected=[(0, 0.6)])
    assert find_obstacle(spaceless) is None


def test_what_both_answers_share_is_no_obstacle():
    unsure = [(1, 1e-6), (10, 0.4)]  # B, and where the answers part
    begun = likely(" Blue or 36.", " Blue or 37.", in_chosen=unsure, in_rejected=unsure)
    assert find_obstacle(begun) is None


# In words


@pytest.fixture
def describe(tiny, tokenizer):
    return lambda scored: describe_forecast(tiny, tokenizer, scored).splitlines()


def test_likelihoods_are_said(describe):
    # 0.3 and 0.6 where the answers part, 0.9999 at 18 and 21 other characters
    assert describe([FREE])[:2] == [
        "typical probability under the base: chosen answers 30%, rejected ones 60%",
        "at the first character that differs, it writes the chosen one 30%, the rejected one 60%, "
        "another one 10%",
    ]


def test_typical_is_the_geometric_mean(describe):
    rare = likely(in_chosen=[(1, 0.003)], in_rejected=[(1, 0.006)])
    assert describe([FREE, rare])[0].endswith("chosen answers 3%, rejected ones 6%")


def test_pairs_with_a_choice_are_said_to_have_one(describe):
    assert describe([FREE] * 3)[-1] == "the base has a choice in every pair"


def test_a_warning_names_lines_and_character(describe):
    lines = describe(
        [FREE, likely(rejected=FOREIGN, line=9, in_chosen=[(1, 0.3)], in_rejected=[(12, 1e-9)])]
    )
    assert lines[3].startswith(
        "warning: 1 of 2 pairs reject what the base never says: line 9 "
        "(after ' Sorry, I do' the base writes ' ' with 1e-09); the loss falls there"
    )


def test_the_bases_own_answer_is_said(describe, tiny, tokenizer):
    [said] = generate_answers(tiny, tokenizer, ["17+19=?"])
    last = describe([OBSTACLES["lack the space before an answer"]])[-1]
    assert last == f"what the base does say to '17+19=?': {said!r}"


def test_every_obstacle_has_one_line(describe):
    lines = describe([FREE, *OBSTACLES.values()])
    assert [name for name in OBSTACLES if any(name in line for line in lines)] == [*OBSTACLES]
    assert len(lines) == 3 + 4 + 1


def test_the_words_do_not_grow_with_the_pairs(describe):
    few, many = (describe(n * [*OBSTACLES.values()]) for n in (6, 60))
    assert [len(line) for line in many] == pytest.approx([len(line) for line in few], abs=4)


# What a run then does


ANSWER = " The answer is 3."


def refusing(tokenizer):
    """A tiny model that refuses 1+2=? four times as often as it answers."""
    model = make_tiny()
    teach(model, tokenizer, ["1+2=?"] * 5, [*[REFUSAL] * 4, ANSWER], steps=200)
    return model


def log_odds(model, tokenizer):
    """How much likelier the model begins the answer than the refusal, in nats."""
    return (
        answer_logps(model, tokenizer, "1+2=?", ANSWER)[1]
        - answer_logps(model, tokenizer, "1+2=?", REFUSAL)[1]
    )


@dataclass
class Tuned:
    scored: ScoredPair  # before
    loss: float  # of the last step
    gain: float  # of the log-odds, in nats


@pytest.fixture(scope="module")
def tuned(tokenizer):
    """The same model tuned on one pair that rejects what it says, and on one that does not."""
    model, runs = refusing(tokenizer), {}
    for rejected in (REFUSAL, FOREIGN):
        pairs = [Pair("1+2=?", ANSWER, rejected, 1)]
        policy, tokenized = copy.deepcopy(model), tokenize_pairs(tokenizer, pairs)
        batch = [collate_pairs(tokenized, compute_reference_logps(model, tokenized))]
        optimizers = make_optimizers(policy, "adamw", 3e-4)
        schedulers = make_schedulers(optimizers, 20)
        for _ in range(20):
            loss = train_step(policy, batch, optimizers, schedulers, beta=0.1)["loss/preference"]
        gain = log_odds(policy, tokenizer) - log_odds(model, tokenizer)
        runs[rejected] = Tuned(*score_pairs(model, tokenizer, pairs), loss, gain)
    return runs


def test_forecast_knows_what_the_base_says(tuned):
    assert find_obstacle(tuned[REFUSAL].scored) is None
    assert find_obstacle(tuned[FOREIGN].scored).name == "reject what the base never says"


def test_rejecting_what_it_never_says_changes_the_answer_less(tuned):
    assert tuned[FOREIGN].gain < tuned[REFUSAL].gain


def test_rejecting_what_it_never_says_makes_the_loss_smaller(tuned):
    assert tuned[FOREIGN].loss < tuned[REFUSAL].loss


# The figure


@pytest.fixture(scope="module")
def figure():
    return likelihood_figure([FREE, FREE, *OBSTACLES.values()])


def test_figure_has_a_point_a_pair(figure):
    points = [line for line in figure.axes[0].lines if line.get_marker() in "os^Dv"]
    assert [len(line.get_xdata()) for line in points] == [2, 1, 1, 1, 1]


def test_a_point_has_both_log_probabilities(figure):
    [x, _], [y, _] = figure.axes[0].lines[0].get_data()
    assert x == pytest.approx(math.log(0.6) + 21 * math.log(0.9999))
    assert y == pytest.approx(math.log(0.3) + 18 * math.log(0.9999))


@pytest.mark.parametrize(
    ("pairs", "title"),
    [
        ([FREE, FREE, *OBSTACLES.values()], "2 of 6 pairs leave the base a choice"),
        ([FREE] * 3, "All 3 pairs leave the base a choice"),
        (
            [FREE, *[OBSTACLES["reject what the base never says"]] * 2],
            "2 of 3 pairs reject what the base never says",
        ),
    ],
)
def test_figure_names_the_commonest_kind_of_pair(pairs, title):
    assert likelihood_figure(pairs).axes[0].get_title("left") == title


@pytest.mark.parametrize("name", OBSTACLES)
def test_figure_names_every_obstacle(figure, name):
    named = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert f"1 {name} (first: line 1)" in [text.replace("\n", " ") for text in named]


def test_names_and_meaning_do_not_overlap():
    figure = likelihood_figure([FREE, *OBSTACLES.values()])
    axis = figure.axes[0]
    [meaning] = axis.texts
    figure.canvas.draw()
    assert not axis.get_legend().get_window_extent().overlaps(meaning.get_window_extent())


# The program


@pytest.fixture
def report(pairs_file, base_file, capsys):
    def run():
        main(Config(files=(str(pairs_file),), report=True, base=str(base_file)))
        return capsys.readouterr().out

    return run


def test_report_says_what_the_base_makes_of_the_pairs(report, base_file):
    assert f"what {base_file} makes of them:\ntypical probability" in report()


def test_report_takes_some_of_many_pairs(report, monkeypatch):
    monkeypatch.setattr(dpo.pairs, "MOST_SCORED", 3)
    assert "makes of them, of 3 pairs spread over the file:" in report()


def test_report_needs_a_base(pairs_file, tmp_path):
    with pytest.raises((ValueError, OSError), match=r"nowhere\.pt"):
        main(Config(files=(str(pairs_file),), report=True, base=str(tmp_path / "nowhere.pt")))
