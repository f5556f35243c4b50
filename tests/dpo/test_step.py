"""One step: the loss that it minimises, what moves, how parts add up, and what stops it."""

import math

import pytest
import torch
from conftest import course_file, same_bits
from torch.nn import functional as F

from bench import assignment
from dpo.data.batches import batches, collate_pairs, tokenize_pairs
from dpo.data.pair_file import load_pairs
from dpo.evaluation.tokens import answer_logps
from dpo.training.logps import compute_reference_logps
from dpo.training.step import accumulate_gradients, dpo_step, train_step
from model import DIGIT_IDS
from sft.checkpoint.weights import load_model
from sft.optimizers import make_optimizers, make_schedulers


@pytest.fixture
def pairs(pairs_file, tokenizer):
    return load_pairs(pairs_file, tokenizer).pairs


@pytest.fixture
def tokenized(pairs, tokenizer):
    return tokenize_pairs(tokenizer, pairs)


@pytest.fixture
def reference_logps(tiny, tokenized):
    return compute_reference_logps(tiny, tokenized)


@pytest.fixture
def batch(tokenized, reference_logps):
    """All eight pairs."""
    [[batch]] = batches(tokenized, reference_logps, 8, seed=1)
    return batch


# At the start policy and reference are the same model


@pytest.fixture
def course_policy(tiny, tmp_path):
    """The policy of a file whose model_args say dropout 0.2, in training mode."""
    course_file(tmp_path / "course.pt", tiny)
    return load_model(tmp_path / "course.pt")[0].train()


@pytest.fixture
def course_batch(course_policy, tokenized, tmp_path):
    reference, _ = load_model(tmp_path / "course.pt")
    logps = compute_reference_logps(reference, tokenized)
    [[batch]] = batches(tokenized, logps, 8, seed=1)
    return batch


def test_loss_starts_at_ln_2(course_policy, course_batch):
    loss, _ = dpo_step(course_policy, course_batch, beta=0.1)
    assert loss.item() == pytest.approx(math.log(2), abs=1e-5)


def test_margins_start_at_zero(course_policy, course_batch):
    _, metrics = dpo_step(course_policy, course_batch, beta=0.1)
    assert metrics["rewards/margins"] == pytest.approx(0, abs=1e-5)


# The likelihood of the chosen answer


@pytest.fixture
def nll_by_hand(course_batch):
    """Mean over pairs of -log pi(y_w|x) per character of y_w, its end mark included."""
    characters = course_batch.pairs.chosen.completion_mask.sum(1)
    return (-course_batch.reference_chosen_logps / characters).mean().item()


def test_nll_is_a_mean_per_character(course_policy, course_batch, nll_by_hand):
    _, metrics = dpo_step(course_policy, course_batch, beta=0.1, nll_coef=0.5)
    assert metrics["nll"] == pytest.approx(nll_by_hand, rel=1e-5)


def test_nll_is_added_to_the_loss(course_policy, course_batch, nll_by_hand):
    loss, _ = dpo_step(course_policy, course_batch, beta=0.1, nll_coef=0.5)
    assert loss.item() == pytest.approx(math.log(2) + 0.5 * nll_by_hand, rel=1e-5)


def test_digit_weight_counts_a_digit_so_often(tiny, tokenizer, pairs, tokenized, reference_logps):
    batch = collate_pairs(tokenized[:1], reference_logps[:1])
    _, metrics = dpo_step(tiny, batch, beta=0.1, nll_coef=1.0, digit_weight=4.0)
    prompt, answer = pairs[0].prompt, pairs[0].chosen
    logps = answer_logps(tiny, tokenizer, prompt, answer)
    # " The answer is 3." and its newline: 18 characters, one of them a digit, which counts 4 times
    weights = [4 if character.isdigit() else 1 for character in answer + "\n"]
    assert sum(weights) == 18 + 3
    by_hand = -sum(w * logp for w, logp in zip(weights, logps, strict=True)) / 21
    assert metrics["nll"] == pytest.approx(by_hand, rel=1e-4)


def test_digit_ids_are_those_of_the_digits(tokenizer):
    assert tokenizer.encode("0123456789") == list(DIGIT_IDS)


# Who moves


@pytest.fixture
def stepped(base_file, tokenized):
    """Policy and reference from one file after a step of the policy, and that step's metrics."""
    policy, reference = (load_model(base_file)[0] for _ in range(2))
    batch = collate_pairs(tokenized, compute_reference_logps(reference, tokenized))
    optimizers = make_optimizers(policy, "adamw", 1e-3)
    schedulers = make_schedulers(optimizers, 40)
    settings = {"precision": "float32", "beta": 0.1}
    return policy, reference, train_step(policy, [batch], optimizers, schedulers, **settings)


def test_policy_and_reference_share_no_memory(stepped):
    of_policy, of_reference = ({p.data_ptr() for p in m.parameters()} for m in stepped[:2])
    assert of_policy.isdisjoint(of_reference)


def test_every_tensor_of_the_policy_moves(stepped, tiny):
    policy = stepped[0].state_dict()
    same = [name for name, tensor in tiny.state_dict().items() if torch.equal(policy[name], tensor)]
    assert same == []


def test_no_bit_of_the_reference_moves(stepped, tiny):
    assert same_bits(stepped[1], tiny)


def test_the_reference_has_no_gradients(stepped):
    assert all(parameter.grad is None for parameter in stepped[1].parameters())


def test_reference_logps_stay_to_the_bit(stepped, tokenized, reference_logps):
    assert torch.equal(compute_reference_logps(stepped[1], tokenized), reference_logps)


def test_a_step_leaves_no_gradients(stepped):
    assert all(parameter.grad is None for parameter in stepped[0].parameters())


def test_a_step_tells_the_gradient_norm(stepped):
    assert stepped[2]["grad_norm"] > 0


def test_a_step_tells_its_rate(stepped):
    # the first of ten warm-up steps to 1e-3
    assert stepped[2]["lr"] == pytest.approx(1e-4)


# Parts of a batch


@pytest.fixture
def whole_and_parts(tiny, tokenized, reference_logps):
    """Metrics and gradients of eight pairs at once, and of the same as five and three."""
    # as if the policy had moved, every pair differently
    logps = reference_logps + torch.linspace(-3, 3, 16).view(8, 2)
    settings = {"beta": 0.1, "nll_coef": 0.5, "digit_weight": 2.0}
    results = []
    for cut in ([slice(0, 8)], [slice(0, 5), slice(5, 8)]):
        micro_batches = [collate_pairs(tokenized[part], logps[part]) for part in cut]
        metrics = accumulate_gradients(tiny, micro_batches, "float32", **settings)
        results.append((metrics, [parameter.grad.clone() for parameter in tiny.parameters()]))
        tiny.zero_grad()
    return results


def test_metrics_of_parts_are_those_of_the_whole(whole_and_parts):
    (whole, _), (parts, _) = whole_and_parts
    assert parts == pytest.approx(whole, rel=1e-4)


def test_gradients_of_parts_are_those_of_the_whole(whole_and_parts):
    (_, whole), (_, parts) = whole_and_parts
    assert all(torch.allclose(g, h, atol=1e-5) for g, h in zip(whole, parts, strict=True))


# What is not finite


def nan_loss(policy, micro_batches):
    """In the second part, when the first has left its gradients."""
    micro_batches[1].reference_chosen_logps.fill_(float("nan"))


def infinite_gradient(policy, micro_batches):
    policy.transformer.wpe.weight.register_hook(lambda gradient: gradient / 0)


@pytest.mark.parametrize(
    ("break_it", "broken"), [(nan_loss, "loss"), (infinite_gradient, "gradient")]
)
def test_nan_stops_before_anything_moves(tiny, tokenized, reference_logps, break_it, broken):
    optimizers = make_optimizers(tiny, "adamw", 1e-3)
    schedulers = make_schedulers(optimizers, 4)
    before = {name: tensor.clone() for name, tensor in tiny.state_dict().items()}
    micro_batches = [part for [part] in batches(tokenized, reference_logps, 4, seed=1)]
    break_it(tiny, micro_batches)
    message = f"the {broken} is (nan|inf) for the pairs of lines [0-9, ]+; nothing was changed"
    with pytest.raises(FloatingPointError, match=message):
        train_step(tiny, micro_batches, optimizers, schedulers, precision="float32", beta=0.1)
    assert same_bits(tiny, before)
    assert all(parameter.grad is None for parameter in tiny.parameters())
    assert schedulers[0].last_epoch == 0


# The course's loss


@pytest.fixture
def course_loss(tiny, pairs, tokenizer, tokenized):
    """Loss and metrics of `assignment` at beta 0.5; mean logps (B,) as in the course's loop."""
    whole_texts = tokenize_pairs(tokenizer, pairs, "assignment")
    batch = collate_pairs(whole_texts, compute_reference_logps(tiny, whole_texts))
    chosen, rejected = (
        assignment.mean_logps(tiny, assignment.padded([getattr(pair, side) for pair in tokenized]))
        for side in ("chosen", "rejected")
    )
    return *dpo_step(tiny, batch, beta=0.5, loss_type="assignment"), chosen, rejected


def test_assignment_loss_is_that_of_its_loop(course_loss):
    loss, _, chosen, rejected = course_loss
    theirs = -F.logsigmoid((chosen - rejected) / 0.5).mean() - 0.1 * chosen.mean()
    assert loss.item() == pytest.approx(theirs.item(), rel=1e-5)


def test_assignment_nll_is_of_the_whole_text(course_loss):
    _, metrics, chosen, _ = course_loss
    assert metrics["nll"] == pytest.approx(-chosen.mean().item(), rel=1e-5)


def test_assignment_margins_start_at_zero(course_loss):
    assert course_loss[1]["rewards/margins"] == pytest.approx(0, abs=1e-5)


# The optimizers


@pytest.mark.parametrize("steps", [1, 2, 5, 48, 1000])
def test_rate_is_positive_until_the_end(tiny, steps):
    rates = rates_of(tiny, steps)
    assert max(rates) == 1.0
    assert min(rates[:steps]) > 0
    assert rates[steps:] == [0.0] * 5


def test_rate_warms_up_in_ten_steps(tiny):
    assert rates_of(tiny, 1000)[:10] == pytest.approx([i / 10 for i in range(1, 11)])


def test_rate_falls_in_the_second_half(tiny):
    # half-way through the second half it has half its height
    assert rates_of(tiny, 1000)[750] == pytest.approx(0.5)


def rates_of(model, steps):
    """The learning rates of so many steps and of five more, at a highest rate of 1."""
    [optimizer] = make_optimizers(model, "adamw", 1.0)
    [scheduler] = make_schedulers([optimizer], steps)
    rates = []
    for _ in range(steps + 5):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_every_parameter_has_one_optimizer(tiny, kind):
    held = [p for optimizer in make_optimizers(tiny, kind, 1e-3, 1e-2) for p in held_by(optimizer)]
    assert sorted(map(id, held)) == sorted(map(id, tiny.parameters()))


def test_muon_takes_matrices_only(tiny):
    muon, _ = make_optimizers(tiny, "muon", 1e-3, 1e-2)
    assert all(parameter.dim() == 2 for parameter in held_by(muon))


def test_muon_leaves_out_the_embedding(tiny):
    muon, _ = make_optimizers(tiny, "muon", 1e-3, 1e-2)
    assert id(tiny.transformer.wte.weight) not in set(map(id, held_by(muon)))


def held_by(optimizer):
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
