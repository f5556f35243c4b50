"""Elicit or teach? The same pairs on the shipped and on a blank base: `python -m bench.two_bases`.

The blank base has seen questions only with a refusal behind them. It is made first if it is not
there, in some minutes.
"""

from pathlib import Path

from bench.results import Measurement, print_result
from dpo.evaluation.replies import answer_questions, sample_domain
from dpo.evaluation.tables import describe_group, evaluate, markdown, percent
from dpo.train import Config, train
from sft import train as base_training
from sft.tokenizer import load_tokenizer

BLANK, SHORT = Path("runs/blank.pt"), Path("runs/results/blank.pt")
EFFORT = 0.2  # of making SHORT, which this measures: to refuse takes few lines
N = 200  # questions a group
# A base that has never seen a sum needs far larger steps: Muon at a high rate.
TEACH = {"base": str(SHORT), "optimizer": "muon", "muon_lr": 0.02, "base_lr": 2e-3}
RUNS = {
    "shipped base, DPO": {},
    "blank base, DPO": {"base": str(SHORT)},
    "blank base, DPO, large steps": TEACH,
    "blank base, DPO + NLL, large steps": TEACH | {"nll_coef": 1.0},
}


def make_blank(path: Path = BLANK, effort: float = 1.0) -> None:
    """Make a blank base, unless it is there."""
    if not path.exists():
        settings = {"out": str(path), "arithmetic": "none", "effort": effort}
        base_training.make_base(base_training.Config(**settings))


def measure() -> dict[str, dict]:
    """The last preference loss and the right answers by group, of every run."""
    make_blank(SHORT, EFFORT)
    tokenizer, results, questions = load_tokenizer(), {}, sample_domain(N, seed=1)
    for name, settings in RUNS.items():
        policy, history = train(Config(**settings, out="runs/two_bases", eval_every=0))
        groups = evaluate(answer_questions(policy.eval(), tokenizer, questions))["groups"]
        right = {group: figures["right"] for group, figures in groups.items()}
        results[name] = {"loss": history["loss/preference"][-1], "right": right}
    return results


def runs_table(values: dict[str, dict]) -> str:
    """A row per run: its last loss, and its right answers."""
    groups = next(iter(values.values()))["right"]
    heads = [f"{describe_group(group)}, n = {share['n']:,}" for group, share in groups.items()]
    rows = [["run", "last preference loss", *heads]]
    for name, run in values.items():
        rows.append([name, f"{run['loss']:.3f}", *map(percent, run["right"].values())])
    return markdown(rows)


MEASUREMENT = Measurement(
    "two_bases", "python -m bench.two_bases", measure, lambda v: {"table": runs_table(v)}, 4
)

if __name__ == "__main__":
    print_result(MEASUREMENT)
