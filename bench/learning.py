"""Held-out accuracy against pairs seen and seconds of training: `python -m bench.learning`.

The shipped and the blank base, AdamW and Muon, every kind of negatives, and the two roads of a
blank base: pairs alone, or short lines of arithmetic first. Takes more than an hour on two CPU
cores. Stop it when you like: runs that ended are kept in runs/learning and not repeated. Prints
tables; every run is a JSON file there.
"""

import json
import random
import time
from functools import partial
from pathlib import Path

from bench.large import SETTINGS, large_run, pairs_file
from bench.report import hardware
from bench.results import Measurement
from bench.two_bases import BLANK, make_blank
from configurator import override
from dpo import make_pairs
from dpo.data.pair_file import load_pairs
from dpo.evaluation.replies import answer_questions, sample_domain
from dpo.evaluation.tables import describe_group, evaluate, markdown, percent, rate
from dpo.train import Config, train
from dpo.training.history import History
from model import GPT
from sft import train as base_training
from sft.files import write_json
from sft.tokenizer import Tokenizer, load_tokenizer

FOLDER = Path("runs/learning")
CALCULATES = Path("runs/calculates.pt")  # the blank base after short lines of arithmetic
MANY, FEW = 40_000, 3072
TEST_SEED = 12  # of the test drawn like the pairs; the pairs have seed 1
TEACH = vars(override(Config(base=str(BLANK)), [str(SETTINGS / "blank_base.py")]))
TEACH = {name: value for name, value in TEACH.items() if value != getattr(Config(), name)}
ONCE = {"epochs": 1}
SHORT_FIRST = {"base": str(CALCULATES), "nll_coef": 1.0, "base_lr": 1e-4}
PAIRS_ALONE, LINES_FIRST = "blank base, pairs alone", "blank base, short lines first"
RUNS: dict[str, tuple[int, str, dict]] = {  # pairs, their negatives, settings
    "shipped base": (FEW, "base", {}),
    "shipped base, refusals": (FEW, "refusal", {}),
    "shipped base, near misses": (FEW, "near_miss", {}),
    "shipped base, Muon": (FEW, "base", {"optimizer": "muon"}),
    LINES_FIRST: (FEW, "base", SHORT_FIRST),
    PAIRS_ALONE: (MANY, "refusal", TEACH),
    "the same, one pass": (MANY, "refusal", TEACH | ONCE),
    "one pass, digits weigh as the rest": (MANY, "refusal", TEACH | ONCE | {"digit_weight": 1.0}),
    "one pass, near misses": (MANY, "near_miss", TEACH | ONCE),
    "one pass, AdamW": (MANY, "refusal", TEACH | ONCE | {"optimizer": "adamw"}),
}


class TimedHistory(History):
    """A history that also notes, at every eval, the seconds of work so far.

    That is the steps and saving: the reference's pass comes before the first eval.
    """

    def __init__(self):
        super().__init__()
        self.seconds, self.since = 0.0, time.perf_counter()

    def append(self, metrics: dict[str, float]) -> None:
        super().append(metrics)
        self.seconds += time.perf_counter() - self.since
        self.since = time.perf_counter()

    def append_eval(self, metrics: dict[str, float]) -> None:
        super().append_eval({**metrics, "seconds": self.seconds})
        self.since = time.perf_counter()


def make_calculates() -> dict[str, float]:
    """Teach the blank base to calculate, in short lines, unless that is done.

    The seconds and lines that it took.
    """
    note = CALCULATES.with_suffix(".json")
    if not note.exists():
        started = time.perf_counter()
        base_training.make_base(
            base_training.Config(init=str(BLANK), arithmetic="short", out=str(CALCULATES))
        )
        lines = sum(stage.lines for stage in base_training.STAGES["short"])
        write_json(note, {"seconds": time.perf_counter() - started, "lines": lines})
    return json.loads(note.read_text(encoding="utf-8"))


def like_the_pairs(
    model: GPT, tokenizer: Tokenizer, trained: set[str], n: int = 1000
) -> dict[str, float]:
    """Exact matches on n questions drawn just as the pairs are: seen families, every form alike.

    This is how the course's public solutions are tested; `trained` is the share of the questions
    that are among the pairs.
    """
    questions = make_pairs.draw_questions(n, ["standard"], random.Random(TEST_SEED))
    replies = answer_questions(model, tokenizer, questions)
    right = rate(sum(reply.outcome == "right" for reply in replies), n)
    return right | {"trained": sum(question.text in trained for question in questions) / n}


def measure(name: str) -> dict:
    """Train a run of RUNS and test it in both ways; all that is known of it."""
    n, negatives, own = RUNS[name]
    out = FOLDER / name.replace(" ", "_").replace(",", "")
    common = {"out": str(out), "pairs": pairs_file(n, negatives)}
    config = large_run(**common | {"eval_every": 4, "eval_questions": 200} | own)
    before = {"seconds": 0.0, "lines": 0}
    if config.base == str(CALCULATES):
        before = make_calculates()
    tokenizer, history = load_tokenizer(), TimedHistory()
    policy, _ = train(config, history)
    result = evaluate(answer_questions(policy.eval(), tokenizer, sample_domain(1200, seed=1)))
    trained = {pair.prompt for pair in load_pairs(config.pairs, tokenizer).pairs}
    test = like_the_pairs(policy, tokenizer, trained)
    most = n * config.epochs
    seen = [min(step * config.batch_size, most) for step in history.evals["step"]]
    return {
        "run": RUNS[name],
        "before": before,
        "hardware": hardware(),
        "looks": history.evals | {"pairs": seen},
        "test": test,
        **result,
    }


def curve(result: dict, points: int = 12) -> str:
    """A table of about so many evals, the last among them."""
    evals, last = result["looks"], len(result["looks"]["step"]) - 1
    rows = [["pairs shown", "seconds", "validation additive", "validation multiplicative"]]
    for i in sorted({*range(0, last, -(-last // points)), last}):
        row = [f"{evals['pairs'][i]:,}", f"{evals['seconds'][i]:.0f}"]
        for kind in ("additive", "multiplicative"):
            row.append(f"{evals[f'exact/held_out/{kind}'][i]:.0%}")
        rows.append(row)
    return markdown(rows)


def ends(results: dict[str, dict]) -> str:
    """A row per run: what it took, and what came of it."""
    groups = list(next(iter(results.values()))["groups"])
    head = ["run", "SFT lines", "pairs shown", "minutes", "drawn like the pairs (of them trained)"]
    rows = [[*head, *map(describe_group, groups)]]
    for name, r in results.items():
        minutes = (r["before"]["seconds"] + r["looks"]["seconds"][-1]) / 60
        amounts = [f"{r['before']['lines']:,}", f"{r['looks']['pairs'][-1]:,}", f"{minutes:.1f}"]
        test = f"{percent(r['test'])} ({r['test']['trained']:.0%})"
        right = (percent(r["groups"][group]["right"]) for group in groups)
        rows.append([name, *amounts, test, *right])
    return markdown(rows)


def measure_road(name: str) -> dict:
    """What a road took and what came of it, and the validation questions on the way."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    make_blank()
    result = measure(name)
    return {part: result[part] for part in ("before", "looks", "test", "groups")}


def render_road(name: str, values: dict) -> dict[str, str]:
    return {"table": ends({name: values}), "curve": curve(values, points=8)}


def kept(path: Path, name: str) -> dict | None:
    """The result of an earlier call, if it was measured with these very settings."""
    result = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return result if result.get("run") == json.loads(json.dumps(RUNS[name])) else None


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    make_blank()
    results = {}
    for name in RUNS:
        path = FOLDER / f"{name}.json"
        if kept(path, name) is None:
            write_json(path, measure(name))
        results[name] = kept(path, name)
        print(f"\n{name} ({results[name]['hardware']})\n\n{curve(results[name])}", flush=True)
    print(f"\nexact match at the end\n\n{ends(results)}")


ROADS = {"road_pairs": (PAIRS_ALONE, 75), "road_lines": (LINES_FIRST, 35)}
MEASUREMENTS = tuple(
    Measurement(
        key,
        f"python -m bench.everything --only={key}",
        partial(measure_road, name),
        partial(render_road, name),
        minutes,
        of_base=False,
    )
    for key, (name, minutes) in ROADS.items()
)

if __name__ == "__main__":
    main()
