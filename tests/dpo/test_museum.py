"""Every exhibit really makes its mistake, in one place, and is shown as it is."""

import inspect
import io
from contextlib import redirect_stdout

import pytest
import torch
from conftest import make_tiny, same_bits, texts_in, write_tiny_pairs

import dpo.museum as museum
from dpo.data.pair_file import load_pairs
from dpo.evaluation.replies import judge, sample_questions
from dpo.museum import (
    EXHIBITS,
    Config,
    ExhibitResult,
    Healthy,
    HealthyFromBlank,
    copy_of,
    main,
    museum_table,
    placards,
    run_exhibit,
)
from dpo.plots.museum import museum_figure
from sft.arithmetic import parse_question
from sft.checkpoint.weights import save_checkpoint
from sft.generation import generate_answers
from sft.sequences import encode_sequence

ALL = [(kind, baseline) for baseline, kinds in EXHIBITS.items() for kind in kinds]
TITLES = [kind.title for kind, _ in ALL]
QUESTION = parse_question("17+19=?")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The museum on a tiny base and eight pairs."""
    folder = tmp_path_factory.mktemp("museum")
    save_checkpoint(folder / "base.pt", make_tiny())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(museum, "BASE", str(folder / "base.pt"))
        patch.setattr(museum, "MOST_PAIRS", 8)
        patch.setattr(museum, "BLANK_STEPS", 2)
        patch.setattr(museum, "BLANK_LINES", 4)
        patch.setattr(Healthy, "batch_size", 2)
        patch.setattr(HealthyFromBlank, "batch_size", 4)
        yield


# One mistake each

every_exhibit = pytest.mark.parametrize(("kind", "baseline"), ALL, ids=TITLES)


def own_method(kind):
    """The name of the one method that an exhibit replaces."""
    [name] = (name for name, value in vars(kind).items() if inspect.isfunction(value))
    return name


@every_exhibit
def test_an_exhibit_replaces_one_method_only(kind, baseline):
    own = {name for name in vars(kind) if not name.startswith("__")}
    assert kind.__mro__[1] is baseline
    assert own == {"title", "lesson", own_method(kind)}


@every_exhibit
def test_an_exhibits_mistake_is_one_line(kind, baseline):
    source = inspect.getsource(getattr(kind, own_method(kind)))
    assert len(source.splitlines()) == 2  # def and the mistake


@every_exhibit
def test_an_exhibit_shows_its_own_source(kind, baseline):
    name = own_method(kind)
    right, wrong = ExhibitResult(kind, baseline, None, []).change
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
        (museum.NoTerminator, "1+2=?", " It is 3"),
    ],
)
def test_what_an_exhibit_scores(tokenizer, kind, prompt, completion):
    row = kind().scored(encode_sequence(tokenizer.encode, "1+2=?", " It is 3."))
    assert tokenizer.decode(row.prompt) == prompt
    assert tokenizer.decode(row.completion) == completion


@pytest.mark.parametrize(("kind", "same"), [(Healthy, True), (museum.DropoutOn, False)])
def test_dropout_scores_the_same_text_twice(tiny, kind, same):
    ids, policy = torch.arange(20)[None], kind().policy(tiny)
    assert torch.equal(policy(ids)[0], policy(ids)[0]) == same
    assert policy is not tiny


def test_no_reference_is_all_zeros():
    logps = museum.NoReference().reference_logps(torch.tensor([[-1.0, -2.0]]))
    assert logps.tolist() == [[0.0, 0.0]]


def test_beta_upside_down_is_1_over_beta():
    assert museum.BetaUpsideDown().objective() == {"beta": 10.0, "nll_coef": 1.0}


def test_no_anchor_has_no_nll():
    assert museum.NoAnchor().objective() == {"beta": 0.1, "nll_coef": 0.0}


def test_rate_twice_is_the_rate_squared(tiny):
    optimizer = torch.optim.AdamW(tiny.parameters(), lr=Healthy.base_lr)
    museum.RateTwice().schedulers([optimizer], 10)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(Healthy.base_lr**2)


def test_format_drift_asks_with_spaces():
    assert museum.FormatDrift().prompt(parse_question("1+2=?")) == "1 + 2 = ?"


# Runs


@pytest.fixture(scope="module")
def runs(small, tokenizer, tmp_path_factory):
    """The base, and the results of four runs from it."""
    base = make_tiny()
    pairs = load_pairs(
        write_tiny_pairs(tmp_path_factory.mktemp("runs") / "p.json"), tokenizer
    ).pairs
    questions = sample_questions("held_out/additive", 4, 1)
    kinds = {
        "healthy": Healthy,
        "again": Healthy,
        "stale": museum.StaleCheckpoint,
        "still": museum.RateTwice,
    }
    results = {
        name: run_exhibit(kind, Healthy, base, tokenizer, pairs, questions, 1)
        for name, kind in kinds.items()
    }
    return base, results


def answers(result):
    return [reply.text for reply in result.replies]


def test_the_base_is_not_trained(runs):
    assert same_bits(runs[0], make_tiny())


def test_a_healthy_run_starts_at_ln_2_and_falls(runs):
    healthy = runs[1]["healthy"]
    assert len(healthy.history) == 4
    assert healthy.curve[0] == pytest.approx(0.6931, abs=1e-4)
    assert healthy.curve[-1] < healthy.curve[0]


@pytest.mark.parametrize("name", ["again", "stale"])
def test_one_seed_is_one_run(runs, name):
    assert runs[1][name].curve == runs[1]["healthy"].curve


def test_a_squared_rate_moves_nothing(runs):
    assert runs[1]["still"].curve[-1] == pytest.approx(0.6931, abs=1e-3)


def test_what_was_saved_is_tested(runs, tokenizer):
    base, results = runs
    asked = [reply.question.text for reply in results["stale"].replies]
    of_the_base = generate_answers(base, tokenizer, asked)
    assert answers(results["stale"]) == of_the_base
    assert answers(results["healthy"]) != of_the_base


# Figures and words


@pytest.fixture
def four_replies():
    """Right; in form and wrong; cut off in the middle; spaces."""
    wrong = " The answer is 35 because 17+19 equals 35."
    texts = [QUESTION.right_answer, wrong, " The answer is 36", " " * 80]
    return ExhibitResult(Healthy, Healthy, None, [judge(QUESTION, text) for text in texts])


def test_shares_are_counted(four_replies):
    counts = {name: share["count"] for name, share in four_replies.shares.items()}
    assert counts == {"right": 1, "in form": 2, "ended": 3}


def test_sample_is_the_first_wrong_answer(four_replies):
    assert four_replies.sample == "17+19=? The answer is 35 because 17+19 equals 35."


def test_sample_of_spaces_is_their_number():
    result = ExhibitResult(Healthy, Healthy, None, [judge(QUESTION, " " * 80)])
    assert result.sample == "17+19=? (80 spaces)"


def test_a_healthy_run_has_no_changed_line(four_replies):
    assert four_replies.change is None


# The museum


@pytest.fixture(scope="module")
def printed(small, tmp_path_factory):
    """What the program prints of all exhibits, and its picture."""
    picture = tmp_path_factory.mktemp("museum") / "museum.png"
    printed = io.StringIO()
    with redirect_stdout(printed):
        main(Config(n=3, device="cpu", figure=str(picture)))
    return printed.getvalue(), picture.read_bytes()


@pytest.mark.parametrize("title", TITLES)
def test_program_prints_every_exhibit(printed, title):
    assert f"| {title} " in printed[0]
    assert f"\n{title}: " in printed[0]


def test_program_prints_the_mistakes(printed):
    assert "   wrong  scored = Sequence(text.prompt[-2:], text.completion)" in printed[0]


def test_program_draws_the_museum(printed):
    assert printed[1].startswith(b"\x89PNG")


@pytest.fixture(scope="module")
def chosen(small):
    """One exhibit of either base."""
    return museum.run_museum(["no terminator", "format drift"], 3, device="cpu")


@pytest.fixture(scope="module")
def figure(chosen):
    return museum_figure(chosen)


def test_a_choice_has_its_healthy_runs(chosen):
    titles = [result.exhibit.title for result in chosen]
    assert titles == [
        "healthy: shipped base",
        "format drift",
        "healthy: blank base",
        "no terminator",
    ]


def test_a_choice_is_a_table_and_placards(chosen):
    assert museum_table(chosen).count("\n") == 5
    assert "no terminator:" in placards(chosen)


def test_figure_draws_every_curve(chosen, figure):
    drawn = [list(line.get_ydata()) for axis in figure.axes for line in axis.lines]
    assert all(result.curve in drawn for result in chosen)


def test_figure_shows_the_lines(figure):
    assert "wrong  prompt = spaced(question.text)" in texts_in(figure)
    assert "right  prompt = question.text" in texts_in(figure)


def test_an_unknown_exhibit_names_those_there_are():
    message = "no exhibit is called 'beta'; there are: prompt not masked, questions cut"
    with pytest.raises(ValueError, match=message):
        museum.run_museum(["beta"])


def test_copies_share_no_memory(tiny):
    copy = copy_of(tiny, dropout=0.0)
    with torch.no_grad():
        copy.lm_head.weight.zero_()
    assert tiny.lm_head.weight.abs().sum() > 0
