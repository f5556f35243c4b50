"""Where a model stops answering: `python -m dpo.border` measures how the size of the push moves it.

Under its refusals the base calculates where it can, and there the log-odds of a refusal are low.
Where it cannot they are high. DPO lowers all of them about alike, so that what lay just under the
refusal becomes an answer. How far it lowers them is the user's choice, and that choice is the
border between what is answered and what is refused.

The curve has a point for the base and for each of several runs of `dpo.train`, which differ in
nothing but `steps`: x is what the model gets wrong with confidence, y what it gets right. Every
point is a run of its own, because the learning rate rises and falls over the steps of a run: a
longer run, looked at after k steps, is not the run of k steps. All have the same batches in the
same order, as far as they go, and answer the same questions.

The number of steps is chosen by such a curve, so the questions are of validation families unless
`--split=test` asks for those that are reported.
"""

import tempfile
from dataclasses import dataclass

import torch
from torch import Tensor

from configurator import run_program
from dpo import train
from dpo.evaluation.replies import Reply
from dpo.evaluation.tables import markdown, percent
from dpo.formats import FORMATS, WITHOUT_ANSWER, ask_kinds, outcomes, sample_kind
from dpo.plots.kinds import border_figure, odds_figure
from dpo.plots.style import check_picture, save_figure
from model import GPT
from sft.checkpoint.weights import load_model
from sft.device import best_device
from sft.files import write_json
from sft.knowledge import refusal_log_odds
from sft.progress import Bar
from sft.tokenizer import Tokenizer
from sft.unanswerable import KINDS

LADDER = (0, 1 / 4, 1 / 2, 3 / 4, 1, 3 / 2, 2, 3, 4)  # steps of each run, as shares of `steps`
MET = [name for name, kind in WITHOUT_ANSWER.items() if KINDS[kind].met]
GROUPS = {  # what the base's corpus does with a kind
    "answered": list(FORMATS),
    "refused": MET,
    "never": [name for name in WITHOUT_ANSWER if name not in MET],
}
SHARES = {  # of a point of the curve, as its table calls them
    "right": "right",
    "refused_with_answer": "refused, though it can calculate",
    "refused_without_answer": "refused, as it cannot",
    "wrong_with_confidence": "wrong with confidence",
}
QUANTILES = {"low": 0.1, "median": 0.5, "high": 0.9}  # of the questions of a kind


@dataclass
class Config:
    """python -m dpo.border: what is answered and what is refused after shorter and longer runs."""

    base: str = train.Config.base  # checkpoint to tune
    pairs: str = train.Config.pairs  # preference pairs
    base_lr: float = train.Config.base_lr  # highest learning rate of AdamW
    steps: int = train.Config.steps  # of the run that is marked; others have up to four times more
    seed: int = train.Config.seed  # of the order of the pairs, and of the sample of questions
    n: int = 40  # questions per kind at most
    split: str = "validation"  # held-out families: validation, to choose steps by; test, to report
    figure: str = ""  # also draw the curve into this file
    odds_figure: str = ""  # also draw the log-odds of a refusal, kind by kind, into this file
    json: str = ""  # also write the figures to this file
    device: str = "auto"  # auto, cpu, cuda or mps


# The log-odds of a refusal


def border_odds(
    model: GPT, tokenizer: Tokenizer, n: int, seed: int, split: str = "validation"
) -> dict[str, Tensor]:
    """Log-odds in nats, (n,) or fewer, that the answer begins as a refusal: of every kind.

    The border is at 0: greedily, a model answers below and refuses above (nearly, since a refusal
    can begin with one of two letters). Two models are asked the same questions in the same order.
    """
    odds = {}
    for name in (*FORMATS, *WITHOUT_ANSWER):
        _, prompts = sample_kind(name, n, seed, split)
        odds[name] = refusal_log_odds(model, tokenizer, prompts).cpu()
    return odds


def summarise_odds(before: dict[str, Tensor], after: dict[str, Tensor]) -> dict[str, dict]:
    """Median and 10-90 % range of every kind: before, after, and of the difference in a question.

    Group by group; in a group, the kind comes first that lay nearest to an answer.
    """
    summary = {}
    for group, names in GROUPS.items():
        for name in sorted(names, key=lambda name: float(before[name].median())):
            odds = {"before": before[name], "after": after[name]}
            odds["lowered"] = before[name] - after[name]
            ranges = {key: _quantiles(values) for key, values in odds.items()}
            summary[name] = {"in_base": group, "n": len(before[name]), **ranges}
    return summary


def _quantiles(values: Tensor) -> dict[str, float]:
    return {name: float(torch.quantile(values, q)) for name, q in QUANTILES.items()}


def odds_table(summary: dict[str, dict], steps: int) -> str:
    """A row per kind of `summarise_odds`, in nats."""
    rows = [["kind", "in the base", "n", "before", f"after {steps} steps", "lowered by"]]
    for name, kind in summary.items():
        ranges = (
            "{median:.1f} ({low:.1f} to {high:.1f})".format(**kind[key])
            for key in ("before", "after", "lowered")
        )
        rows.append([name, kind["in_base"], str(kind["n"]), *ranges])
    head = (
        "Log-odds of a refusal, nats: median, and 10 to 90 % of the questions; below 0 it answers."
    )
    return f"{head}\n\n{markdown(rows)}"


# Risk against coverage


def summarise_point(replies: dict[str, list[Reply]]) -> dict[str, dict]:
    """Rates with 95 % intervals over all kinds: what is right, refused, wrong with confidence.

    `right` is the coverage, of the questions with an answer; `wrong_with_confidence` is the risk,
    of all questions.
    """
    with_answer = [reply for name in FORMATS for reply in replies[name]]
    without = [reply for name in WITHOUT_ANSWER for reply in replies[name]]
    return {
        "right": outcomes(with_answer)["right"],
        "refused_with_answer": outcomes(with_answer)["refused"],
        "refused_without_answer": outcomes(without)["refused"],
        "wrong_with_confidence": outcomes(with_answer + without)["wrong"],
    }


def points_table(points: list[dict], marked: int) -> str:
    """A row per run, from the base on; the marked one is the run that was asked for."""
    rows = [["steps", *SHARES.values()]]
    for point in points:
        steps = f"**{point['steps']}**" if point["steps"] == marked else str(point["steps"])
        rows.append([steps, *(percent(point[name]) for name in SHARES)])
    with_answer, everything = (points[0][name]["n"] for name in ("right", "wrong_with_confidence"))
    head = (
        f"Right is a share of the {with_answer:,} questions that the base can calculate; wrong "
        f"with confidence is one of all {everything:,}."
    )
    return f"{head}\n\n{markdown(rows)}"


# The runs


def run_lengths(steps: int) -> list[int]:
    """The steps of all runs, from 0, the base; ValueError if the marked one has none."""
    if steps < 1:
        raise ValueError(f"steps is {steps}; a run needs at least one")
    return sorted({round(share * steps) for share in LADDER})


def train_for(steps: int, config: Config) -> GPT:
    """The policy after so many steps, else with the defaults of `dpo.train`; no file stays."""
    asked = {name: getattr(config, name) for name in ("base", "pairs", "base_lr", "seed", "device")}
    with tempfile.TemporaryDirectory() as folder:
        settings = train.Config(
            **asked, steps=steps, out=folder, eval_every=0, save_every=steps, quiet=True
        )
        return train.train(settings)[0].eval()


def measure(config: Config) -> tuple[list[dict], dict[str, dict]]:
    """The points of the curve, and the log-odds before and after the run that is marked."""
    lengths = run_lengths(config.steps)
    model, tokenizer = load_model(config.base, best_device(config.device))
    sample = config.n, config.seed, config.split
    points, odds = [], []
    with Bar(len(lengths), "base and runs", "model") as bar:
        for steps in lengths:
            model = train_for(steps, config) if steps else model
            replies = ask_kinds(model, tokenizer, *sample)
            points.append({"steps": steps, **summarise_point(replies)})
            if steps in (0, config.steps):
                odds.append(border_odds(model, tokenizer, *sample))
            bar.update()
    return points, summarise_odds(*odds)


def main(config: Config) -> None:
    for path in filter(None, (config.figure, config.odds_figure)):
        check_picture(path)
    points, odds = measure(config)
    print(f"{odds_table(odds, config.steps)}\n\n{points_table(points, config.steps)}")
    if config.json:
        about = {name: getattr(config, name) for name in ("seed", "split", "base_lr", "steps")}
        write_json(config.json, about | {"points": points, "odds": odds})
    if config.odds_figure:
        save_figure(odds_figure(odds, config.steps), config.odds_figure)
    if config.figure:
        name = "the default" if config.steps == train.Config.steps else "this run"
        save_figure(border_figure(points, config.steps, name), config.figure)


if __name__ == "__main__":
    run_program(main, Config())
