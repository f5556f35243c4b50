"""All measurements whose results the pages quote; and those that run a command of dpo/.

The others are in the files of this folder that their commands name.
"""

import json
from pathlib import Path

import torch

from bench import (
    controls,
    edits,
    learning,
    loading,
    losses,
    machines,
    memory,
    parts,
    report,
    sampling,
    scaling,
    seeds,
    shapes,
    throughput,
    two_bases,
)
from bench.results import Measurement
from dpo import atlas, border, formats, museum, pass_at_k, sweep, train
from dpo.evaluation.tables import counted, markdown, table
from dpo.plots.museum import museum_figure
from dpo.plots.style import save_figure
from dpo.try_pairs import find_or_train
from sft.checkpoint.weights import load_model
from sft.files import write_atomically
from sft.knowledge import (
    latent_accuracy,
    refusal_log_odds,
    sample_answerable,
    sample_unanswerable,
)

RUNS = Path("runs/results")
IMAGES = Path("dpo/images")


def default_run() -> str:
    """The checkpoint of the default run of `dpo.train`, which is trained if it is not there."""
    return str(find_or_train(train.Config(out=str(RUNS / "default"), eval_every=0)))


def json_of(command, **settings) -> dict:
    """What a command of dpo/ writes with --json=FILE, when called with these settings."""
    path = RUNS / f"{command.__name__}.json"
    command.main(command.Config(**settings, json=str(path)))
    return json.loads(path.read_text(encoding="utf-8"))


# Kinds of questions


def measure_kinds() -> dict:
    settings = {"figure": str(IMAGES / "kinds.png"), "checkpoint": default_run()}
    before, after = json_of(formats, **settings)["models"].values()
    model, tokenizer = load_model(train.Config.base)
    known = {}
    for kind in formats.FORMATS:
        questions, prompts = formats.sample_kind(kind, formats.Config.n, formats.Config.seed)
        asked = list(zip(questions, prompts, strict=True))
        known[kind] = latent_accuracy(model, tokenizer, asked)
    return {"before": before, "after": after, "known": known}


FIRST_SCREEN = {  # rows of README's table, and the kinds in each
    "sums and differences": ["sums and differences: 17+19=?"],
    "products and quotients without 0 and 1": ["products and quotients: 3*17=?"],
    "in no pair: results below zero; three digits; two digits by one": [
        "results below zero: 17-36=?",
        "three digits: 317+219=?",
        "two digits by one: 47*8=?",
    ],
}
WITHOUT_ANSWER = {  # more rows, and the group of `dpo.formats` in each
    "fifteen kinds that the base cannot calculate, and has met": "refused",
    "three such kinds that it has never met": "never",
}


def first_screen(values: dict) -> str:
    """Few rows for README: answers before and after."""
    rows = [["questions", "before", "after"]]
    models = [values["before"], values["after"]]
    for name, kinds in FIRST_SCREEN.items():
        cells = []
        for summary in models:
            shares = [summary["kinds"][kind]["right"] for kind in kinds]
            cells.append(f"{'; '.join(map(counted, shares))} right")
        rows.append([name, *cells])
    for name, group in WITHOUT_ANSWER.items():
        shares = [summary["groups"][group]["refused"] for summary in models]
        rows.append([name, *(f"{counted(share)} refused" for share in shares)])
    wrong = [counted(summary["wrong_with_confidence"]) for summary in models]
    return markdown([*rows, ["*wrong with confidence*, of all questions", *wrong]])


def known_table(values: dict) -> str:
    """What of each kind the base knows under its refusals, and what comes out after the run."""
    rows = [["kind", "n", "known to the base", *formats.OUTCOMES]]
    for kind, share in values["known"].items():
        after = values["after"]["kinds"][kind]
        cells = [share, *(after[outcome]["rate"] for outcome in formats.OUTCOMES)]
        rows.append([kind, f"{after['n']:,}", *(f"{100 * cell:.0f} %" for cell in cells)])
    return markdown(rows)


def render_kinds(values: dict) -> dict[str, str]:
    """Tables; and what prose quotes, counts of questions after the run."""
    right, *without = (
        values["after"]["groups"][group][outcome] for group, (outcome, _) in formats.GROUPS.items()
    )
    wrong = values["after"]["wrong_with_confidence"]
    numbers = {
        "right": right["count"],
        "with_answer": right["n"],
        "refused": sum(share["count"] for share in without),
        "without_answer": sum(share["n"] for share in without),
        "wrong": wrong["count"],
        "asked": wrong["n"],
    }
    texts = {name: f"{number:,}" for name, number in numbers.items()}
    share = {"wrong_share": f"{100 * wrong['rate']:.1f}"}
    tables = {
        "first_screen": first_screen(values),
        "table": formats.kinds_table(values["after"]),
        "known": known_table(values),
    }
    return tables | texts | share


# The border


def measure_border() -> dict:
    figures = {"figure": "border.png", "odds_figure": "odds.png"}
    figures = {name: str(IMAGES / file) for name, file in figures.items()}
    return json_of(border, n=16, **figures)


def render_border(values: dict) -> dict[str, str]:
    return {
        "table": border.points_table(values["points"], values["steps"]),
        "odds": border.odds_table(values["odds"], values["steps"]),
    }


# What the base knows


def measure_knowledge(n: int = 150) -> dict:
    """Of validation families: the share known, by kind, and the median log-odds of a refusal."""
    model, tokenizer = load_model(train.Config.base)
    asked = sample_answerable("validation", n)
    texts = {kind: [text for _, text in members] for kind, members in asked.items()}
    texts |= sample_unanswerable(n // 3)
    return {
        "n": {kind: len(members) for kind, members in texts.items()},
        "right": {kind: latent_accuracy(model, tokenizer, pairs) for kind, pairs in asked.items()},
        "odds": {
            kind: float(refusal_log_odds(model, tokenizer, members).median())
            for kind, members in texts.items()
        },
    }


def render_knowledge(values: dict) -> dict[str, str]:
    rows = [["kind", "n", "right", "log-odds of a refusal"]]
    for kind, odds in values["odds"].items():
        right = f"{values['right'][kind]:.0%}".replace("%", " %") if kind in values["right"] else ""
        rows.append([kind.replace("_", " "), str(values["n"][kind]), right, f"{odds:.1f}"])
    return {"table": markdown(rows)}


# What can be drawn; settings; mistakes; everything


def measure_draws() -> dict:
    return json_of(pass_at_k, checkpoint=train.Config.base, tuned=default_run(), n=300)


def render_draws(values: dict) -> dict[str, str]:
    return {"table": pass_at_k.passes_table({"base": values["groups"]}, values["tuned"])}


def measure_sweep() -> dict:
    sweep.main(sweep.Config(out=str(RUNS / "sweep"), eval_every=0, n=100))
    write_atomically(IMAGES / "sweep.png", (RUNS / "sweep/grid.png").read_bytes())
    results = json.loads((RUNS / "sweep/runs.json").read_text(encoding="utf-8"))
    return losses.ends_of_runs(results)


def numbers_of(results: list[museum.ExhibitResult]) -> dict[str, dict]:
    """By exhibit: right answers of every run, in how many it did harm, what the curves say."""
    exhibits = {}
    for result in results:
        exhibits[result.title] = {
            "n": len(result.base),
            "right": [trial.right for trial in result.trials],
            "harmed": result.harmed,
            "losses": [[curve[0], curve[-1]] for curve in result.curves],
            "said": dict(result.said),
        }
    return exhibits


def measure_museum() -> dict:
    results = museum.run_museum()
    save_figure(museum_figure(results), str(IMAGES / "museum.png"))
    return numbers_of(results)


def measure_museum_again() -> dict:
    """The same with other seeds, and on two threads if it was one, else on one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2 if threads == 1 else 1)
    try:
        return numbers_of(museum.run_museum(seed=6))
    finally:
        torch.set_num_threads(threads)


def measure_healthy_runs() -> dict:
    return numbers_of(museum.run_museum(["healthy"], seeds=50))


def render_museum(values: dict) -> dict[str, str]:
    first = next(iter(values.values()))
    heads = [f"right, of {first['n']}", "harm in", "last loss", "the curves alone say (runs)"]
    rows = [["exhibit", "runs", *heads]]
    for title, result in values.items():
        last, right = [end for _, end in result["losses"]], result["right"]
        said = ", ".join(f"{name} ({times})" for name, times in result["said"].items())
        harm = str(result["harmed"]) if title != museum.Healthy.title else "-"
        ends = [f"{min(right)} to {max(right)}", harm, f"{min(last):.3f} to {max(last):.3f}"]
        rows.append([title, str(len(right)), *ends, said])
    return {"table": markdown(rows)}


def measure_atlas() -> dict:
    figures = json_of(atlas, checkpoint=default_run(), out=str(RUNS / "atlas.png"))
    return {name: {"groups": result["groups"]} for name, result in figures.items()}


def render_atlas(values: dict) -> dict[str, str]:
    return {"table": table(values, counted)}


MEASUREMENTS = (
    Measurement("kinds", "python -m dpo.formats", measure_kinds, render_kinds, 8),
    Measurement("border", "python -m dpo.border --n=16", measure_border, render_border, 2),
    seeds.MEASUREMENT,
    controls.MEASUREMENT,
    *edits.MEASUREMENTS,
    machines.MEASUREMENT,
    losses.MEASUREMENT,
    Measurement(
        "sweep",
        'python -m dpo.sweep --grid="beta=0.05,0.1,0.5 nll_coef=0,0.2,1" --n=100',
        measure_sweep,
        lambda values: {"table": losses.ends_table(values)},
        2,
    ),
    two_bases.MEASUREMENT,
    Measurement(
        "draws",
        "python -m dpo.pass_at_k --checkpoint=sft/gpt.pt --n=300",
        measure_draws,
        render_draws,
        30,
    ),
    Measurement("museum", "python -m dpo.museum", measure_museum, render_museum, 5),
    Measurement(
        "museum_again", "python -m dpo.museum --seed=6", measure_museum_again, render_museum, 5
    ),
    Measurement(
        "healthy_runs",
        "python -m dpo.museum healthy --seeds=50",
        measure_healthy_runs,
        render_museum,
        4,
    ),
    Measurement("atlas", "python -m dpo.atlas", measure_atlas, render_atlas, 11),
    Measurement(
        "knowledge",
        "python -m bench.everything --only=knowledge",
        measure_knowledge,
        render_knowledge,
        0.5,
    ),
    report.MEASUREMENT,
    throughput.MEASUREMENT,
    parts.MEASUREMENT,
    sampling.MEASUREMENT,
    scaling.MEASUREMENT,
    *learning.MEASUREMENTS,
    shapes.MEASUREMENT,
    memory.MEASUREMENT,
    loading.MEASUREMENT,
)
