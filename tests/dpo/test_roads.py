"""A base that has nothing to bring out is recognised, and told its two roads."""

import copy

import pytest
from conftest import ROOT, make_tiny, same_bits, teach

from configurator import override
from dpo import make_pairs, train
from dpo.evaluation.replies import sample_questions
from dpo.training import roads
from dpo.training.roads import (
    BATCH_PAIRS,
    MANY_PAIRS,
    PASSES,
    QUESTIONS,
    SHORT,
    describe_roads,
    knows_nothing,
)
from sft import train as sft_train

# What a base knows


def test_a_random_model_knows_nothing(tiny, tokenizer):
    assert knows_nothing(tiny, tokenizer)


def test_right_numbers_without_reasons_are_something(tokenizer):
    questions = sample_questions("seen/additive", QUESTIONS, seed=1)
    model, prompts = make_tiny(), [question.text for question in questions]
    teach(model, tokenizer, prompts, [f" {question.answer}." for question in questions])
    assert not knows_nothing(model, tokenizer)


@pytest.fixture
def draws(monkeypatch):
    """What is asked, and one right answer among many refusals."""
    asked = []

    def draw(model, tokenizer, prompts, temperature, generator):
        asked.append((prompts, temperature, generator.initial_seed()))
        refusals = [" Sorry, I don't know."] * (len(prompts) - 1)
        right = sample_questions("seen/additive", QUESTIONS, seed=1)[-1].right_answer
        return [*refusals, right]

    monkeypatch.setattr(roads, "generate_answers", draw)
    return asked


def test_one_right_answer_is_something(draws, tiny, tokenizer):
    assert not knows_nothing(tiny, tokenizer)


def test_each_question_gets_64_draws_at_temperature_1(draws, tiny, tokenizer):
    knows_nothing(tiny, tokenizer, seed=3)
    [(prompts, temperature, seed)] = draws
    assert [prompts.count(prompt) for prompt in dict.fromkeys(prompts)] == [64] * QUESTIONS
    assert (temperature, seed) == (1.0, 3)


# The roads


@pytest.fixture
def lines(tiny, tokenizer, monkeypatch):
    """Of the box, on a machine where the first road takes 181 minutes and the second 11.2."""
    monkeypatch.setattr(roads, "_seconds_for_a_line", lambda *_: 60 * 11.2 / SHORT.lines)
    monkeypatch.setattr(roads, "_seconds_for_a_pair", lambda *_: 60 * 181 / MANY_PAIRS)
    return describe_roads("runs/blank.pt", tiny, tokenizer).splitlines()


def test_box_is_a_box(lines):
    assert len({len(line) for line in lines}) == 1
    assert lines[0] == lines[-1]


def test_box_says_how_long_each_road_takes(lines):
    numbered = [line for line in lines if line[2:4] in ("1.", "2.")]
    assert "about 3 h here" in numbered[0]
    assert "about 11 min here" in numbered[1]


PROGRAMS = {
    "sft.train": sft_train.Config,
    "dpo.train": train.Config,
    "dpo.make_pairs": make_pairs.Config,
}


def test_every_command_in_the_box_can_be_given(lines, monkeypatch):
    monkeypatch.chdir(ROOT)
    commands = [line.strip("| ").split()[2:] for line in lines if "python -m" in line]
    settings = [override(PROGRAMS[program](), words) for program, *words in commands]
    assert [type(config) for config in settings] == [
        make_pairs.Config,
        train.Config,
        sft_train.Config,
        make_pairs.Config,
        train.Config,
    ]
    sft_train.check(settings[2])


def test_both_roads_start_from_this_base(lines):
    assert sum("=runs/blank.pt " in line for line in lines) == 2


def test_timed_step_is_that_of_the_settings_file():
    settings = override(train.Config(), [str(ROOT / "dpo/settings/blank_base.py")])
    assert settings.batch_size == BATCH_PAIRS
    assert settings.optimizer == "muon"
    assert settings.epochs == PASSES


def test_timing_leaves_the_model_alone(tiny, tokenizer):
    before = copy.deepcopy(tiny.state_dict())
    describe_roads("runs/blank.pt", tiny, tokenizer)
    assert same_bits(tiny, before)
    assert not any(parameter.grad is not None for parameter in tiny.parameters())
