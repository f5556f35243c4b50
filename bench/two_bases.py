"""Elicit or teach? DPO with and without an NLL term, on two bases: `python -m bench.two_bases`.

All runs are on 3,072 pairs. The blank base is made first if it is not there (some minutes). Prints
a table and writes runs/two_bases.json.
"""

import platform
from pathlib import Path

import torch

from bench.large import large_run, pairs_file
from dpo.evaluation.replies import answer_questions, sample_domain
from dpo.evaluation.tables import describe_group, evaluate, markdown, percent
from dpo.train import train
from sft import train as base_training
from sft.files import write_json
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


def make_blank() -> None:
    """Make the blank base, unless it is there."""
    if not BLANK.exists():
        base_training.make_base(base_training.Config(out=str(BLANK), arithmetic="none"))


def runs_table(results: dict[str, dict]) -> str:
    """The table of sft/README.md: right answers of every run."""
    groups = list(next(iter(results.values()))["groups"])
    rows = [["run", "last preference loss", *map(describe_group, groups)]]
    for name, result in results.items():
        right = (percent(result["groups"][group]["right"]) for group in groups)
        rows.append([name, f"{result['loss']:.3f}", *right])
    return markdown(rows)


def main() -> None:
    make_blank()
    tokenizer, results, questions = load_tokenizer(), {}, sample_domain(1200, seed=1)
    for name, settings in RUNS.items():
        print(f"\n{name}: {settings}")
        out = f"runs/{name.replace(' ', '_').replace(',', '')}"
        common = {"pairs": pairs_file(3072, "base"), "out": out, "eval_every": 0}
        policy, history = train(large_run(**common | settings))
        result = evaluate(answer_questions(policy.eval(), tokenizer, questions))
        results[name] = {"settings": settings, "loss": history["loss/preference"][-1], **result}
    threads = f"{torch.get_num_threads()} threads"
    print(f"\ntorch {torch.__version__}, {platform.machine()}, {threads}\n\n{runs_table(results)}")
    write_json("runs/two_bases.json", results)


if __name__ == "__main__":
    main()
