"""Files from before the parts had their present names: a result and an interrupted run still load.

Their keys are written out here, so that a renamed variable can never rename a key with it.
"""

import json

import pytest
import torch
from conftest import TINY, same_bits

from dpo.compare import changed_settings, read_run
from dpo.data.batches import batches, tokenize_pairs
from dpo.data.pair_file import load_pairs
from dpo.training.logps import compute_reference_logps
from dpo.training.provenance import pairs_hash, weights_hash
from dpo.training.step import train_step
from sft.checkpoint.resume import ResumeError
from sft.checkpoint.weights import load_model
from sft.optimizers import make_optimizers, make_schedulers

SETTINGS = {  # of a run, as `dpo.train` had them then
    "base": "sft/gpt.pt",
    "pairs": "dpo/pos_neg_pairs.json",
    "out": "dpo",
    "max_pairs": 0,
    "epochs": 2,
    "batch_size": 4,
    "micro_batch": 32,
    "base_lr": 1e-3,
    "muon_lr": 2e-3,
    "beta": 0.1,
    "nll_coef": 0.2,
    "digit_weight": 1.0,
    "loss_type": "sigmoid",
    "label_smoothing": 0.1,
    "dpop_lambda": 50.0,
    "simpo_gamma": 1.0,
    "optimizer": "adamw",
    "max_grad_norm": 1.0,
    "max_length": 256,
    "eval_every": 0,
    "eval_questions": 100,
    "save_every": 20,
    "resume": False,
    "metrics": "",
    "quiet": False,
    "seed": 1,
    "device": "cpu",
    "precision": "float32",
}
RESULT_SETTINGS = (  # those of which a state kept the values
    "max_pairs", "epochs", "batch_size", "base_lr", "muon_lr", "beta", "nll_coef", "digit_weight",
    "loss_type", "label_smoothing", "dpop_lambda", "simpo_gamma", "optimizer", "max_grad_norm",
    "max_length", "eval_every", "eval_questions", "seed", "precision",
)  # fmt: skip
OTHER_DEFAULTS = ["epochs", "batch_size", "base_lr", "nll_coef", "eval_questions", "precision"]
RUN = {name: SETTINGS[name] for name in OTHER_DEFAULTS}


def as_bytes(value):
    """Long plain data as these files hold it: a tensor of the bytes of its JSON."""
    return torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8)


def weights_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


# A result


@pytest.fixture
def old_result(tiny, tmp_path):
    """A dpo.pt of two steps with an eval before and after them."""
    steps = {"loss": [0.7, 0.6], "rewards/accuracies": [0.5, 1.0]}
    evals = {"step": [0, 2], "exact/held_out": [0.0, 0.5], "kl": [0.0, 0.3]}
    torch.save(
        {
            "model": weights_of(tiny),
            "model_args": TINY,
            "pairs": as_bytes([["1+1=?", " 2.", " No."]]),
            "history": as_bytes({"steps": steps, "looks": evals}),
            "config": SETTINGS,
            "environment": "python 3.11.7, torch 2.10.0, cpu, 2 threads, float32, seed 1",
        },
        tmp_path / "dpo.pt",
    )
    return tmp_path / "dpo.pt"


def test_an_old_result_is_a_model(old_result, tiny):
    model, _ = load_model(old_result)
    assert same_bits(model, tiny)


def test_an_old_result_is_a_run(old_result):
    run = read_run(old_result)
    assert run.pairs == [("1+1=?", " 2.", " No.")]
    assert run.settings == SETTINGS


def test_an_old_result_has_its_steps(old_result):
    assert read_run(old_result).history["loss"] == [0.7, 0.6]


def test_an_old_result_has_its_evals(old_result):
    evals = {"step": [0, 2], "exact/held_out": [0.0, 0.5], "kl": [0.0, 0.3]}
    assert read_run(old_result).history.evals == evals


def test_an_old_result_is_compared_with_a_new_one(old_result, tiny_run):
    new = read_run(tiny_run(**RUN | {"base_lr": 1e-2}).path)
    changed = changed_settings([read_run(old_result), new])
    assert changed["base_lr"] == [1e-3, 1e-2]
    assert "beta" not in changed


def test_an_old_result_stays_beside_a_new_one(old_result, tiny_run, tmp_path):
    first = old_result.read_bytes()
    tiny_run(out=str(tmp_path))
    assert (tmp_path / "dpo.previous.pt").read_bytes() == first


# An interrupted run


@pytest.fixture
def old_state(base_file, pairs_file, tokenizer, tmp_path):
    """`old_state(**changes)` writes dpo.state.pt of a run that was stopped after 2 of 4 steps."""

    def write(**changes):
        policy, _ = load_model(base_file)
        reference, _ = load_model(base_file)
        tokenized = tokenize_pairs(tokenizer, load_pairs(pairs_file, tokenizer).pairs)
        logps = compute_reference_logps(reference, tokenized)
        optimizers = make_optimizers(policy, "adamw", SETTINGS["base_lr"])
        schedulers = make_schedulers(optimizers, 4)
        columns = {}
        for micro_batches in list(batches(tokenized, logps, 4, seed=1, epochs=2))[:2]:
            objective = {"beta": 0.1, "nll_coef": 0.2, "precision": "float32"}
            metrics = train_step(policy, micro_batches, optimizers, schedulers, **objective)
            for name, value in metrics.items():
                columns.setdefault(name, []).append(value)
        made_from = {name: SETTINGS[name] for name in RESULT_SETTINGS} | changes
        hashes = {"base": weights_hash(reference), "pairs": pairs_hash(tokenized)}
        (tmp_path / "run").mkdir()
        torch.save(
            {
                "model": weights_of(policy),
                "model_args": TINY,
                "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                "schedulers": [scheduler.state_dict() for scheduler in schedulers],
                "torch_rng": torch.get_rng_state(),
                "made_from": made_from | hashes,
                "circumstances": {
                    "torch": str(torch.__version__),
                    "device": "cpu",
                    "threads": torch.get_num_threads(),
                    "micro_batch": 32,
                    "processes": 1,
                },
                "progress": as_bytes({"steps": columns, "looks": {}}),
            },
            tmp_path / "run" / "dpo.state.pt",
        )

    return write


def test_an_old_state_goes_on_to_the_same_bits(old_state, tiny_run, tmp_path, capsys):
    undisturbed = tiny_run(**RUN, out=str(tmp_path / "undisturbed"))
    old_state()
    capsys.readouterr()
    resumed = tiny_run(**RUN, resume=True)
    said = capsys.readouterr().out
    assert "going on after step 2" in said
    assert "note: " not in said  # neither a state left aside nor another circumstance
    assert same_bits(resumed.policy, undisturbed.policy)
    assert resumed.history == undisturbed.history


def test_an_old_state_of_another_run_is_refused(old_state, tiny_run):
    old_state(beta=0.5)
    with pytest.raises(ResumeError, match=r"beta was 0\.5, now it is 0\.1"):
        tiny_run(**RUN, resume=True)
