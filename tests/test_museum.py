"""Every exhibit really makes its mistake, in one place, and is shown as it is."""

import inspect

import pytest
import torch

import dpo.museum as museum
from dpo.arithmetic import parse_question
from dpo.evaluate import judge, sample_questions
from dpo.museum import ROOMS, Config, Healthy, HealthyFromBlank, Visit, copy_of, main, museum_table, placards, visit
from dpo.pairs import load_pairs
from dpo.plots import museum_figure
from sft.answers import answer_prompts
from sft.rows import encode_row

EXHIBITS = [(kind, room) for room, kinds in ROOMS.items() for kind in kinds]
NAMES = [kind.title for kind, _ in EXHIBITS]


@pytest.fixture
def small(monkeypatch, tiny, base_file, pairs_file):
    """The museum on a tiny base and eight pairs."""
    monkeypatch.setattr(museum, "BASE", str(base_file))
    monkeypatch.setattr(museum, "PAIRS", str(pairs_file))
    monkeypatch.setattr(museum, "BLANK_STEPS", 2)
    monkeypatch.setattr(museum, "BLANK_LINES", 4)
    monkeypatch.setattr(Healthy, "batch_size", 2)
    monkeypatch.setattr(HealthyFromBlank, "batch_size", 4)


@pytest.mark.parametrize(("kind", "room"), EXHIBITS, ids=NAMES)
def test_an_exhibit_replaces_one_method_in_one_line(kind, room):
    (name,) = (name for name, value in vars(kind).items() if inspect.isfunction(value))
    own = {name for name in vars(kind) if not name.startswith("__")}
    assert kind.__mro__[1] is room and own == {"title", "lesson", name}
    assert len(inspect.getsource(getattr(kind, name)).splitlines()) == 2, "def and the mistake"
    right, wrong = Visit(kind, room, None, []).change
    assert right != wrong
    for owner, line in ((Healthy, right), (kind, wrong)):
        assert line.startswith(f"{name} = ") and line.removeprefix(f"{name} = ") in inspect.getsource(owner)


def test_what_is_scored(tokenizer):
    row = encode_row(tokenizer, "1+2=?", " It is 3.")

    def scored(kind):
        changed = kind().row(row)
        return tokenizer.decode(changed.prompt), tokenizer.decode(changed.completion)

    assert scored(Healthy) == ("1+2=?", " It is 3.\n")
    assert scored(museum.PromptNotMasked) == ("1", "+2=? It is 3.\n")
    assert scored(museum.QuestionsCutOff) == ("=?", " It is 3.\n")
    assert scored(museum.NoTerminator) == ("1+2=?", " It is 3")


def test_the_other_mistakes(tiny):
    ids = torch.arange(20)[None]
    for kind, same in ((Healthy, True), (museum.DropoutOn, False)):
        policy = kind().policy(tiny)
        assert torch.equal(policy(ids)[0], policy(ids)[0]) == same and policy is not tiny
    logps = torch.tensor([[-1.0, -2.0]])
    assert museum.NoReference().reference_logps(logps).tolist() == [[0.0, 0.0]]
    assert museum.BetaUpsideDown().objective() == {"beta": 10.0, "nll_coef": 1.0}
    assert museum.NoAnchor().objective() == {"beta": 0.1, "nll_coef": 0.0}
    optimizer = torch.optim.AdamW(tiny.parameters(), lr=Healthy.base_lr)
    museum.RateTwice().schedulers([optimizer], 10)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(Healthy.base_lr**2)
    assert museum.FormatDrift().prompt(parse_question("1+2=?")) == "1 + 2 = ?"


def test_a_visit_trains_and_tests_what_was_saved(small, tiny, tokenizer, pairs_file):
    pairs, questions = load_pairs(pairs_file, tokenizer).pairs, sample_questions("held_out/additive", 4, 1)
    before = {name: tensor.clone() for name, tensor in tiny.state_dict().items()}
    healthy, again, stale, still = (
        visit(kind, Healthy, tiny, tokenizer, pairs, questions, 1)
        for kind in (Healthy, Healthy, museum.StaleCheckpoint, museum.RateTwice)
    )
    assert all(torch.equal(tensor, before[name]) for name, tensor in tiny.state_dict().items()), "the base stays"
    assert len(healthy.history) == 4 and healthy.curve[0] == pytest.approx(0.6931, abs=1e-4)
    assert healthy.curve == again.curve == stale.curve, "one seed, one run"
    assert healthy.curve[-1] < healthy.curve[0] and still.curve[-1] == pytest.approx(0.6931, abs=1e-3)
    answers = [[reply.text for reply in seen.replies] for seen in (healthy, stale, still)]
    of_the_base = answer_prompts(tiny, tokenizer, [reply.question.text for reply in stale.replies])
    assert answers[1] == of_the_base != answers[0]


def test_shares_and_the_sample():
    question = parse_question("17+19=?")
    texts = (question.right_answer, " The answer is 35 because 17+19 equals 35.", " The answer is 36", " " * 80)
    seen = Visit(Healthy, Healthy, None, [judge(question, text) for text in texts])
    assert {name: share["count"] for name, share in seen.shares.items()} == {"right": 1, "in form": 2, "ended": 3}
    assert seen.sample == f"17+19=?{texts[1]}"
    assert Visit(Healthy, Healthy, None, [judge(question, texts[3])]).sample == "17+19=? (80 spaces)"
    assert seen.change is None


def test_the_whole_museum_as_a_program(small, tmp_path, capsys):
    main(Config(n=3, device="cpu", figure=str(tmp_path / "museum.png")))
    printed = capsys.readouterr().out
    for name in NAMES:
        assert f"| {name} " in printed and f"\n{name}: " in printed
    assert "   wrong  row = Row(row.prompt[-2:], row.completion)" in printed
    assert (tmp_path / "museum.png").read_bytes().startswith(b"\x89PNG")


def test_a_choice_of_exhibits_and_their_figure(small):
    visits = museum.visit_museum(["no terminator", "format drift"], 3, device="cpu")
    assert [seen.exhibit.title for seen in visits] == [
        "healthy: shipped base", "format drift", "healthy: blank base", "no terminator",
    ]  # fmt: skip
    assert museum_table(visits).count("\n") == 5 and "no terminator:" in placards(visits)
    figure = museum_figure(visits)
    drawn = [list(line.get_ydata()) for axis in figure.axes for line in axis.lines]
    assert all(seen.curve in drawn for seen in visits)
    texts = [text.get_text() for axis in figure.axes for text in axis.texts]
    assert "wrong  prompt = spaced(question.text)" in texts and "right  prompt = question.text" in texts


def test_an_unknown_exhibit_names_those_there_are():
    with pytest.raises(ValueError, match="no exhibit is called 'beta'; there are: prompt not masked, questions cut"):
        museum.visit_museum(["beta"])


def test_copies_are_apart(tiny):
    copy = copy_of(tiny, dropout=0.0)
    with torch.no_grad():
        copy.lm_head.weight.zero_()
    assert tiny.lm_head.weight.abs().sum() > 0
