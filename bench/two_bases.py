"""Elicit or teach? DPO with and without an NLL term, on two bases: `python -m bench.two_bases`.

The blank base is made first if it is not there (some minutes). Prints a table and writes runs/two_bases.json.
"""

import json
import platform
import time
from pathlib import Path

import torch

from dpo.evaluate import GROUPS, evaluate
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


def main() -> None:
    if not BLANK.exists():
        base_training.main(base_training.Config(out=str(BLANK), arithmetic="none"))
    tokenizer, results = load_tokenizer(), {}
    for name, settings in RUNS.items():
        print(f"\n{name}: {settings}")
        started = time.monotonic()
        policy, history = train(Config(out=f"runs/{name.replace(' ', '_').replace(',', '')}", eval_every=0, **settings))
        minutes = (time.monotonic() - started) / 60
        result = evaluate(policy.eval(), tokenizer, n=1200)
        results[name] = {"settings": settings, "minutes": minutes, "loss": history["loss/preference"][-1], **result}
    print(f"\ntorch {torch.__version__}, {platform.machine()}, {torch.get_num_threads()} threads")
    print(f"{'':36}{'minutes':>8}{'last loss':>10}" + "".join(f"{group:>25}" for group in GROUPS))
    for name, r in results.items():
        rates = (f"{g['rate']:.1%} ({g['low']:.1%}-{g['high']:.1%})" for g in r["groups"].values())
        print(f"{name:36}{r['minutes']:8.1f}{r['loss']:10.4f}" + "".join(f"{rate:>25}" for rate in rates))
    Path("runs/two_bases.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
