"""Every exhibit really makes its mistake, in one place, and is shown as it is."""

import inspect
import io
import math
from contextlib import redirect_stdout

import matplotlib.pyplot as plt
import pytest
import torch
from conftest import make_tiny, same_bits, write_tiny_pairs
from histories import made_up_run, ramp

import dpo.museum as museum
from dpo.data.pair import Pair
from dpo.evaluation.replies import judge
from dpo.museum import (
    EXHIBITS,
    RUN,
    Config,
    ExhibitResult,
    Healthy,
    Trial,
    copy_of,
    main,
    museum_table,
    placard,
    reader_summary,
    reader_table,
    run_museum,
)
from dpo.plots.museum import exhibit_figure, museum_figure, museum_puzzle, puzzle_order
from dpo.training.history import History
from sft.arithmetic import parse_question
from sft.checkpoint.weights import save_checkpoint
from sft.sequences import encode_sequence

TITLES = [kind.title for kind in EXHIBITS]
PAIR = Pair("1+2=?", " It is 3.", " Sorry, I don't know.", 1)
QUESTIONS = [parse_question(text) for text in ("17+19=?", "3+4=?", "9-2=?", "5+6=?")]


# One mistake each

every_exhibit = pytest.mark.parametrize("kind", EXHIBITS, ids=TITLES)


def own_method(kind):
    """The name of the one method that an exhibit replaces."""
    [name] = (name for name, value in vars(kind).items() if inspect.isfunction(value))
    return name


@every_exhibit
def test_an_exhibit_replaces_one_method_only(kind):
    own = {name for name in vars(kind) if not name.startswith("__")}
    assert kind.__mro__[1] is Healthy
    assert own == {"title", "lesson", own_method(kind)}


@every_exhibit
def test_an_exhibits_mistake_is_one_line(kind):
    source = inspect.getsource(getattr(kind, own_method(kind)))
    assert len(source.splitlines()) == 2  # def and the mistake


@every_exhibit
def test_an_exhibit_shows_its_own_source(kind):
    name = own_method(kind)
    right, wrong = ExhibitResult(kind, [], [], []).change
    assert right != wrong
    for owner, line in ((Healthy, right), (kind, wrong)):
        assert line.startswith(f"{name} = ")
        assert line.removeprefix(f"{name} = ") in inspect.getsource(owner)


@pytest.mark.parametrize(
    ("kind", "prompt", "completion"),
    [
        (Healthy, "1+2=?", " It is 3.\n"),
        (museum.PromptNotMasked, "1", "+2=? It is 3.\n"),
        (museum.QuestionsCutOff, "=?", " It is 3.\n"),
    ],
)
def test_what_an_exhibit_scores(tokenizer, kind, prompt, completion):
    row = kind().scored(encode_sequence(tokenizer.encode, "1+2=?", " It is 3."))
    assert tokenizer.decode(row.prompt) == prompt
    assert tokenizer.decode(row.completion) == completion


def test_one_word_is_changed_in_rejected_answers():
    assert museum.OneWord().pair(PAIR) == Pair("1+2=?", " It is 3.", " Sorry, I do not know.", 1)


def test_swapped_answers_change_places():
    assert museum.Swapped().pair(PAIR) == Pair("1+2=?", " Sorry, I don't know.", " It is 3.", 1)


@pytest.mark.parametrize(("kind", "same"), [(Healthy, True), (museum.DropoutOn, False)])
def test_dropout_scores_the_same_text_twice(tiny, kind, same):
    ids, policy = torch.arange(20)[None], kind().policy(tiny)
    assert torch.equal(policy(ids)[0], policy(ids)[0]) == same
    assert policy is not tiny


def test_no_reference_is_all_zeros():
    logps = museum.NoReference().reference_logps(torch.tensor([[-1.0, -2.0]]))
    assert logps.tolist() == [[0.0, 0.0]]


def test_beta_upside_down_is_1_over_beta():
    assert (RUN.beta, museum.BetaUpsideDown().beta()) == (0.1, 10.0)


def test_rate_twice_is_the_rate_squared(tiny):
    optimizer = torch.optim.AdamW(tiny.parameters(), lr=RUN.base_lr)
    museum.RateTwice().schedulers([optimizer])
    assert optimizer.param_groups[0]["lr"] == pytest.approx(RUN.base_lr**2)


def test_the_rate_of_pretraining_is_far_higher():
    assert museum.RateTooHigh().base_lr() > 30 * RUN.base_lr


# Runs


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The museum on a tiny base and eight pairs, with four steps a run."""
    folder = tmp_path_factory.mktemp("museum")
    save_checkpoint(folder / "base.pt", make_tiny())
    write_tiny_pairs(folder / "pairs.json")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RUN, "base", str(folder / "base.pt"))
        patch.setattr(RUN, "pairs", str(folder / "pairs.json"))
        patch.setattr(RUN, "steps", 4)
        patch.setattr(RUN, "base_lr", 1e-3)
        yield folder


@pytest.fixture(scope="module")
def everything(small):
    """What the program prints of all exhibits, two seeds each; its picture; results by title."""
    printed, picture = io.StringIO(), small / "museum.png"
    kept = {}

    def keep(*given):
        results = run_museum(*given)
        kept.update({result.title: result for result in results})
        return results

    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed):
        patch.setattr(museum, "run_museum", keep)
        main(Config(n=3, seeds=2, device="cpu", figure=str(picture)))
    return printed.getvalue(), picture.read_bytes(), kept


@pytest.fixture(scope="module")
def results(everything):
    return everything[2]


def answers(trial):
    return [reply.text for reply in trial.replies]


def test_every_exhibit_comes_after_the_healthy_run(results):
    assert list(results) == ["healthy", *TITLES]


def test_there_is_a_trial_of_every_seed(results):
    assert {len(result.trials) for result in results.values()} == {2}


def test_a_healthy_run_starts_at_ln_2_and_falls(results):
    first, *_, last = results["healthy"].curves[0]
    assert first == pytest.approx(math.log(2), abs=1e-4)
    assert last < first


def test_seeds_differ_in_their_order_of_pairs(results):
    one, other = results["healthy"].curves
    assert one[1:] != other[1:]


def test_one_seed_is_one_run(results):
    # only the file that is tested differs there
    assert results["stale checkpoint"].curves == results["healthy"].curves


def test_a_scored_prompt_cancels(results):
    for scored, masked in zip(
        results["prompt not masked"].curves, results["healthy"].curves, strict=True
    ):
        assert scored == pytest.approx(masked, abs=1e-4)


def test_a_squared_rate_moves_nothing(results):
    assert results["learning rate squared"].curves[0][-1] == pytest.approx(math.log(2), abs=1e-3)


@pytest.mark.parametrize("title", ["dropout in scoring", "no reference"])
def test_a_first_loss_that_is_not_ln_2_gives_away(results, title):
    assert abs(results[title].curves[0][0] - math.log(2)) > 1e-3


def test_a_stale_checkpoint_answers_as_the_base(results):
    stale = results["stale checkpoint"]
    assert answers(stale.trials[0]) == [reply.text for reply in stale.base]
    assert answers(results["healthy"].trials[0]) != [reply.text for reply in stale.base]


def test_program_prints_every_exhibit(everything):
    missing = [
        t for t in TITLES if f"**{t}** (" not in everything[0] or f"| {t} " not in everything[0]
    ]
    assert missing == []


def test_program_prints_the_mistakes(everything):
    assert "wrong    scored = Sequence(text.prompt[-2:], text.completion)" in everything[0]


def test_program_sums_up_the_curve_reader(everything):
    assert "of the 20 runs with a mistake and of" in everything[0]


def test_program_draws_the_museum(everything):
    assert everything[1].startswith(b"\x89PNG")


def test_the_base_is_not_trained(small, results):
    assert same_bits(museum.load_model(RUN.base)[0], make_tiny())


def test_a_choice_has_its_healthy_run(small):
    chosen = run_museum(["one word"], 2, device="cpu", seeds=1)
    assert [result.title for result in chosen] == ["healthy", "one word"]


def test_healthy_runs_can_be_made_alone(small):
    [result] = run_museum(["healthy"], 2, device="cpu", seeds=2)
    assert (result.title, len(result.trials)) == ("healthy", 2)


def test_an_unknown_exhibit_names_those_there_are():
    message = "no exhibit is called 'beta'; there are: healthy, one word, answers swapped, "
    with pytest.raises(ValueError, match=message):
        run_museum(["beta"])


def test_no_seed_is_refused():
    with pytest.raises(ValueError, match="seeds is 0; at least one run"):
        run_museum(seeds=0)


def test_copies_share_no_memory(tiny):
    copy = copy_of(tiny, dropout=0.0)
    with torch.no_grad():
        copy.lm_head.weight.zero_()
    assert tiny.lm_head.weight.abs().sum() > 0


# Verdicts and words, on made-up runs of four questions


WELL = History(made_up_run().steps, {})  # without an eval, as in the museum
FALLING = History(made_up_run(rewards__chosen=ramp(0, -0.4)).steps, {})


def trial(right, history=WELL):
    """A run that answers so many of the four questions right, and the others with a refusal."""
    texts = [q.right_answer if i < right else " Sorry." for i, q in enumerate(QUESTIONS)]
    replies = [judge(q, text) for q, text in zip(QUESTIONS, texts, strict=True)]
    return Trial(history, replies)


def result_of(kind, counts, healthy=(4, 4), history=WELL):
    trials = [trial(right, history) for right in counts]
    return ExhibitResult(kind, trials, [trial(right) for right in healthy], trial(0).replies)


@pytest.mark.parametrize(
    ("counts", "verdict"),
    [
        ((0, 1), "harm in 2 of 2 runs: 0 to 1 of 4 right"),
        ((1, 2), "harm in 1 of 2 runs: 1 to 2 of 4 right"),  # half as many are no harm
        ((3, 4), "no harm here: 3 to 4 of 4 right"),
    ],
)
def test_harm_is_less_than_half_of_the_healthy_run(counts, verdict):
    assert result_of(museum.OneWord, counts).verdict == verdict


def test_a_run_is_compared_with_that_of_its_seed():
    assert result_of(museum.OneWord, (1, 1), healthy=(2, 3)).harmed == 1


def test_a_healthy_verdict_speaks_of_no_harm():
    assert result_of(Healthy, (4, 3)).verdict == "3 to 4 of 4 right"


def test_equal_counts_are_told_once():
    assert result_of(museum.OneWord, (0, 0)).right == "0 of 4"


def test_a_warning_is_counted_and_praise_is_not():
    assert result_of(Healthy, (4, 4)).warned == 0
    assert result_of(museum.OneWord, (0, 0), history=FALLING).warned == 2


def test_reader_table_counts_runs_by_what_is_said():
    rows = reader_table(
        [result_of(Healthy, (4, 4)), result_of(museum.OneWord, (0, 0), history=FALLING)]
    )
    cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows.splitlines()]
    assert cells[0] == ["the curve reader says", "chosen falling", "no problem seen"]
    assert cells[2:] == [["healthy", "-", "2"], ["one word", "2", "-"]]


def test_reader_summary_sets_mistakes_against_healthy_runs():
    results = [result_of(Healthy, (4, 4)), result_of(museum.OneWord, (0, 0), history=FALLING)]
    told = "warns of 2 of the 2 runs with a mistake and of 0 of the 2 runs without one."
    assert reader_summary(results).endswith(told)


def test_museum_table_has_first_and_last_loss():
    row = museum_table([result_of(museum.OneWord, (0, 1))]).splitlines()[2]
    cells = [cell.strip() for cell in row.split("|")[1:-1]]
    # the ramp from ln 2 to 0.5 ends with 0.5 and three values before it: 0.505 on average
    assert cells == ["one word", "0.693, 0.505", "0 to 1 of 4", "2 of 2", "0 of 2"]


def test_a_sample_is_the_first_answer_that_is_not_right():
    assert result_of(museum.OneWord, (2, 0)).sample == {
        "question": "9-2=?",
        "base": "Sorry.",
        "healthy": "The answer is 7 because 9-2 equals 7.",
        "mistake": "Sorry.",
    }


def test_an_answer_of_spaces_is_their_number():
    blank = Trial(WELL, [judge(QUESTIONS[0], " " * 80)])
    result = ExhibitResult(museum.OneWord, [blank], [blank], blank.replies)
    assert result.sample["mistake"] == "(80 spaces)"


def test_placard_has_both_lines_and_the_answers():
    text = placard(result_of(museum.BetaUpsideDown, (0, 0)))
    for line in ("right    beta = RUN.beta", "wrong    beta = 1 / RUN.beta", "base     Sorry."):
        assert f"\n{line}\n" in text


def test_a_healthy_placard_has_no_lines_of_code():
    assert "right  " not in placard(result_of(Healthy, (4, 4)))


# Figures


@pytest.fixture(scope="module")
def shown():
    worse = made_up_run(loss__preference=ramp(2.0, 1.0))
    return [
        result_of(Healthy, (4, 4)),
        result_of(museum.OneWord, (0, 0), history=worse),
        result_of(museum.Swapped, (4, 4)),
    ]


def lines_of(axis):
    return [list(line.get_ydata()) for line in axis.lines]


def test_museum_figure_draws_mistake_and_healthy_run(shown):
    axis = museum_figure(shown).axes[1]
    assert shown[1].curves[0] in lines_of(axis)
    assert shown[1].healthy_curves[0] in lines_of(axis)


def test_museum_figure_counts_falling_losses_with_harm(shown):
    assert museum_figure(shown).get_suptitle().startswith("In 1 of 1 exhibits that do harm")


def test_axis_holds_the_highest_curve(shown):
    assert museum_figure(shown).axes[1].get_ylim() == (0, pytest.approx(2.1))


def test_a_puzzle_has_a_letter_for_every_result(shown):
    assert [axis.get_title(loc="left") for axis in museum_puzzle(shown).axes] == ["A", "B", "C"]


def test_a_puzzle_names_no_exhibit(shown):
    texts = [t.get_text() for t in museum_puzzle(shown).findobj(plt.Text)]
    assert not any(title in text for text in texts for title in [*TITLES, "healthy"])


def test_a_puzzle_is_drawn_in_its_order(shown):
    order = puzzle_order(shown, seed=2)
    axis = museum_puzzle(shown, seed=2).axes[1]
    assert order["B"].curves[0] in lines_of(axis)


def test_puzzle_order_depends_on_its_seed_alone(shown):
    assert puzzle_order(shown, 3) == puzzle_order(shown, 3)
    assert len({tuple(r.title for r in puzzle_order(shown, s).values()) for s in range(20)}) > 1


def test_exhibit_figure_names_both_curves(shown):
    texts = [text.get_text() for text in exhibit_figure(shown[1]).axes[0].texts]
    assert texts[:2] == ["healthy", "with the mistake"]


def test_exhibit_figure_of_a_healthy_run_has_one_name(shown):
    texts = [text.get_text() for text in exhibit_figure(shown[0]).axes[0].texts]
    assert "with the mistake" not in texts
