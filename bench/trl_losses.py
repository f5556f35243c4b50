"""What TRL's losses are for the same log-probabilities, written to tests/trl_losses.json.

`python -m bench.trl_losses`; needs bench/requirements.txt. The policy is the base with noise on its
weights, so that every margin differs. TRL has neither `dpop` nor the course's `assignment`.
"""

from types import SimpleNamespace

import torch
from datasets import Dataset
from torch import Tensor
from trl import DPOTrainer, KTOConfig, KTOTrainer
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOTrainer

from bench import huggingface
from dpo.data.batches import tokenize_pairs
from dpo.data.pair import Pair
from dpo.data.pair_file import load_pairs, spread
from dpo.train import Config
from model import GPT
from sft.checkpoint.weights import load_model
from sft.files import write_json
from sft.tokenizer import Tokenizer

BETA, LABEL_SMOOTHING, SIMPO_GAMMA, PAIRS = 0.3, 0.1, 0.5, 8
DPO_NAMES = {  # ours and theirs, of the losses that TRL's DPOTrainer has
    "sigmoid": "sigmoid",
    "hinge": "hinge",
    "ipo": "ipo",
    "robust": "robust",
    "length_norm": "sigmoid_norm",
    "apo_zero": "apo_zero",
    "apo_down": "apo_down",
}


def main() -> None:
    reference, tokenizer = load_model(Config.base)
    policy = with_noise(load_model(Config.base)[0])
    pairs = spread(load_pairs(Config.pairs, tokenizer).pairs, PAIRS)
    trainer = huggingface.make_trainer(policy, reference, tokenizer, pairs, PAIRS, BETA, 0.0)
    swapped = huggingface.make_trainer(reference, policy, tokenizer, pairs, PAIRS, BETA, 0.0)
    logps = [v for t in (trainer, swapped) for v in huggingface.logps_and_metrics(t)[:2]]
    tokenized = tokenize_pairs(tokenizer, pairs)
    chosen_lengths = torch.tensor([len(pair.chosen.completion) for pair in tokenized])
    rejected_lengths = torch.tensor([len(pair.rejected.completion) for pair in tokenized])
    lengths = [chosen_lengths, rejected_lengths]
    losses = dpo_losses(trainer) | losses_of_logps(logps, lengths)
    losses["kto"] = kto_loss(policy, reference, tokenizer, pairs)
    results = {"beta": BETA, "label_smoothing": LABEL_SMOOTHING, "simpo_gamma": SIMPO_GAMMA}
    results["logps"] = [v.tolist() for v in logps]
    results["lengths"] = [v.tolist() for v in lengths]
    write_json("tests/trl_losses.json", results | {"losses": losses})
    print(losses)


def with_noise(model: GPT) -> GPT:
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * parameter.std() * torch.randn_like(parameter)
    return model


def dpo_losses(trainer: DPOTrainer) -> dict[str, float]:
    trainer.label_smoothing = LABEL_SMOOTHING
    losses = {}
    for ours, theirs in DPO_NAMES.items():
        trainer.loss_types = [theirs]
        losses[ours] = huggingface.logps_and_metrics(trainer)[2]
    return losses


def losses_of_logps(logps: list[Tensor], lengths: list[Tensor]) -> dict[str, float]:
    """The losses of the trainers without a reference, which TRL has as functions of the logps."""
    chosen, rejected, reference_chosen, reference_rejected = logps
    means = chosen / lengths[0], rejected / lengths[1]
    settings = {"alpha": 0.0, "beta": BETA, "simpo_gamma": SIMPO_GAMMA}
    settings["accelerator"] = SimpleNamespace(device="cpu")
    simpo = SimpleNamespace(**settings, loss_type="simpo", label_smoothing=0.0)
    cdpo = SimpleNamespace(**settings, loss_type="sigmoid", label_smoothing=LABEL_SMOOTHING)
    # Given log-ratios in place of logps, CPO with smoothed labels is conservative DPO.
    logratios = chosen - reference_chosen, rejected - reference_rejected
    return {
        "simpo": CPOTrainer.cpo_loss(simpo, *means)[0].mean().item(),
        "cdpo": CPOTrainer.cpo_loss(cdpo, *logratios)[0].mean().item(),
        "orpo": -ORPOTrainer.odds_ratio_loss(simpo, *means)[0].mean().item(),  # TRL subtracts it
    }


def kto_loss(policy: GPT, reference: GPT, tokenizer: Tokenizer, pairs: list[Pair]) -> float:
    """Mean of TRL's KTO losses of the chosen and of the rejected answers.

    The reference point of each half is the KL term that TRL makes of the other half, as its former
    loss for pairs (kto_pair) had it, instead of answers to other prompts.
    """
    chosen = make_kto_trainer(policy, reference, tokenizer, pairs, label=True)
    rejected = make_kto_trainer(policy, reference, tokenizer, pairs, label=False)
    batches = [t.data_collator(list(t.train_dataset)) for t in (chosen, rejected)]
    halves = zip((chosen, rejected), batches, reversed(batches), strict=True)
    keys = ("input_ids", "attention_mask", "completion_mask")
    losses = []
    for trainer, own, other in halves:
        inputs = own | {f"KL_{key}": other[key] for key in keys}
        with torch.no_grad():
            losses.append(trainer.compute_loss(trainer.model.eval(), inputs).item())
    return sum(losses) / 2


def make_kto_trainer(
    policy: GPT, reference: GPT, tokenizer: Tokenizer, pairs: list[Pair], label: bool
) -> KTOTrainer:
    settings = KTOConfig(
        output_dir="runs/trl",
        per_device_train_batch_size=PAIRS,
        beta=BETA,
        max_length=None,
        bf16=False,
        use_cpu=True,
        report_to="none",
    )
    rows = [
        {"prompt": p.prompt, "completion": p.chosen if label else p.rejected, "label": label}
        for p in pairs
    ]
    policy_twin, characters = huggingface.as_gpt2(policy, tokenizer, "sdpa")
    reference_twin, _ = huggingface.as_gpt2(reference, tokenizer, "sdpa")
    return KTOTrainer(
        policy_twin,
        reference_twin,
        settings,
        train_dataset=Dataset.from_list(rows),
        processing_class=characters,
    )


if __name__ == "__main__":
    main()
