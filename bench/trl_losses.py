"""What TRL's losses give for the same log-probabilities: `python -m bench.trl_losses` writes tests/trl_losses.json.

Needs bench/requirements.txt. The policy is the base with noise on its weights, so that every margin differs.
"""

from types import SimpleNamespace

import torch
from trl.experimental.cpo import CPOTrainer

from bench import huggingface
from dpo.batches import encode_pairs
from dpo.evaluate import write_json
from dpo.pairs import load_pairs
from dpo.train import Config
from sft.checkpoint import load_model
from sft.tokenizer import load_tokenizer

BETA, LABEL_SMOOTHING, SIMPO_GAMMA, PAIRS = 0.3, 0.1, 0.5, 8
NAMES = {"sigmoid": "sigmoid", "hinge": "hinge", "ipo": "ipo", "robust": "robust", "length_norm": "sigmoid_norm"}


def main() -> None:
    tokenizer = load_tokenizer()
    pairs = load_pairs(Config.pairs, tokenizer).pairs[:PAIRS]
    policy, reference = (load_model(Config.base) for _ in range(2))
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter += 0.05 * parameter.std() * torch.randn_like(parameter)
    trainer = huggingface.make_trainer(policy, reference, tokenizer, pairs, PAIRS, BETA, 0.0)
    trainer.label_smoothing = LABEL_SMOOTHING
    losses = {}
    for ours, theirs in NAMES.items():
        trainer.loss_types = [theirs]
        chosen, rejected, losses[ours], _ = huggingface.logps_and_metrics(trainer)
    swapped = huggingface.make_trainer(reference, policy, tokenizer, pairs, PAIRS, BETA, 0.0)
    reference_chosen, reference_rejected, _, _ = huggingface.logps_and_metrics(swapped)
    examples = encode_pairs(tokenizer, pairs)
    lengths = [
        torch.tensor([len(row.completion) for row in rows])
        for rows in zip(*((e.chosen, e.rejected) for e in examples), strict=True)
    ]
    # TRL has SimPO and label smoothing in its CPO trainer, whose loss has no reference: cDPO is that of log-ratios.
    settings = {"alpha": 0.0, "beta": BETA, "simpo_gamma": SIMPO_GAMMA, "accelerator": SimpleNamespace(device="cpu")}
    simpo = SimpleNamespace(**settings, loss_type="simpo", label_smoothing=0.0)
    cdpo = SimpleNamespace(**settings, loss_type="sigmoid", label_smoothing=LABEL_SMOOTHING)
    losses["simpo"] = CPOTrainer.cpo_loss(simpo, chosen / lengths[0], rejected / lengths[1])[0].mean().item()
    losses["cdpo"] = (
        CPOTrainer.cpo_loss(cdpo, chosen - reference_chosen, rejected - reference_rejected)[0].mean().item()
    )
    write_json(
        "tests/trl_losses.json",
        {
            "beta": BETA, "label_smoothing": LABEL_SMOOTHING, "simpo_gamma": SIMPO_GAMMA,
            "logps": [v.tolist() for v in (chosen, rejected, reference_chosen, reference_rejected)],
            "lengths": [v.tolist() for v in lengths], "losses": losses,
        },
    )  # fmt: skip
    print(losses)


if __name__ == "__main__":
    main()
