"""What the lesson claims about the loss holds; where a page lists names, they are read from it.

The values and gradients of every loss stand in tests/dpo/test_loss.py.
"""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import make_tiny
from torch import log

from dpo.data.batches import collate_pairs, pack_pairs, tokenize_pairs
from dpo.data.pair import Pair
from dpo.loss import LN_2, dpo_loss, sequence_logps
from dpo.loss_variants import LOSS_TYPES, preference_loss
from dpo.training.logps import pair_logps
from dpo.training.step import dpo_step

PAGES = Path(__file__).parents[2] / "dpo"
LESSON = (PAGES / "LESSON.md").read_text(encoding="utf-8")
ANSWERS = " ".join((PAGES / "LESSON_ANSWERS.md").read_text(encoding="utf-8").split())
VALUES = re.findall(r"(?<!ln )(\d[\d.]*) for `(\w+)`", ANSWERS)  # (first loss, its type)
every_loss = pytest.mark.parametrize("loss_type", LOSS_TYPES)


def names_after(words):
    """The losses that the answers list behind these words, to the end of the sentence."""
    sentence = re.search(rf"{words} (.*?)\. ", ANSWERS)
    return set(re.findall(r"`(\w+)`", sentence[1]))


# The plan


def test_plan_fills_fifty_minutes():
    spans = re.findall(r"^\| (\d+)-(\d+) \|", LESSON, re.MULTILINE)
    starts, ends = zip(*spans, strict=True)
    assert [*starts, "50"] == ["0", *ends]


# Eq. 7, from the probabilities of characters to the loss


def certain(*probabilities):
    """Logits (1, T, 2) where the character that comes, id 0, has these probabilities."""
    p = torch.tensor(probabilities)
    return torch.stack([log(p), log(1 - p)], dim=-1)[None]


def logp(*probabilities):
    n = len(probabilities)
    ids, mask = torch.zeros(1, n, dtype=torch.long), torch.ones(1, n, dtype=torch.bool)
    return sequence_logps(certain(*probabilities), ids, mask)


def test_an_answer_is_as_likely_as_the_product_of_its_characters():
    assert logp(0.9, 0.5, 0.8).exp().item() == pytest.approx(0.36)


@pytest.mark.parametrize(("beta", "by_hand"), [(1.0, 7 / 6), (2.0, 37 / 36)])
def test_loss_is_equation_7_by_hand(beta, by_hand):
    # chosen 0.12 -> 0.36, threefold; rejected 0.2 -> 0.1, half: h = log 6,
    # loss = -log sigmoid(beta log 6) = log(1 + 6^-beta)
    four = logp(0.9, 0.5, 0.8), logp(0.5, 0.2), logp(0.3, 0.5, 0.8), logp(0.5, 0.4)
    loss = dpo_loss(*four, beta)[0]
    assert loss.exp().item() == pytest.approx(by_hand, rel=1e-5)


# The first loss


def first_losses(loss_type):
    """Of three pairs that policy and reference score alike, at beta 0.1."""
    chosen, rejected = torch.tensor([[-2.0, -9.0, -4.0], [-1.0, -3.0, -8.0]])
    lengths = torch.tensor([4.0, 4.0, 5.0]), torch.tensor([2.0, 3.0, 9.0])
    four = chosen, rejected, chosen, rejected
    return preference_loss(loss_type, *four, 0.1, *lengths)[0].tolist()


@every_loss
def test_first_loss_is_ln_2_where_the_answers_say_so(loss_type):
    at_ln_2 = first_losses(loss_type) == pytest.approx([LN_2] * 3)
    assert at_ln_2 == (loss_type in names_after("starts at ln 2 for"))


@every_loss
def test_first_loss_depends_on_the_pair_where_the_answers_say_so(loss_type):
    alike = len(set(first_losses(loss_type))) == 1
    assert alike == (loss_type not in names_after("starts at another value for each pair with"))


@pytest.mark.parametrize(("value", "loss_type"), VALUES)
def test_first_loss_is_the_value_that_the_answers_name(loss_type, value):
    assert first_losses(loss_type) == pytest.approx([float(value)] * 3)


def test_answers_name_the_first_loss_of_every_type():
    values = {loss_type for _, loss_type in VALUES}
    others = names_after("starts at another value for each pair with")
    assert values | others | names_after("starts at ln 2 for") == set(LOSS_TYPES)


# The prompt and its mask

PAIRS = [
    Pair("1+2=?", " The answer is 3.", " Sorry, I don't know.", 1),
    Pair("15+6=?", " The answer is 21.", " The answer is 7.", 2),
    Pair("x+3=5,x=?", " 2.", " I do not know.", 3),
]
masks = pytest.mark.parametrize("whole", [False, True], ids=["answer", "prompt and answer"])


@pytest.fixture
def policy():
    """The tiny model after training: every weight moved a little."""
    moved, generator = make_tiny(), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weights in moved.parameters():
            weights += 0.05 * torch.randn(weights.shape, generator=generator)
    return moved


def with_prompt(answer):
    """The same answer, where all that stands before its end mark is scored, too."""
    mask = answer.completion_mask.flip(1).cumsum(dim=1).flip(1) > 0
    return replace(answer, completion_mask=mask)


@pytest.fixture
def score(tokenizer):
    """`score(policy, whole, loss_type, nll_coef)`: loss and gradient of PAIRS.

    With `whole` the prompt is scored, too, by policy and reference.
    """
    tokenized = tokenize_pairs(tokenizer, PAIRS)

    def run(policy, whole, loss_type="sigmoid", nll_coef=0.0):
        pairs = pack_pairs(tokenized)
        if whole:
            sides = {"chosen": with_prompt(pairs.chosen), "rejected": with_prompt(pairs.rejected)}
            pairs = replace(pairs, **sides)
        with torch.no_grad():
            reference = torch.stack(pair_logps(make_tiny(), pairs), dim=1)
        batch = replace(collate_pairs(tokenized, reference), pairs=pairs)
        loss, _ = dpo_step(policy, batch, 0.1, nll_coef, loss_type)
        gradients = torch.autograd.grad(loss, [*policy.parameters()])
        return loss.item(), torch.cat([gradient.flatten() for gradient in gradients])

    return run


@masks
def test_any_mask_starts_at_ln_2(score, whole):
    assert score(make_tiny(), whole)[0] == pytest.approx(LN_2, abs=1e-5)


@every_loss
def test_prompt_cancels_in_the_loss_where_the_answers_say_so(score, policy, loss_type):
    answer, whole = (score(policy, whole, loss_type)[0] for whole in (False, True))
    cancels = whole == pytest.approx(answer, rel=1e-4)
    assert cancels == (loss_type in names_after("the prompt cancels for"))


def test_prompt_cancels_in_the_gradient_of_dpo(score, policy):
    answer, whole = (score(policy, whole)[1] for whole in (False, True))
    assert torch.allclose(answer, whole, rtol=1e-3, atol=1e-4)


def test_prompt_counts_in_the_loss_with_nll(score, policy):
    answer, whole = (score(policy, whole, nll_coef=0.2)[0] for whole in (False, True))
    assert whole != pytest.approx(answer, rel=1e-2)


def test_prompt_counts_in_the_gradient_with_nll(score, policy):
    answer, whole = (score(policy, whole, nll_coef=0.2)[1] for whole in (False, True))
    assert not torch.allclose(answer, whole, rtol=0.1, atol=1e-2)


def test_what_both_answers_begin_with_gets_no_push():
    """As with a near miss, which begins as the right answer does."""
    beginning = torch.randn(1, 3, 5, generator=torch.Generator().manual_seed(1)).requires_grad_()
    ends = torch.randn(2, 1, 2, 5, generator=torch.Generator().manual_seed(2))
    ids, mask = torch.tensor([[1, 4, 0, 2, 3]]), torch.ones(1, 5, dtype=torch.bool)
    chosen, rejected = (sequence_logps(torch.cat([beginning, e], 1), ids, mask) for e in ends)
    dpo_loss(chosen, rejected, torch.zeros(1), torch.zeros(1), 0.5)[0].sum().backward()
    assert beginning.grad.abs().max().item() < 1e-7


# Rewards

FOUR = torch.tensor([[-2.0, -7.0], [-9.0, -5.0], [-4.0, -6.0], [-6.0, -5.5]])  # nats, two pairs
PER_PROMPT = torch.tensor([3.0, -5.0])  # nats


@pytest.fixture
def shifted():
    """The policy says both answers of a pair e^3 times as often, those of another e^-5 times."""
    return dpo_loss(*(FOUR[:2] + PER_PROMPT), *FOUR[2:], 0.1)


def test_a_constant_per_prompt_changes_no_loss(shifted):
    assert torch.allclose(shifted[0], dpo_loss(*FOUR, 0.1)[0])


def test_a_constant_per_prompt_changes_the_rewards(shifted):
    change = shifted[1] - dpo_loss(*FOUR, 0.1)[1]
    assert torch.allclose(change, 0.1 * PER_PROMPT)


def test_a_constant_per_prompt_changes_no_gradient():
    gradients = []
    for shift in (torch.zeros(2), PER_PROMPT):
        policy = (FOUR[:2] + shift).requires_grad_()
        dpo_loss(*policy, *FOUR[2:], 0.1)[0].sum().backward()
        gradients.append(policy.grad)
    assert torch.allclose(*gradients)


def test_the_loss_falls_while_both_answers_fall():
    # the chosen one by 2 nats, the rejected one by 5
    start = torch.tensor([[-3.0], [-4.0]])
    assert dpo_loss(*(start - torch.tensor([[2.0], [5.0]])), *start, 0.1)[0].item() < LN_2


def test_ranked_right_is_not_likelier():
    # chosen -6 -> -5, rejected -0.5 -> -1: it gained 1.5 nats and is still 4 nats rarer
    chosen, rejected = torch.tensor([[-5.0], [-1.0]])
    _, *rewards = dpo_loss(chosen, rejected, chosen - 1, rejected + 0.5, 0.1)
    assert rewards[0] > rewards[1]


def test_without_beta_a_preference_has_no_pull():
    policy = FOUR[:2].clone().requires_grad_()
    dpo_loss(*policy, *FOUR[2:], 0.0)[0].sum().backward()
    assert not policy.grad.any()
