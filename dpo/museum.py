"""The failure museum: `python -m dpo.museum` makes classic mistakes for real, five times each.

The healthy run is a short one of `dpo.train`. Every exhibit is a class that replaces one method of
it. Each seed trains all of them for some seconds, on the pairs in the same order, and asks all of
them the same held-out sums. The line that is shown as the mistake is read from the exhibit's own
source.
"""

import inspect
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, median

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from configurator import run_program
from dpo.data.batches import TokenizedPair, batches, tokenize_pairs
from dpo.data.pair import Pair
from dpo.data.pair_file import load_pairs
from dpo.evaluation.replies import Reply, answer_questions, sample_questions
from dpo.evaluation.tables import markdown
from dpo.plots.museum import museum_figure
from dpo.plots.style import check_picture, save_figure
from dpo.train import Config as TrainConfig
from dpo.training.diagnosis import FINE, diagnose
from dpo.training.history import History
from dpo.training.logps import compute_reference_logps
from dpo.training.step import train_step
from model import GPT
from sft.arithmetic import Question
from sft.checkpoint.weights import load_model, save_checkpoint
from sft.device import autocast, best_device
from sft.optimizers import make_optimizers, make_schedulers
from sft.progress import Bar
from sft.sequences import Sequence
from sft.tokenizer import Tokenizer

RUN = TrainConfig(steps=16, base_lr=3e-5)  # fewer and larger steps than the default's
LAST = 4  # steps at the end of a run over which a curve is averaged


@dataclass
class Config:
    """python -m dpo.museum: make the classic mistakes for real, and draw what becomes of them."""

    exhibits: tuple[str, ...] = ()  # titles in quotes (a wrong one lists all); none: all of them
    figure: str = "runs/museum.png"  # the figure
    n: int = 40  # held-out sums and differences that every run is asked
    seeds: int = 5  # runs of every exhibit
    seed: int = 1  # of the first run's questions and order of pairs; the others count on
    device: str = "auto"  # auto, cpu, cuda or mps


class Healthy:
    """The run without a mistake. Each exhibit replaces one method: its last line is the mistake."""

    title = "healthy"
    lesson = "The base knows the answers under its refusals. A few small steps bring them out."

    def pair(self, pair: Pair) -> Pair:
        """What the file says."""
        return pair

    def scored(self, text: Sequence) -> Sequence:
        """What is scored of a question and an answer."""
        return text

    def policy(self, base: GPT) -> GPT:
        """What is trained."""
        return copy_of(base, dropout=0.0)

    def reference_logps(self, logps: Tensor) -> Tensor:
        """What the loss takes as the reference's log-probabilities."""
        return logps

    def beta(self) -> float:
        """What the log-ratios are multiplied with."""
        return RUN.beta

    def base_lr(self) -> float:
        """The highest learning rate."""
        return RUN.base_lr

    def schedulers(self, optimizers: list[torch.optim.Optimizer]) -> list[LambdaLR]:
        """What sets the learning rate of every step."""
        return make_schedulers(optimizers, RUN.steps)

    def file_written(self) -> str:
        """Where the tuned model goes; dpo.pt is what will be tested."""
        return "dpo.pt"


class OneWord(Healthy):
    title = "one word"
    lesson = (
        "The base never says 'do not'. To make that rarer still is easy, and brings nothing out: a "
        "rejected answer must be one that the model gives."
    )

    def pair(self, pair):
        return replace(pair, rejected=pair.rejected.replace("don't", "do not"))


class Swapped(Healthy):
    title = "answers swapped"
    lesson = (
        "Two columns of a file mixed up. The model learns to refuse even more, and ranks what it "
        "is shown without a mistake."
    )

    def pair(self, pair):
        return replace(pair, chosen=pair.rejected, rejected=pair.chosen)


class QuestionsCutOff(Healthy):
    title = "questions cut off"
    lesson = (
        "Texts cut to fit have lost their beginning, and that is the question: the pairs no longer "
        "say what is asked."
    )

    def scored(self, text):
        return Sequence(text.prompt[-2:], text.completion)


class PromptNotMasked(Healthy):
    title = "prompt not masked"
    lesson = (
        "The question is scored with both answers, so that it cancels: not one step is different. "
        "With an NLL term, or a mean per character, it would not cancel. The log-probabilities "
        "give it away: those of a whole text."
    )

    def scored(self, text):
        return Sequence(text.prompt[:1], text.prompt[1:] + text.completion)


class DropoutOn(Healthy):
    title = "dropout in scoring"
    lesson = (
        "The policy is scored with dropout, the reference without. The first loss gives it away: "
        "it is not ln 2. So the policy has to win back first what dropout costs it."
    )

    def policy(self, base):
        return copy_of(base, dropout=0.2)


class NoReference(Healthy):
    title = "no reference"
    lesson = (
        "A short run does not go far enough to miss it. The first loss gives it away: it is not "
        "ln 2. Nothing measures how far the policy goes."
    )

    def reference_logps(self, logps):
        return torch.zeros_like(logps)


class BetaUpsideDown(Healthy):
    title = "beta upside down"
    lesson = (
        "Dividing makes 10 of 0.1, and tenths of a nat are enough for a loss of zero. That gives "
        "it away: after a few steps there is nothing left to learn from."
    )

    def beta(self):
        return 1 / RUN.beta


class RateTwice(Healthy):
    title = "learning rate squared"
    lesson = (
        "LambdaLR multiplies base_lr by what it is given. Given base_lr again, the rate is its "
        "square, and nothing moves."
    )

    def schedulers(self, optimizers):
        return [LambdaLR(optimizer, lambda step: RUN.base_lr) for optimizer in optimizers]


class RateTooHigh(Healthy):
    title = "learning rate of pretraining"
    lesson = (
        "The rate that a model is made with is far too much for DPO: pushing answers down is easy "
        "and has no end, and the language goes with them."
    )

    def base_lr(self):
        return 1e-3


class StaleCheckpoint(Healthy):
    title = "stale checkpoint"
    lesson = (
        "The run is the healthy one. But the file that is tested is an older one that lay there, "
        "here the base."
    )

    def file_written(self):
        return "model.pt"


EXHIBITS: tuple[type[Healthy], ...] = (
    OneWord, Swapped, QuestionsCutOff, PromptNotMasked, DropoutOn, NoReference, BetaUpsideDown,
    RateTwice, RateTooHigh, StaleCheckpoint,
)  # fmt: skip


@dataclass(frozen=True)
class Trial:
    """One run of one seed."""

    history: History
    replies: list[Reply]  # greedy, to held-out sums and differences

    @property
    def right(self) -> int:
        """How many replies have the right number and the right reason."""
        return sum(reply.outcome == "right" for reply in self.replies)


@dataclass(frozen=True)
class ExhibitResult:
    """What came of one exhibit, over all seeds."""

    exhibit: type[Healthy]
    trials: list[Trial]  # one per seed
    healthy: list[Trial]  # the runs of the same seeds without the mistake
    base: list[Reply]  # of the base, to the questions of the first seed

    @property
    def title(self) -> str:
        return self.exhibit.title

    @property
    def lesson(self) -> str:
        return self.exhibit.lesson

    @property
    def is_healthy(self) -> bool:
        return self.exhibit is Healthy

    @property
    def curves(self) -> list[list[float]]:
        """The preference loss of every step, a curve per seed."""
        return [trial.history["loss/preference"] for trial in self.trials]

    @property
    def healthy_curves(self) -> list[list[float]]:
        return [trial.history["loss/preference"] for trial in self.healthy]

    @property
    def harmed(self) -> int:
        """In how many runs not half as many answers are right as in the healthy run of the seed."""
        pairs = zip(self.trials, self.healthy, strict=True)
        return sum(2 * trial.right < healthy.right for trial, healthy in pairs)

    @property
    def right(self) -> str:
        """Right answers in the worst and in the best run, if they differ: `0 to 3 of 40`."""
        counts = [trial.right for trial in self.trials]
        low, high = min(counts), max(counts)
        return f"{low if low == high else f'{low} to {high}'} of {len(self.base)}"

    @property
    def verdict(self) -> str:
        if self.is_healthy:
            return f"{self.right} right"
        harm = (
            f"harm in {self.harmed} of {len(self.trials)} runs" if self.harmed else "no harm here"
        )
        return f"{harm}: {self.right} right"

    @property
    def said(self) -> Counter[str]:
        """What the curve reader says first of each run."""
        return Counter(diagnose(trial.history)[0].name for trial in self.trials)

    @property
    def warned(self) -> int:
        """In how many runs the curve reader sees a problem."""
        return sum(count for name, count in self.said.items() if name not in FINE)

    @property
    def change(self) -> tuple[str, str] | None:
        """The right line, and the wrong one in its place; None for the healthy run itself."""
        if self.is_healthy:
            return None
        # An exhibit has one method of its own, and its last line returns something else.
        (name,) = (name for name, value in vars(self.exhibit).items() if inspect.isfunction(value))
        right, wrong = (_returned(getattr(owner, name)) for owner in (Healthy, self.exhibit))
        return f"{name} = {right}", f"{name} = {wrong}"

    @property
    def sample(self) -> dict[str, str]:
        """A question, and the answers of the base, of the healthy run and of this one.

        It is the first question that this run does not answer right, if there is one.
        """
        replies = self.trials[0].replies
        i = next((i for i, reply in enumerate(replies) if reply.outcome != "right"), 0)
        answers = {"base": self.base[i], "healthy": self.healthy[0].replies[i]}
        if not self.is_healthy:
            answers["mistake"] = replies[i]
        texts = {name: _visible(reply.text) for name, reply in answers.items()}
        return {"question": replies[i].question.text} | texts


def _returned(function: Callable) -> str:
    """What the last line of a function returns, as its source has it."""
    return inspect.getsource(function).splitlines()[-1].strip().removeprefix("return ")


def _visible(text: str) -> str:
    """The text, or how long it is if there is nothing to see."""
    return text.strip() or f"({len(text)} spaces)"


def copy_of(base: GPT, dropout: float) -> GPT:
    """The same weights in a model of their own, with dropout at work if there is any."""
    model = GPT(replace(base.config, dropout=dropout)).to(base.lm_head.weight.device)
    model.load_state_dict(base.state_dict())
    return model.train()


@dataclass
class Workshop:
    """What all runs share."""

    base: GPT
    tokenizer: Tokenizer
    pairs: list[Pair]
    questions: dict[int, list[Question]]  # by seed

    def run(self, kind: type[Healthy], seed: int) -> Trial:
        """Train the exhibit from the base, save it, load what is tested, and ask the questions."""
        exhibit, questions = kind(), self.questions[seed]
        torch.manual_seed(seed)  # of dropout, where there is any
        policy = exhibit.policy(self.base)
        history = self._train(exhibit, policy, seed)
        tuned = self._save_and_load(exhibit, policy)
        return Trial(history, answer_questions(tuned, self.tokenizer, questions))

    def _train(self, exhibit: Healthy, policy: GPT, seed: int) -> History:
        """The same loop as everywhere, with the exhibit's settings; what it records."""
        tokenized = [
            TokenizedPair(exhibit.scored(pair.chosen), exhibit.scored(pair.rejected), pair.line)
            for pair in tokenize_pairs(self.tokenizer, list(map(exhibit.pair, self.pairs)))
        ]
        device = self.base.lm_head.weight.device
        with autocast(device):
            logps = exhibit.reference_logps(compute_reference_logps(self.base, tokenized))
        optimizers = make_optimizers(policy, RUN.optimizer, exhibit.base_lr())
        schedulers, history = exhibit.schedulers(optimizers), History()
        for micro_batches in batches(
            tokenized, logps, RUN.batch_size, seed, RUN.steps, device=device
        ):
            beta = exhibit.beta()
            history.append(train_step(policy, micro_batches, optimizers, schedulers, beta=beta))
        return history

    def _save_and_load(self, exhibit: Healthy, policy: GPT) -> GPT:
        """The model in dpo.pt after the exhibit has saved its own, wherever it saves it."""
        with tempfile.TemporaryDirectory() as folder:
            save_checkpoint(Path(folder) / "dpo.pt", self.base)  # an earlier run's
            save_checkpoint(Path(folder) / exhibit.file_written(), policy)
            tuned, _ = load_model(Path(folder) / "dpo.pt", self.base.lm_head.weight.device)
        return tuned


def run_museum(
    titles: Iterable[str] = (), n: int = 40, seed: int = 1, device: str = "auto", seeds: int = 5
) -> list[ExhibitResult]:
    """The healthy run and the exhibits of these titles, all if none is given, over so many seeds.

    With the title "healthy" and no other, it is the healthy run alone.
    ValueError for a title that no exhibit has, and for n or seeds below 1.
    """
    kinds = [Healthy, *_chosen(set(titles))]
    if seeds < 1:
        raise ValueError(f"seeds is {seeds}; at least one run of every exhibit is needed")
    base, tokenizer = load_model(RUN.base, best_device(device))
    every_seed = range(seed, seed + seeds)
    questions = {s: sample_questions("held_out/additive", n, s) for s in every_seed}
    shop = Workshop(base, tokenizer, load_pairs(RUN.pairs, tokenizer).pairs, questions)
    trials: dict[type[Healthy], list[Trial]] = {}
    with Bar(len(kinds) * seeds, "museum", "run") as bar:
        for kind in kinds:
            bar.show(now=kind.title)
            trials[kind] = []
            for s in every_seed:
                trials[kind].append(shop.run(kind, s))
                bar.update()
    before = answer_questions(base, tokenizer, questions[seed])
    return [ExhibitResult(kind, trials[kind], trials[Healthy], before) for kind in kinds]


def _chosen(titles: set[str]) -> list[type[Healthy]]:
    """The exhibits of these titles, or all."""
    known = [kind.title for kind in (Healthy, *EXHIBITS)]
    if unknown := titles - set(known):
        raise ValueError(f"no exhibit is called {min(unknown)!r}; there are: {', '.join(known)}")
    return [kind for kind in EXHIBITS if not titles or kind.title in titles]


def museum_table(results: list[ExhibitResult]) -> str:
    """A row per exhibit: its loss, what it answers, and in how many runs the curve reader warns."""
    heads = [f"first loss, mean of the last {LAST}", "right answers", "harm in", "reader warns in"]
    rows = [["exhibit", *heads]]
    for result in results:
        runs = len(result.trials)
        rows.append([
            result.title,
            f"{median(curve[0] for curve in result.curves):.3f}, "
            f"{median(mean(curve[-LAST:]) for curve in result.curves):.3f}",
            result.right,
            "-" if result.is_healthy else f"{result.harmed} of {runs}",
            f"{result.warned} of {runs}",
        ])  # fmt: skip
    return markdown(rows)


def reader_table(results: list[ExhibitResult]) -> str:
    """What the curve reader (`diagnose`) says first of each run: a row per exhibit, in runs."""
    names = sorted(set().union(*(result.said for result in results)))
    rows = [["the curve reader says", *names]]
    for result in results:
        rows.append([result.title, *(str(result.said[name] or "-") for name in names)])
    return markdown(rows)


def reader_summary(results: list[ExhibitResult]) -> str:
    """How often the curve reader warns of runs with a mistake, and of the healthy ones."""
    sides = {"with a mistake": [], "without one": []}
    for result in results:
        sides["without one" if result.is_healthy else "with a mistake"].append(result)
    counts = [
        f"{sum(result.warned for result in side)} of the "
        f"{sum(len(result.trials) for result in side)} runs {name}"
        for name, side in sides.items()
        if side
    ]
    return f"The curve reader, which asks nothing, warns of {' and of '.join(counts)}."


def placard(result: ExhibitResult) -> str:
    """One exhibit in words, as Markdown: its verdict, both lines of code, and three answers."""
    code = [
        f"{side:8} {line}"
        for side, line in zip(("right", "wrong"), result.change or (), strict=False)
    ]
    said = [f"{name:8} {text}" for name, text in result.sample.items()]
    text = "\n".join([*code, "", *said] if code else said)
    return f"**{result.title}** ({result.verdict}). {result.lesson}\n\n```text\n{text}\n```"


def main(config: Config) -> None:
    check_picture(config.figure)
    results = run_museum(config.exhibits, config.n, config.seed, config.device, config.seeds)
    print("\n\n".join(map(placard, results)))
    print(f"\n{museum_table(results)}\n\n{reader_table(results)}\n\n{reader_summary(results)}")
    save_figure(museum_figure(results), config.figure)


if __name__ == "__main__":
    run_program(main, Config())
