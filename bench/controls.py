"""DPO beside its controls, on the same pairs and as many steps: `python -m bench.controls`.

The first table asks whether it is the preference that counts: the default run of `dpo.train` stands
beside plain fine-tuning on the chosen answers (SFT), the assignment's hint, SFT before DPO, pairs
whose two answers are swapped at random, and no training. The second one asks what only a preference
can do: DPO and SFT on the same lines, of four sorts.
"""

import copy
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial

import torch

from bench.report import median_and_spread
from bench.results import Measurement, print_result
from dpo.data.batches import batches, tokenize_pairs
from dpo.data.pair import Pair
from dpo.data.pair_file import load_pairs
from dpo.evaluation.kl import kl_to_reference
from dpo.evaluation.replies import answer_questions, judge, sample_questions
from dpo.evaluation.retention import measure_retention
from dpo.evaluation.tables import markdown, rate
from dpo.formats import ask_kinds, outcomes, sample_kind, summarise_kinds
from dpo.make_pairs import draw_questions
from dpo.train import Config
from dpo.training.logps import compute_reference_logps
from dpo.training.run import objective
from dpo.training.step import train_step
from model import GPT
from sft.arithmetic import REFUSAL, Question, families_in, is_held_out
from sft.checkpoint.weights import load_model
from sft.device import autocast, best_device
from sft.generation import generate_answers
from sft.grading import parse_answer
from sft.optimizers import make_optimizers, make_schedulers
from sft.progress import Bar
from sft.tokenizer import Tokenizer
from sft.unanswerable import draw_unanswerable

SEEDS = (1, 2, 3, 4, 5)  # of the order of the pairs, of what is swapped, of the lines made here
FEWER = SEEDS[:3]  # of the second table
# Questions, always the same: of a held-out group, of each kind, for the KL, of a kind in the second
# table; and answers drawn among which a model's own mistakes are looked for.
ASKED = {"group": 150, "kind": 8, "kl": 32, "lines": 50, "drawn": 256}
QUESTION_SEED = 1

# What a run is trained in: stages, each with the settings that are not the default run's.
DPO: dict = {}
SFT = {"beta": 0.0, "nll_coef": 1.0}  # -log sigmoid(0) is a constant: only the NLL has a gradient
HINT = {"loss_type": "assignment", "beta": 0.5, "nll_coef": 0.0}
SWAPPED = "DPO, answers swapped at random"
CONTROLS: dict[str, tuple[dict, ...]] = {
    "no training": (),
    "DPO, the default run": (DPO,),
    "SFT on the chosen answers": (SFT,),
    "the assignment's hint": (HINT,),
    "SFT, then DPO, half the steps each": (SFT, DPO),
    SWAPPED: (DPO,),
}
METHODS: dict[str, tuple[dict, ...]] = {"before": (), "SFT": (SFT,), "DPO": (DPO,)}

UNSAID = " Sorry, I do not know."  # no line of the base's corpus writes "do not"
MISSPELT = " Sory, I don't know."  # one refusal in five of that corpus
REMAINDERS = "remainder: 52/3=?"  # a kind of `dpo.formats`


# Training


def tune(
    start: GPT, tokenizer: Tokenizer, pairs: list[Pair], config: Config, stages: tuple[dict, ...]
) -> GPT:
    """The model after these stages, which share the config's steps; `start` itself after none.

    Each stage is a run by itself, with its own schedule and with the model before it as reference.
    """
    model = start
    for stage in stages:
        own = replace(config, **stage, steps=config.steps // len(stages))
        model = _train(model, tokenizer, pairs, own)
    return model


def _train(reference: GPT, tokenizer: Tokenizer, pairs: list[Pair], config: Config) -> GPT:
    """As `dpo.train`, to the last bit; but in memory, without evals, and beta may be 0."""
    policy, device = copy.deepcopy(reference), reference.lm_head.weight.device
    tokenized = tokenize_pairs(tokenizer, pairs, config.loss_type)
    with autocast(device, config.precision):
        logps = compute_reference_logps(reference, tokenized, config.micro_batch)
    optimizers = make_optimizers(policy, config.optimizer, config.base_lr, config.muon_lr)
    schedulers = make_schedulers(optimizers, config.steps)
    order = config.batch_size, config.seed, config.steps
    for micro_batches in batches(
        tokenized, logps, *order, device=device, micro_batch=config.micro_batch
    ):
        train_step(
            policy,
            micro_batches,
            optimizers,
            schedulers,
            max_grad_norm=config.max_grad_norm,
            precision=config.precision,
            **objective(asdict(config)),
        )
    return policy


def shipped_pairs(tokenizer: Tokenizer, config: Config) -> list[Pair]:
    return load_pairs(config.pairs, tokenizer, config.max_length).pairs


def swap_at_random(pairs: list[Pair], seed: int) -> list[Pair]:
    """The same pairs; in each, with probability 1/2, the rejected answer is preferred."""
    rng, swapped = random.Random(seed), []
    for pair in pairs:
        swapped.append(Pair(pair.prompt, *rng.sample((pair.chosen, pair.rejected), 2), pair.line))
    return swapped


# The first table


def measure_shares(policy: GPT, tokenizer: Tokenizer, n: int, n_kind: int) -> dict[str, dict]:
    """Shares of greedy answers, with intervals.

    Asked are at most n questions of each held-out group of the test, all small talk, and n_kind
    questions of every kind of `dpo.formats`.
    """
    shares = {}
    for group in ("additive", "multiplicative"):
        questions = sample_questions(f"held_out/{group}", n, QUESTION_SEED)
        replies = answer_questions(policy, tokenizer, questions)
        shares[f"held-out {group} right"] = outcomes(replies)["right"]
    shares["small talk kept"] = measure_retention(policy, tokenizer)
    kinds = summarise_kinds(ask_kinds(policy, tokenizer, n_kind, QUESTION_SEED))
    return shares | {"wrong with confidence": kinds["wrong_with_confidence"]}


def run_control(base: GPT, tokenizer: Tokenizer, name: str, config: Config) -> dict:
    """Train one of CONTROLS; its shares, and its KL to the base in nats an answer to a sum."""
    pairs = shipped_pairs(tokenizer, config)
    if name == SWAPPED:
        pairs = swap_at_random(pairs, config.seed)
    policy = tune(base, tokenizer, pairs, config, CONTROLS[name])
    shares = measure_shares(policy, tokenizer, ASKED["group"], ASKED["kind"])
    asked = [q.text for q in sample_questions("held_out/additive", ASKED["kl"], QUESTION_SEED)]
    generator = torch.Generator().manual_seed(QUESTION_SEED)
    return {"shares": shares, "kl": kl_to_reference(policy, base, tokenizer, asked, generator)}


def controls_table(results: dict[str, list[dict]]) -> str:
    """A row per control; the cells are over its seeds."""
    [first, *_] = next(iter(results.values()))
    heads = [f"{what}, %, n = {share['n']:,}" for what, share in first["shares"].items()]
    rows = [["run", "seeds", *heads, f"KL to the base, nats an answer, n = {ASKED['kl']}"]]
    for name, runs in results.items():
        cells = [spread([run["shares"][what] for run in runs]) for what in first["shares"]]
        kl = median_and_spread([run["kl"] for run in runs], digits=2)
        rows.append([name, str(len(runs)), *cells, kl])
    return markdown(rows)


def spread(shares: list[dict]) -> str:
    """Median, lowest and highest of some shares, in percent."""
    return median_and_spread([100 * share["rate"] for share in shares])


# The second table: pairs that a model and a seed give, and what is counted before and after


def reject_one_text(start: GPT, tokenizer: Tokenizer, config: Config, text: str) -> list[Pair]:
    """The shipped pairs, all with this one rejected answer."""
    return [replace(pair, rejected=text) for pair in shipped_pairs(tokenizer, config)]


def prefer_spelling(start: GPT, tokenizer: Tokenizer, config: Config) -> list[Pair]:
    """Refusals of products that are too large, spelt rightly rather than wrongly."""
    prompts = unanswerable_prompts("large_product", 64, config.seed)
    return numbered([(prompt, REFUSAL, MISSPELT) for prompt in prompts])


def prefer_refusal(start: GPT, tokenizer: Tokenizer, config: Config) -> list[Pair]:
    """A refusal rather than the model's own number, where a division leaves a remainder.

    No question is asked here that the table asks.
    """
    _, kept_back = sample_kind(REMAINDERS, ASKED["lines"], QUESTION_SEED)
    prompts = unanswerable_prompts("remainder", ASKED["drawn"], config.seed)
    asked = dict.fromkeys(prompt for prompt in prompts if prompt not in kept_back)
    found = own_mistakes(start, tokenizer, asked, config.seed)
    return numbered([(prompt, REFUSAL, wrong) for prompt, wrong in found.items()])


def prefer_right_number(start: GPT, tokenizer: Tokenizer, config: Config) -> list[Pair]:
    """The right answer rather than the model's own wrong one, to products of seen families."""
    questions = draw_questions(ASKED["drawn"], ["products"], random.Random(config.seed))
    asked = {question.text: question for question in questions}
    found = own_mistakes(start, tokenizer, asked, config.seed)
    return numbered([(text, asked[text].right_answer, wrong) for text, wrong in found.items()])


def numbered(rows: list[tuple[str, str, str]]) -> list[Pair]:
    """Pairs of prompt, chosen and rejected answer, with their places as lines."""
    return [Pair(*row, line) for line, row in enumerate(rows, start=1)]


def unanswerable_prompts(kind: str, n: int, seed: int) -> list[str]:
    """At most n different questions of a kind of `sft/unanswerable.py`."""
    rng = random.Random(f"{seed} {kind}")
    return list(dict.fromkeys(draw_unanswerable(rng, kind) for _ in range(n)))


def own_mistakes(
    model: GPT, tokenizer: Tokenizer, asked: dict[str, Question | None], seed: int
) -> dict[str, str]:
    """One answer is drawn to each prompt, at temperature 1; those that give a wrong number.

    They name no held-out fact. ValueError if there are none.
    """
    generator = torch.Generator().manual_seed(seed)
    texts = generate_answers(model, tokenizer, list(asked), 1.0, generator=generator)
    found = {}
    for (prompt, question), text in zip(asked.items(), texts, strict=True):
        is_wrong = judge(question, text).outcome == "wrong" and parse_answer(text).value is not None
        if is_wrong and not any(map(is_held_out, families_in(text))):
            found[prompt] = text
    if not found:
        raise ValueError(
            f"no wrong number among {len(texts)} drawn answers, so nothing can be rejected: "
            "raise ASKED['drawn'], or ask another kind of question"
        )
    return found


@dataclass(frozen=True)
class Measure:
    """The share of replies of one outcome, and with this text, to one kind of question."""

    kind: str  # as `dpo.formats` names it
    outcome: str
    text: str = ""
    temperature: float = 0.0

    @property
    def name(self) -> str:
        return f"{self.kind} {self.text or self.outcome}{', drawn' if self.temperature else ''}"

    def share(self, model: GPT, tokenizer: Tokenizer) -> dict[str, float]:
        questions, prompts = sample_kind(self.kind, ASKED["lines"], QUESTION_SEED)
        generator = torch.Generator().manual_seed(QUESTION_SEED)
        texts = generate_answers(model, tokenizer, prompts, self.temperature, generator=generator)
        replies = map(judge, questions, texts)
        count = sum(reply.outcome == self.outcome and self.text in reply.text for reply in replies)
        return rate(count, len(prompts))


@dataclass(frozen=True)
class Experiment:
    """Lines, from which SFT gets the chosen answers only, and what they change."""

    make_pairs: Callable[[GPT, Tokenizer, Config], list[Pair]]  # of the model that is tuned on them
    measures: tuple[Measure, ...]
    after_default: bool = False  # whether that model is the default run's, not the base


SUMS_RIGHT = Measure("sums and differences: 17+19=?", "right")
PRODUCTS_RIGHT = Measure("products and quotients: 3*17=?", "right")
LARGER_RIGHT = Measure("two digits by one: 47*8=?", "right")
REMAINDERS_WRONG = Measure(REMAINDERS, "wrong")
SORY = Measure("four digits: 4817+219=?", "refused", "Sory", temperature=1.0)
REFUSED = Measure("four digits: 4817+219=?", "refused", temperature=1.0)
EXPERIMENTS = {
    "one rejected text, which the base says": Experiment(
        partial(reject_one_text, text=REFUSAL), (SUMS_RIGHT,)
    ),
    "one rejected text, which it never says": Experiment(
        partial(reject_one_text, text=UNSAID), (SUMS_RIGHT,)
    ),
    "a habit to lose": Experiment(prefer_spelling, (SORY, REFUSED)),
    "a wrong number, and no right one": Experiment(
        prefer_refusal, (REMAINDERS_WRONG, PRODUCTS_RIGHT, SUMS_RIGHT), after_default=True
    ),
    "own mistakes, and the right number": Experiment(
        prefer_right_number, (LARGER_RIGHT, SUMS_RIGHT), after_default=True
    ),
}


def run_experiment(base: GPT, tokenizer: Tokenizer, name: str, config: Config) -> dict:
    """Shares by measure and method, the number of pairs, and the first of them."""
    experiment, start = EXPERIMENTS[name], base
    if experiment.after_default:
        start = tune(base, tokenizer, shipped_pairs(tokenizer, config), config, (DPO,))
    pairs = experiment.make_pairs(start, tokenizer, config)
    shares: dict[str, dict] = {counted.name: {} for counted in experiment.measures}
    for method, stages in METHODS.items():
        model = tune(start, tokenizer, pairs, config, stages)
        for counted in experiment.measures:
            shares[counted.name][method] = counted.share(model, tokenizer)
    first = f"{pairs[0].prompt}{pairs[0].chosen}  not {pairs[0].rejected}"
    return {"pairs": len(pairs), "first": first, "shares": shares}


def experiments_table(results: dict[str, list[dict]]) -> str:
    """A row per measure, the cells over the seeds; below it a line per experiment."""
    rows, notes = [["lines", "what is counted, %", "n", *METHODS]], []
    for name, runs in results.items():
        for counted, by_method in runs[0]["shares"].items():
            cells = [spread([r["shares"][counted][method] for r in runs]) for method in METHODS]
            rows.append([name, counted, str(by_method["before"]["n"]), *cells])
        counts = [run["pairs"] for run in runs]
        start = "the default run" if EXPERIMENTS[name].after_default else "the base"
        size = f"{min(counts)} to {max(counts)} pairs like {runs[0]['first']}"
        notes.append(f"{name}: from {start}, {len(runs)} seeds, {size}")
    return "\n".join([markdown(rows), "", *notes])


# All runs


def run_all(
    run: Callable[[str, Config], dict], seeds: dict[str, tuple[int, ...]], config: Config
) -> dict[str, list[dict]]:
    """The results of `run` for every name and each of its seeds."""
    results: dict[str, list[dict]] = {name: [] for name in seeds}
    with Bar(sum(map(len, seeds.values())), "controls", "run") as bar:
        for name, its_seeds in seeds.items():
            for seed in its_seeds:
                results[name].append(run(name, replace(config, seed=seed)))
                bar.update()
    return results


def measure() -> dict[str, dict]:
    """What came of every run of both tables, by name and seed."""
    config = Config()
    base, tokenizer = load_model(config.base, best_device(config.device))
    seeds = {name: SEEDS if stages else SEEDS[:1] for name, stages in CONTROLS.items()}
    controls = run_all(partial(run_control, base, tokenizer), seeds, config)
    seeds = dict.fromkeys(EXPERIMENTS, FEWER)
    experiments = run_all(partial(run_experiment, base, tokenizer), seeds, config)
    return {"controls": controls, "experiments": experiments}


def render(values: dict[str, dict]) -> dict[str, str]:
    return {
        "table": controls_table(values["controls"]),
        "lines": experiments_table(values["experiments"]),
    }


MEASUREMENT = Measurement("controls", "python -m bench.controls", measure, render, 11)

if __name__ == "__main__":
    print_result(MEASUREMENT)
