"""Elicit or teach? DPO with and without an NLL term, on two bases: `python -m bench.two_bases`.

The blank base is made first if it is not there (some minutes). Prints a table and writes runs/two_bases.json.
"""

import json
import platform
from pathlib import Path

import torch

from dpo.evaluate import evaluate, headline
from dpo.train import Config, train
from sft import train as base_training
from sft.tokenizer import load_tokenizer

BLANK = Path("runs/blank.pt")
# A base that has never seen a sum needs far larger steps: Muon at a high rate, three passes.
TEACH = {"base": str(BLANK), "optimizer": "muon", "muon_lr": 0.02, "base_lr": 2e-3, "epochs": 3}
RUNS = {
    "shipped base, pure DPO": {"nll_coef": 0.0},
    "shipped base, DPO + NLL": {"nll_coef": 0.2},
    "blank base, pure DPO": {"base": str(BLANK), "nll_coef": 0.0},
    "blank base, pure DPO, large steps": TEACH | {"nll_coef": 0.0},
    "blank base, DPO + NLL, large steps": TEACH | {"nll_coef": 1.0},
}


def markdown(results: dict[str, dict]) -> str:
    """The table of the README."""
    rows = [["run", "last preference loss", *headline(next(iter(results.values())))]]
    rows.append(["---"] * len(rows[0]))
    for name, result in results.items():
        rates = (f"{r['rate']:.1%} ({r['low']:.1%} to {r['high']:.1%})" for r in headline(result).values())
        rows.append([name, f"{result['loss']:.3f}", *rates])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    if not BLANK.exists():
        base_training.make_base(base_training.Config(out=str(BLANK), arithmetic="none"))
    tokenizer, results = load_tokenizer(), {}
    for name, settings in RUNS.items():
        print(f"\n{name}: {settings}")
        policy, history = train(Config(out=f"runs/{name.replace(' ', '_').replace(',', '')}", eval_every=0, **settings))
        result = evaluate(policy.eval(), tokenizer, n=1200)
        results[name] = {"settings": settings, "loss": history["loss/preference"][-1], **result}
    print(
        f"\ntorch {torch.__version__}, {platform.machine()}, {torch.get_num_threads()} threads\n\n{markdown(results)}"
    )
    Path("runs/two_bases.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
