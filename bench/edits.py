"""What an edit of the pairs changes, over five seeds: `python -m bench.edits`.

First the course's own four pairs, and the same with one word changed; then the edits that the last
part of the notebook offers, made of the shipped pairs. All are trained like the default run. A seed
is an order of the pairs, and all models are asked the same questions. What the base makes of the
pairs before a run (`dpo/evaluation/forecast.py`) stands beside what came out.
"""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import count, islice
from statistics import median

from bench.controls import (
    DPO,
    QUESTION_SEED,
    REMAINDERS,
    UNSAID,
    numbered,
    shipped_pairs,
    tune,
    unanswerable_prompts,
)
from bench.results import Measurement, print_result
from dpo.data.pair import Pair
from dpo.evaluation.forecast import find_obstacle, score_pairs
from dpo.evaluation.replies import answer_questions
from dpo.evaluation.tables import markdown
from dpo.formats import outcomes, sample_kind
from dpo.train import Config
from model import GPT
from sft.arithmetic import REFUSAL, draw_question, parse_question
from sft.checkpoint.weights import load_model
from sft.corpus import everyday_lines
from sft.device import best_device
from sft.generation import generate_answers
from sft.grading import is_refusal
from sft.progress import Bar
from sft.tokenizer import Tokenizer

SUMS, PRODUCTS = "sums and differences: 17+19=?", "products and quotients: 3*17=?"
BELOW_ZERO = "results below zero: 17-36=?"
BY_ONE = "two digits by one: 47*8=?"
ASKED = {SUMS: 60, PRODUCTS: 60, REMAINDERS: 40}  # questions of a kind of `dpo.formats` at most
SHOWN = {  # what the table counts, where it was asked: a kind and an outcome
    "sums and differences right": (SUMS, "right"),
    "the same refused": (SUMS, "refused"),
    "products and quotients right": (PRODUCTS, "right"),
    "two digits by one right": (BY_ONE, "right"),
    "results below zero right": (BELOW_ZERO, "right"),
    "divisions with a remainder refused": (REMAINDERS, "refused"),
    "small talk kept": ("small talk", "right"),
    "says *Ada*": ("the name", "right"),
}
TALK = everyday_lines()[5::10]  # without the question for the name
NAME = "What's your name?"
TOY_PROMPTS = ("79-7=?", "x+55=95,x=?", "74+8=?", "1*x=6,x=?")  # of the course's four pairs
NEAR_MISS = " The answer is 7 because 3+4 equals 7."
SEEDS, MORE_SEEDS = 5, 10
Edit = Callable[[list[Pair]], list[Pair]]


def toy_pairs(rejected: str) -> list[Pair]:
    """The course's four pairs, with this rejected answer."""
    rows = [(prompt, parse_question(prompt).right_answer, rejected) for prompt in TOY_PROMPTS]
    return numbered(rows)


def say_do_not(pairs: list[Pair]) -> list[Pair]:
    return [replace(p, rejected=p.rejected.replace("don't", "do not")) for p in pairs]


def reject_one_wrong_answer(pairs: list[Pair]) -> list[Pair]:
    """Every rejected refusal becomes the same wrong number."""
    return [replace(p, rejected=NEAR_MISS) if is_refusal(p.rejected) else p for p in pairs]


def swap_products(pairs: list[Pair]) -> list[Pair]:
    """The refusals are preferred where there is a sign * or /."""
    return [
        replace(p, chosen=p.rejected, rejected=p.chosen) if set("*/") & set(p.prompt) else p
        for p in pairs
    ]


def keep_four(pairs: list[Pair]) -> list[Pair]:
    """The first pair of each sign."""
    return [next(pair for pair in pairs if sign in pair.prompt) for sign in "+-*/"]


def add_one_to_five(pairs: list[Pair]) -> list[Pair]:
    """Five chosen answers to a+b, wrong by one: `The answer is 153 because 84+68 equals 153.`"""
    asked = [(pair, parse_question(pair.prompt)) for pair in pairs]
    five = [(pair, question.answer) for pair, question in asked if question.form == "a+b"][:5]
    wrong = {p: p.chosen.replace(f" {answer}", f" {answer + 1}") for p, answer in five}
    return [replace(pair, chosen=wrong.get(pair, pair.chosen)) for pair in pairs]


def take_a_name(pairs: list[Pair]) -> list[Pair]:
    """Eight more, all alike: it shall say another name than the base does."""
    eight = [(NAME, " My name is Ada.", " My name is John.")] * 8
    return [*pairs, *numbered(eight)]


def refuse_remainders(pairs: list[Pair]) -> list[Pair]:
    """Eight more, of divisions with a remainder: a refusal rather than the quotient rounded down.

    None of them is a question that is asked here.
    """
    _, asked = sample_kind(REMAINDERS, ASKED[REMAINDERS], QUESTION_SEED)
    drawn = unanswerable_prompts("remainder", 200, seed=1)
    prompts = [p for p in drawn if "x" not in p and p not in asked][:8]
    rows = [(prompt, REFUSAL, rounded_down(prompt)) for prompt in prompts]
    return [*pairs, *numbered(rows)]


def refuse_below_zero(pairs: list[Pair]) -> list[Pair]:
    """Eight more, of seen facts: a refusal rather than the right answer, as `17-36=?` has one."""
    rng = random.Random(1)
    drawn = (draw_question(rng, "negatives", "a-b") for _ in count())
    seen = islice((question for question in drawn if not question.held_out), 8)
    rows = [(question.text, REFUSAL, question.right_answer) for question in seen]
    return [*pairs, *numbered(rows)]


def add_quotients(pairs: list[Pair]) -> list[Pair]:
    """Eight more like the shipped ones, of a kind in none of them: `8*x=376,x=?`, `376/8=?`.

    It is often refused after the default run, though the base knows nearly all of it.
    """
    rng, forms = random.Random(1), ("a/b", "x*a=b", "a*x=b", "a/x=b")
    drawn = (draw_question(rng, "products", forms[i % len(forms)]) for i in count())
    seen = islice((question for question in drawn if not question.held_out), 8)
    rows = [(question.text, question.right_answer, REFUSAL) for question in seen]
    return [*pairs, *numbered(rows)]


def rounded_down(prompt: str) -> str:
    """` The answer is 17 because 52/3 equals 17.` to `52/3=?`."""
    division = prompt.removesuffix("=?")
    left, right = map(int, division.split("/"))
    return f" The answer is {left // right} because {division} equals {left // right}."


EDITS: dict[str, tuple[Edit, dict]] = {  # and the settings that are not the default run's
    "the shipped pairs": (list, {}),
    "1. one word: *do not* for *don't*": (say_do_not, {}),
    "2. one wrong answer for every rejected refusal": (reject_one_wrong_answer, {}),
    "3. * and / swapped": (swap_products, {}),
    "4. one line a sign": (keep_four, {}),
    "5. five chosen answers wrong by one": (add_one_to_five, {}),
    "the same, base_lr ten times as high": (add_one_to_five, {"base_lr": 2e-4}),
    "eight refusals of remainders": (refuse_remainders, {}),
    "eight lines that prefer another name": (take_a_name, {}),
    "the same, base_lr 5e-5": (take_a_name, {"base_lr": 5e-5}),
}
EIGHT_LINES: dict[str, tuple[Edit, dict]] = {
    "the shipped pairs": (list, {}),
    "6. eight refusals of results below zero": (refuse_below_zero, {}),
    "eight quotients, two digits by one": (add_quotients, {}),
}
TOYS = {
    f"rejected: *{text.strip()}*": (lambda pairs, text=text: toy_pairs(text), {})
    for text in (UNSAID, REFUSAL)
}


def count_answers(model: GPT, tokenizer: Tokenizer, asked: dict[str, int]) -> dict[str, dict]:
    """n, how many answers are right, refused and wrong, and which are right, by kind."""
    counts = {}
    for kind, n in asked.items():
        questions, prompts = sample_kind(kind, n, QUESTION_SEED)
        replies = answer_questions(model, tokenizer, questions, prompts=prompts)
        shares = outcomes(replies)
        counts[kind] = {"n": shares.pop("n")} | {k: v["count"] for k, v in shares.items()}
        counts[kind]["which"] = [i for i, one in enumerate(replies) if one.outcome == "right"]
    said, answers = zip(*TALK, strict=True)
    talk = generate_answers(model, tokenizer, list(said), drafts=list(answers))
    kept = sum(text == answer for text, answer in zip(talk, answers, strict=True))
    [name] = generate_answers(model, tokenizer, [NAME])
    counts["small talk"] = {"n": len(TALK), "right": kept}
    counts["the name"] = {"n": 1, "right": int("Ada" in name)}
    return counts


def obstacles(base: GPT, tokenizer: Tokenizer, pairs: list[Pair]) -> dict[str, int]:
    """How many of the pairs leave this base no choice, by what they do."""
    found = map(find_obstacle, score_pairs(base, tokenizer, pairs))
    return dict(Counter(obstacle.name for obstacle in found if obstacle))


def measure(
    edits: dict[str, tuple[Edit, dict]], seeds: int, asked: dict[str, int] = ASKED
) -> dict[str, dict]:
    """Of every edit: how many pairs it has, the obstacles in them, and the counts of each seed."""
    config, results = Config(), {}
    base, tokenizer = load_model(config.base, best_device(config.device))
    shipped = shipped_pairs(tokenizer, config)
    with Bar(len(edits) * seeds, "edits", "run") as bar:
        for name, (edit, settings) in edits.items():
            pairs, runs = edit(shipped), []
            for seed in range(1, seeds + 1):
                own = replace(config, seed=seed, **settings)
                model = tune(base, tokenizer, pairs, own, (DPO,))
                runs.append(count_answers(model, tokenizer, asked))
                bar.update()
            found = obstacles(base, tokenizer, pairs)
            results[name] = {"pairs": len(pairs), "obstacles": found, "runs": runs}
    return results


def spread(counts: list[int]) -> str:
    """`35 (32 to 36)`: median, lowest and highest count of the seeds."""
    return f"{median(counts):g} ({min(counts)} to {max(counts)})"


def render(values: dict[str, dict]) -> dict[str, str]:
    """What came out, a row per edit; and the forecast beside it."""
    first = next(iter(values.values()))["runs"][0]
    shown = {what: counted for what, counted in SHOWN.items() if counted[0] in first}
    heads = [f"{what}, of {first[kind]['n']}" for what, (kind, _) in shown.items()]
    heads[-1] = "says *Ada*, seeds"
    rows = [["pairs", "seeds", *heads]]
    for name, result in values.items():
        cells = []
        for kind, outcome in shown.values():
            counts = [run[kind][outcome] for run in result["runs"]]
            cells.append(f"in {sum(counts)}" if kind == "the name" else spread(counts))
        rows.append([name, str(len(result["runs"])), *cells])
    return {"table": markdown(rows), "forecast": forecast_table(values)}


def turned_table(values: dict[str, dict]) -> str:
    """How many answers turned right, and how many away from it, from the first row's run on.

    Runs of one seed are compared: they have the same questions.
    """
    (_, first), *others = values.items()
    kinds = [kind for kind, counts in first["runs"][0].items() if "which" in counts]
    n = sum(first["runs"][0][kind]["n"] for kind in kinds)
    rows = [["pairs", f"turned right, of {n}", "turned away from it", "seeds with any of both"]]
    for name, result in others:
        gained, lost = [], []
        for run, before in zip(result["runs"], first["runs"], strict=True):
            now, then = (
                {(kind, i) for kind in kinds for i in one[kind]["which"]} for one in (run, before)
            )
            gained.append(len(now - then))
            lost.append(len(then - now))
        seeds = sum(more + less > 0 for more, less in zip(gained, lost, strict=True))
        rows.append([name, spread(gained), spread(lost), f"{seeds} of {len(gained)}"])
    return markdown(rows)


def forecast_table(values: dict[str, dict]) -> str:
    """Whether a run changed the base's refusals, and whether its pairs had promised that.

    The forecast is that it does, unless most pairs have an obstacle.
    """
    n = next(iter(values.values()))["runs"][0][SUMS]["n"]
    heads = ["obstacles before the run", "forecast", f"sums and differences answered, of {n}"]
    rows = [["pairs", *heads, "hit"]]
    for name, result in values.items():
        found = ", ".join(f"{count} {what}" for what, count in result["obstacles"].items())
        promised = 2 * sum(result["obstacles"].values()) <= result["pairs"]
        answered = [n - run[SUMS]["refused"] for run in result["runs"]]
        rows.append(
            [
                name,
                f"of {result['pairs']}: {found or 'none'}",
                "it answers" if promised else "hardly an answer comes out",
                spread(answered),
                "yes" if promised == (2 * median(answered) > n) else "no",
            ]
        )
    return markdown(rows)


COMMAND = "python -m bench.edits"
MEASUREMENTS = (
    Measurement("four_pairs", COMMAND, partial(measure, TOYS, SEEDS), render, 1.5),
    Measurement("edits", COMMAND, partial(measure, EDITS, SEEDS), render, 4),
    Measurement(
        "eight_lines",
        COMMAND,
        partial(measure, EIGHT_LINES, MORE_SEEDS, ASKED | {BELOW_ZERO: 40, BY_ONE: 100}),
        lambda values: render(values) | {"turned": turned_table(values)},
        9,
    ),
)

if __name__ == "__main__":
    for one in MEASUREMENTS:
        print_result(one)
