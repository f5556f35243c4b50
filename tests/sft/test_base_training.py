"""The program that makes the base, on a tiny model and one step a stage."""

import pickle

import pytest
import torch
from conftest import make_tiny, same_bits
from torch.optim.lr_scheduler import LambdaLR

from sft.checkpoint.weights import load_checkpoint, save_checkpoint
from sft.corpus import Corpus
from sft.sequences import Sequence, encode_sequence
from sft.train import BATCH_LINES, STAGES, Batches, Config, Stage, make_base, sft_step, split_batch

# The program


@pytest.fixture(scope="module", params=STAGES)
def made(request, tmp_path_factory):
    """A folder with base.pt; a.pt and b.pt made from it alike, c.pt with another seed; the kind."""
    folder = tmp_path_factory.mktemp("made")
    save_checkpoint(folder / "base.pt", make_tiny())
    settings = {"init": str(folder / "base.pt"), "arithmetic": request.param, "effort": 1e-3}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        make_base(Config(**settings, out=str(folder / f"{name}.pt"), seed=seed, device="cpu"))
    return folder, request.param


def weights(made, name):
    return load_checkpoint(made[0] / f"{name}.pt").state_dict


def test_a_base_repeats_to_the_bit(made):
    assert same_bits(weights(made, "a"), weights(made, "b"))


def test_a_base_depends_on_the_seed(made):
    assert not same_bits(weights(made, "a"), weights(made, "c"))


def test_a_base_was_trained(made):
    untrained = {name: tensor.half().float() for name, tensor in weights(made, "base").items()}
    assert not same_bits(weights(made, "a"), untrained)


def test_a_base_is_stored_in_half_precision(made):
    stored = torch.load(made[0] / "a.pt", weights_only=True)
    assert stored["model"]["lm_head.weight"].dtype == torch.float16


def test_a_base_says_which_arithmetic_it_learnt(made):
    folder, arithmetic = made
    assert torch.load(folder / "a.pt", weights_only=True)["arithmetic"] == arithmetic


def test_a_base_leaves_no_state(made):
    assert not list(made[0].glob("*.state*.pt"))


def test_program_says_what_it_wrote(base_file, tmp_path, capsys):
    settings = {"init": str(base_file), "arithmetic": "none", "effort": 1e-3, "device": "cpu"}
    make_base(Config(**settings, out=str(tmp_path / "a.pt")))
    assert f"wrote {tmp_path / 'a.pt'}" in capsys.readouterr().out


def test_a_stage_may_have_batches_of_its_own(base_file, tmp_path, monkeypatch, capsys):
    stage = Stage("two steps", 8, 0.0, 1e-4, {"everyday": 1}, batch_lines=4)
    monkeypatch.setattr("sft.train.STAGES", {"refuse": (stage,)})
    settings = {"init": str(base_file), "arithmetic": "refuse", "device": "cpu"}
    make_base(Config(**settings, out=str(tmp_path / "a.pt")))
    assert "\n8 lines, loss" in capsys.readouterr().out


def batch(tokenizer, seed, stage, step):
    return Batches(tokenizer, stage, seed, micro_batch=16)[step][0].inputs


STAGE = Stage("a", 8, 0.0, 1e-4, {"short": 1}, batch_lines=16)
OTHER = Stage("b", 8, 0.0, 1e-4, {"short": 1}, batch_lines=16)


def test_a_step_has_the_same_lines_however_the_run_came_to_it(tokenizer):
    assert torch.equal(batch(tokenizer, 1, STAGE, 7), batch(tokenizer, 1, STAGE, 7))


@pytest.mark.parametrize(
    "other",
    [(2, STAGE, 7), (1, OTHER, 7), (1, STAGE, 8)],
    ids=["seed", "stage", "step"],
)
def test_lines_differ_with_seed_stage_and_step(tokenizer, other):
    assert not torch.equal(batch(tokenizer, 1, STAGE, 7), batch(tokenizer, *other))


@pytest.mark.parametrize("workers", [0, 2])
def test_worker_processes_give_the_batches_in_order(tokenizer, workers, monkeypatch):
    batches = Batches(tokenizer, STAGE, 1, micro_batch=16)
    monkeypatch.setattr("sft.train.CORES", workers)
    loader = batches.of_steps(range(3, 6), torch.device("cuda" if workers else "cpu"))
    drawn = [micro_batches[0].inputs for micro_batches in loader]
    assert all(torch.equal(ids, batches[step][0].inputs) for step, ids in enumerate(drawn, 3))


def test_drawing_lines_leaves_the_random_numbers_of_torch_alone(tokenizer):
    before = torch.get_rng_state()
    list(Batches(tokenizer, STAGE, 1, micro_batch=16).of_steps(range(2), torch.device("cpu")))
    assert torch.equal(torch.get_rng_state(), before)


def test_batches_can_be_sent_to_a_worker_that_starts_afresh(tokenizer):
    batches = Batches(tokenizer, STAGE, 1, micro_batch=16)
    sent = pickle.loads(pickle.dumps(batches))
    assert torch.equal(sent[7][0].inputs, batches[7][0].inputs)


def test_micro_batches_hold_like_lengths_the_longest_first():
    rows = [Sequence([1] * n, [2]) for n in (3, 9, 1, 7, 5)]
    assert [part.inputs.shape for part in split_batch(rows, 2)] == [(2, 9), (2, 5), (1, 1)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"arithmetic": "none"},
            r"would replace the shipped sft/gpt[.]pt; name another file",
        ),
        (
            {"arithmetic": "short", "out": "runs/base.pt"},
            "'short' goes on from a base: name it, for instance --init=",
        ),
        (
            {"arithmetic": "refuse", "out": "runs/base.pt"},
            "'refuse' goes on from a base: name it, for instance --init=",
        ),
        (
            {"arithmetic": "some"},
            "arithmetic is 'some'; it must be one of full, calculate, polish, refuse, short, none",
        ),
    ],
)
def test_mistakes_are_one_sentence(settings, message):
    with pytest.raises(ValueError, match=message):
        make_base(Config(**settings))


# A step


@pytest.fixture
def whole_and_parts(tiny, tokenizer):
    """Loss and gradients of 37 lines at once, and of the same lines in parts of eight."""
    kinds = {"short": 1, "right": 1, "everyday": 1}
    rows = [encode_sequence(tokenizer.encode, *line) for line in Corpus(1).draw(37, kinds)]
    results = []
    for micro_batch in (37, 8):
        keeps = torch.optim.SGD(tiny.parameters(), lr=0.0)
        keeps.zero_grad = lambda set_to_none: None
        loss = sft_step(tiny, [keeps], split_batch(rows, micro_batch), precision="float32")
        results.append((loss, [parameter.grad.clone() for parameter in tiny.parameters()]))
        tiny.zero_grad()
    return results


def test_loss_of_parts_is_that_of_the_whole(whole_and_parts):
    (whole, _), (parts, _) = whole_and_parts
    assert parts == pytest.approx(whole, rel=1e-5)


def test_gradients_of_parts_are_those_of_the_whole(whole_and_parts):
    (_, whole), (_, parts) = whole_and_parts
    assert all(torch.allclose(g, h, atol=1e-5) for g, h in zip(whole, parts, strict=True))


def test_the_usual_batch_is_larger_than_that():
    assert BATCH_LINES > 37


# A stage that becomes longer on the way


def constant_rates(optimizers, steps, decay):
    return [LambdaLR(optimizer, lambda step: 1.0) for optimizer in optimizers]


def test_a_stage_may_become_longer(base_file, tmp_path, monkeypatch):
    """One step and then one more is the same as two in one go, while the rates are constant."""
    monkeypatch.setattr("sft.train.make_schedulers", constant_rates)
    monkeypatch.setattr("sft.train.remove_state", lambda path: None)
    settings = {"init": str(base_file), "arithmetic": "none", "device": "cpu"}
    one_step = BATCH_LINES / STAGES["none"][0].lines
    for name, efforts in (("whole.pt", [2]), ("parts.pt", [1, 2])):
        for effort in efforts:
            out, resume = str(tmp_path / name), effort > efforts[0]
            make_base(Config(**settings, out=out, effort=effort * one_step, resume=resume))
    whole, parts = (
        load_checkpoint(tmp_path / name).state_dict for name in ("whole.pt", "parts.pt")
    )
    assert same_bits(whole, parts)
