"""Held-out accuracy against pairs seen and seconds of training: `python -m bench.learning`.

The shipped and the blank base, AdamW and Muon, every kind of negatives, and the two roads of a blank base. Takes more
than an hour on two CPU cores; stop it when you like: runs that ended are kept in runs/learning and not repeated.
Prints tables; every run is a JSON file there.
"""

import json
import random
import time
from pathlib import Path

from bench.report import hardware
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
MANY, FEW = 100_000, 3072
TEST_SEED = 12  # of the test drawn like the pairs; the pairs have seed 1
TEACH = vars(
    override(
        Config(base=str(BLANK)), [str(Path(__file__).parents[1] / "dpo/settings/blank_base.py")]
    )
)
TEACH = {name: value for name, value in TEACH.items() if value != getattr(Config(), name)}
RUNS: dict[str, tuple[int, str, dict]] = {  # pairs, their negatives, settings
    "shipped base": (FEW, "base", {}),
    "shipped base, refusals": (FEW, "refusal", {}),
    "shipped base, near misses": (FEW, "near_miss", {}),
    "shipped base, Muon": (FEW, "base", {"optimizer": "muon"}),
    "blank base, short lines first": (
        FEW,
        "base",
        {"base": str(CALCULATES), "nll_coef": 1.0, "base_lr": 1e-4},
    ),
    "blank base, pairs alone": (MANY, "refusal", TEACH),
    "the same, a quarter of the pairs": (MANY // 4, "refusal", TEACH),
    "a quarter, digits weigh as the rest": (MANY // 4, "refusal", TEACH | {"digit_weight": 1.0}),
    "a quarter, near misses": (MANY // 4, "near_miss", TEACH),
    "a quarter, AdamW": (MANY // 4, "refusal", TEACH | {"optimizer": "adamw", "base_lr": 1e-3}),
}


class TimedHistory(History):
    """A history that also notes the seconds since the first eval: reference, steps and saving, but not the evals."""

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
    """Teach the blank base to calculate, in short lines, unless that is done; the seconds and lines that it took."""
    note = CALCULATES.with_suffix(".json")
    if not note.exists():
        started = time.perf_counter()
        base_training.make_base(
            base_training.Config(init=str(BLANK), arithmetic="short", out=str(CALCULATES))
        )
        lines = sum(stage.lines for stage in base_training.STAGES["short"])
        write_json(note, {"seconds": time.perf_counter() - started, "lines": lines})
    return json.loads(note.read_text(encoding="utf-8"))


def pairs_file(n: int, negatives: str) -> str:
    """The shipped pairs, or a generated file."""
    if (n, negatives) == (FEW, "base"):
        return Config.pairs
    path = Path(f"runs/pairs_{negatives}_{n}.json")
    if not path.exists():
        make_pairs.main(make_pairs.Config(n=n, negatives=negatives, out=str(path)))
    return str(path)


def like_the_pairs(
    model: GPT, tokenizer: Tokenizer, trained: set[str], n: int = 1000
) -> dict[str, float]:
    """Exact matches on n questions drawn just as the pairs are: seen families, every form alike.

    This is how the course's public solutions are tested; `trained` says which share of the questions the pairs held.
    """
    questions = make_pairs.draw_questions(n, ["standard"], random.Random(TEST_SEED))
    replies = answer_questions(model, tokenizer, questions)
    right = rate(sum(reply.outcome == "right" for reply in replies), n)
    return right | {"trained": sum(question.text in trained for question in questions) / n}


def measure(name: str) -> dict:
    n, negatives, settings = RUNS[name]
    settings = {
        "pairs": pairs_file(n, negatives),
        "eval_every": 4,
        "eval_questions": 200,
    } | settings
    before = (
        make_calculates()
        if settings.get("base") == str(CALCULATES)
        else {"seconds": 0.0, "lines": 0}
    )
    tokenizer, history = load_tokenizer(), TimedHistory()
    policy, _ = train(
        Config(out=f"runs/learning/{name.replace(' ', '_').replace(',', '')}", **settings), history
    )
    result = evaluate(answer_questions(policy.eval(), tokenizer, sample_domain(1200, seed=1)))
    pairs = [min(step * Config(**settings).batch_size, n) for step in history.evals["step"]]
    trained = {pair.prompt for pair in load_pairs(settings["pairs"], tokenizer).pairs}
    test = like_the_pairs(policy, tokenizer, trained)
    evals = history.evals | {"pairs": pairs}
    return {
        "run": RUNS[name],
        "before": before,
        "hardware": hardware(),
        "looks": evals,
        "test": test,
        **result,
    }


def curve(result: dict, points: int = 12) -> str:
    """A table of about so many evals, the last among them."""
    evals, last = result["looks"], len(result["looks"]["step"]) - 1
    rows = [["pairs", "seconds", "held-out additive", "held-out multiplicative"]]
    for i in sorted({*range(0, last, -(-last // points)), last}):
        shares = (
            f"{evals[f'exact/held_out/{kind}'][i]:.0%}" for kind in ("additive", "multiplicative")
        )
        rows.append([f"{evals['pairs'][i]:,}", f"{evals['seconds'][i]:.0f}", *shares])
    return markdown(rows)


def ends(results: dict[str, dict]) -> str:
    groups = list(next(iter(results.values()))["groups"])
    rows = [
        [
            "run",
            "SFT lines",
            "pairs",
            "seconds",
            "drawn like the pairs (of them trained)",
            *map(describe_group, groups),
        ]
    ]
    for name, r in results.items():
        seconds = r["before"]["seconds"] + r["looks"]["seconds"][-1]
        amounts = [f"{r['before']['lines']:,}", f"{r['looks']['pairs'][-1]:,}", f"{seconds:.0f}"]
        test = f"{percent(r['test'])} ({r['test']['trained']:.0%})"
        rows.append(
            [name, *amounts, test, *(percent(r["groups"][group]["right"]) for group in groups)]
        )
    return markdown(rows)


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


if __name__ == "__main__":
    main()
