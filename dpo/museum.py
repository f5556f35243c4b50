"""The failure museum: `python -m dpo.museum` makes ten classic mistakes for real.

Every exhibit is a class that replaces one method of a healthy run. It trains for some seconds and
is asked held-out sums, and so is the run without the mistake, its baseline. The line that is shown
as the mistake is read from the exhibit's own source.
"""

import inspect
import math
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from configurator import run_program
from dpo import make_pairs
from dpo.data.batches import TokenizedPair, batches, tokenize_pairs
from dpo.data.pair import Pair
from dpo.data.pair_file import spread
from dpo.evaluation.replies import Reply, answer_questions, sample_questions
from dpo.evaluation.tables import markdown, percent, rate
from dpo.plots.museum import museum_figure
from dpo.plots.style import check_picture, save_figure
from dpo.training.diagnosis import diagnose
from dpo.training.history import History
from dpo.training.logps import compute_reference_logps
from dpo.training.step import train_step
from model import GPT, GPTConfig
from sft.arithmetic import Question, spaced
from sft.checkpoint.weights import load_model, save_checkpoint
from sft.corpus import Corpus
from sft.device import autocast, best_device
from sft.grading import parse_answer
from sft.optimizers import make_optimizers, make_schedulers
from sft.progress import Bar
from sft.sequences import Sequence, encode_sequence
from sft.tokenizer import Tokenizer, load_tokenizer
from sft.train import WEIGHT_DECAY, sft_step

BASE, MOST_PAIRS = "sft/gpt.pt", 1024
BLANK_STEPS, BLANK_LINES = 94, 64  # steps that make the tiny blank base, and lines in each
LAST = 4  # steps at the end of a run over which a curve is averaged


@dataclass
class Config:
    """python -m dpo.museum: make the classic mistakes for real, and draw what becomes of them."""

    exhibits: tuple[str, ...] = ()  # titles in quotes (a wrong one lists all); none: all of them
    figure: str = "runs/museum.png"  # the figure
    n: int = 100  # held-out sums and differences that every exhibit is asked
    seed: int = 1  # of the questions, the order of the pairs and the tiny base
    device: str = "auto"  # auto, cpu, cuda or mps


class Healthy:
    """A short run from the shipped base.

    Each exhibit replaces one method, whose last line is the mistake.
    """

    title = "healthy: shipped base"
    lesson = "This base knows the answers under its refusals. A few steps bring them out."
    pairs, epochs, batch_size, base_lr, beta, nll_coef = 256, 1, 16, 7e-5, 0.1, 0.2

    def policy(self, base: GPT) -> GPT:
        """What is trained."""
        return copy_of(base, dropout=0.0)

    def scored(self, text: Sequence) -> Sequence:
        """What is scored of a question and an answer."""
        return text

    def reference_logps(self, logps: Tensor) -> Tensor:
        """What the loss takes as the reference's log-probabilities."""
        return logps

    def objective(self) -> dict[str, float]:
        """The settings of `dpo_step`."""
        return {"beta": self.beta, "nll_coef": self.nll_coef}

    def schedulers(self, optimizers: list[torch.optim.Optimizer], steps: int) -> list[LambdaLR]:
        """What sets the learning rate of every step."""
        return make_schedulers(optimizers, steps)

    def file_written(self) -> str:
        """Where the tuned model goes; dpo.pt is what will be tested."""
        return "dpo.pt"

    def prompt(self, question: Question) -> str:
        """How the tuned model is asked."""
        return question.text


class PromptNotMasked(Healthy):
    title = "prompt not masked"
    lesson = (
        "The NLL term now asks for the question as well, which nobody can guess, and the model "
        "begins to write questions."
    )

    def scored(self, text):
        return Sequence(text.prompt[:1], text.prompt[1:] + text.completion)


class QuestionsCutOff(Healthy):
    title = "questions cut off"
    lesson = (
        "Texts cut to fit have lost their beginning, and that is the question: the pairs no longer "
        "say what is asked."
    )

    def scored(self, text):
        return Sequence(text.prompt[-2:], text.completion)


class DropoutOn(Healthy):
    title = "dropout in scoring"
    lesson = (
        "The loss does not start at ln 2: the same model, scored twice, gives two results. The "
        "curve is noise as much as learning."
    )

    def policy(self, base):
        return copy_of(base, dropout=0.2)


class RateTwice(Healthy):
    title = "learning rate squared"
    lesson = (
        "LambdaLR multiplies base_lr by what it is given. Given base_lr again, the rate is its "
        "square, and nothing moves."
    )

    def schedulers(self, optimizers, steps):
        return [LambdaLR(optimizer, lambda step: self.base_lr) for optimizer in optimizers]


class FormatDrift(Healthy):
    title = "format drift"
    lesson = "The run is the healthy one. It is asked with spaces that no pair has."

    def prompt(self, question):
        return spaced(question.text)


class StaleCheckpoint(Healthy):
    title = "stale checkpoint"
    lesson = (
        "The run is the healthy one. But the file that is tested is an older one that lay there, "
        "here the base."
    )

    def file_written(self):
        return "model.pt"


class HealthyFromBlank(Healthy):
    """The same from a tiny base that has only ever refused: it takes larger steps and more NLL."""

    title = "healthy: blank base"
    lesson = (
        "A tiny base that has only ever refused. The NLL term teaches how an answer looks; to "
        "calculate takes far longer."
    )
    pairs, epochs, batch_size, base_lr, beta, nll_coef = MOST_PAIRS, 2, 32, 2e-3, 0.1, 1.0


class NoAnchor(HealthyFromBlank):
    title = "no NLL term"
    lesson = (
        "Ranked right is not written right: both answers may sink, as long as the rejected one "
        "sinks further."
    )

    def objective(self):
        return {"beta": self.beta, "nll_coef": 0.0}


class NoReference(HealthyFromBlank):
    title = "no reference"
    lesson = (
        "The loss does not start at ln 2, but at how much likelier a refusal is; nothing measures "
        "how far the policy goes."
    )

    def reference_logps(self, logps):
        return torch.zeros_like(logps)


class BetaUpsideDown(HealthyFromBlank):
    title = "beta upside down"
    lesson = (
        "Dividing makes 10 of 0.1: a pair ranked wrong pulls a hundred times as hard, and the run "
        "jumps about."
    )

    def objective(self):
        return {"beta": 1 / self.beta, "nll_coef": self.nll_coef}


class NoTerminator(HealthyFromBlank):
    title = "no terminator"
    lesson = (
        "The full stop and the newline that end an answer are not scored: nothing says where to "
        "stop."
    )

    def scored(self, text):
        return Sequence(text.prompt, text.completion[:-2])


EXHIBITS: dict[type[Healthy], tuple[type[Healthy], ...]] = {  # by the run without the mistake
    Healthy: (PromptNotMasked, QuestionsCutOff, DropoutOn, RateTwice, FormatDrift, StaleCheckpoint),
    HealthyFromBlank: (NoAnchor, NoReference, BetaUpsideDown, NoTerminator),
}


@dataclass(frozen=True)
class ExhibitResult:
    """What came of one exhibit."""

    exhibit: type[Healthy]
    baseline: type[Healthy]  # the same run without the mistake
    history: History
    replies: list[Reply]  # greedy, to held-out sums and differences

    @property
    def sample(self) -> str:
        """A question and its answer: the first one that is not right, if there is one."""
        reply = next((reply for reply in self.replies if reply.outcome != "right"), self.replies[0])
        text = reply.text if reply.text.strip() else f" ({len(reply.text)} spaces)"
        return self.exhibit().prompt(reply.question) + text

    @property
    def shares(self) -> dict[str, dict[str, float]]:
        """Rates of replies that are right, in form, and that ended by themselves.

        In form is what claims a number and a reason, true or not.
        """
        claims = [parse_answer(reply.text) for reply in self.replies]
        counts = {
            "right": sum(reply.outcome == "right" for reply in self.replies),
            "in form": sum(None not in (claim.value, claim.reason) for claim in claims),
            "ended": sum(reply.ended for reply in self.replies),
        }
        return {name: rate(count, len(self.replies)) for name, count in counts.items()}

    @property
    def change(self) -> tuple[str, str] | None:
        """The right line, and the wrong one in its place; None for the healthy run itself."""
        if self.exhibit is self.baseline:
            return None
        # An exhibit has one method of its own, and its last line returns something else.
        (name,) = (name for name, value in vars(self.exhibit).items() if inspect.isfunction(value))
        right, wrong = (_returned(getattr(owner, name)) for owner in (Healthy, self.exhibit))
        return f"{name} = {right}", f"{name} = {wrong}"

    @property
    def curve(self) -> list[float]:
        """The preference loss of every step."""
        return self.history["loss/preference"]

    @property
    def ends(self) -> tuple[float, float]:
        """The loss of the first step, and the mean of the last ones."""
        return self.curve[0], mean(self.curve[-LAST:])

    @property
    def ranked(self) -> float:
        """Share of the last pairs that are ranked right."""
        return mean(self.history["rewards/accuracies"][-LAST:])


def _returned(function: Callable) -> str:
    """What the last line of a function returns, as its source has it."""
    return inspect.getsource(function).splitlines()[-1].strip().removeprefix("return ")


def copy_of(base: GPT, dropout: float) -> GPT:
    """The same weights in a model of their own, with dropout at work if there is any."""
    model = GPT(replace(base.config, dropout=dropout)).to(base.lm_head.weight.device)
    model.load_state_dict(base.state_dict())
    return model.train()


def make_tiny_blank(tokenizer: Tokenizer, seed: int, device: torch.device) -> GPT:
    """A small model that refuses every sum and has seen none answered; ten seconds on two cores."""
    torch.manual_seed(seed)
    size = {"n_layer": 3, "n_head": 4, "n_embd": 96}
    model = GPT(GPTConfig(vocab_size=len(tokenizer), dropout=0.0, **size)).to(device)
    optimizers, corpus = make_optimizers(model, "muon", 3e-3, 0.02, WEIGHT_DECAY), Corpus(seed)
    schedulers = make_schedulers(optimizers, BLANK_STEPS)
    for _ in range(BLANK_STEPS):
        lines = corpus.draw(BLANK_LINES, {"refusal": 50, "everyday": 50})
        sequences = [encode_sequence(tokenizer.encode, *line) for line in lines]
        sft_step(model, optimizers, sequences, BLANK_LINES)
        for scheduler in schedulers:
            scheduler.step()
    return model.eval()


def run_exhibit(
    kind: type[Healthy],
    baseline: type[Healthy],
    base: GPT,
    tokenizer: Tokenizer,
    pairs: list[Pair],
    questions: list[Question],
    seed: int,
) -> ExhibitResult:
    """Train the exhibit from this base, save it, load what is tested, and ask the questions."""
    exhibit = kind()
    torch.manual_seed(seed)
    policy = exhibit.policy(base)
    tokenized = [
        TokenizedPair(exhibit.scored(pair.chosen), exhibit.scored(pair.rejected), pair.line)
        for pair in tokenize_pairs(tokenizer, spread(pairs, exhibit.pairs))
    ]
    history = _train_exhibit(exhibit, policy, base, tokenized, seed)
    tuned = _save_and_load(exhibit, policy, base)
    prompts = [exhibit.prompt(question) for question in questions]
    replies = answer_questions(tuned, tokenizer, questions, prompts=prompts)
    return ExhibitResult(kind, baseline, history, replies)


def _train_exhibit(
    exhibit: Healthy, policy: GPT, base: GPT, tokenized: list[TokenizedPair], seed: int
) -> History:
    """The same loop as everywhere, with the exhibit's settings; what it records."""
    device = base.lm_head.weight.device
    with autocast(device):
        reference_logps = exhibit.reference_logps(compute_reference_logps(base, tokenized))
    optimizers = make_optimizers(policy, "adamw", exhibit.base_lr)
    steps = math.ceil(len(tokenized) / exhibit.batch_size) * exhibit.epochs
    schedulers, history = exhibit.schedulers(optimizers, steps), History()
    for micro_batches in batches(
        tokenized, reference_logps, exhibit.batch_size, seed, epochs=exhibit.epochs, device=device
    ):
        metrics = train_step(policy, micro_batches, optimizers, schedulers, **exhibit.objective())
        history.append(metrics)
    return history


def _save_and_load(exhibit: Healthy, policy: GPT, base: GPT) -> GPT:
    """The model in dpo.pt after the exhibit has saved its own, wherever it saves it."""
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(Path(folder) / "dpo.pt", base)  # an earlier run, which came to nothing
        save_checkpoint(Path(folder) / exhibit.file_written(), policy)
        tuned, _ = load_model(Path(folder) / "dpo.pt", base.lm_head.weight.device)
    return tuned


def run_museum(
    titles: Iterable[str] = (), n: int = 100, seed: int = 1, device: str = "auto"
) -> list[ExhibitResult]:
    """Run the exhibits of these titles, all if none is given; each baseline's healthy run first.

    ValueError for a title that no exhibit has.
    """
    plan = _plan(set(titles))
    on, tokenizer, results = best_device(device), load_tokenizer(), []
    pairs = make_pairs.make_pairs(make_pairs.Config(n=MOST_PAIRS, negatives="refusal"))
    questions = sample_questions("held_out/additive", n, seed)
    with Bar(sum(map(len, plan.values())), "museum", "exhibit") as bar:
        for baseline, kinds in plan.items():
            is_blank = baseline is HealthyFromBlank
            bar.show(now="the tiny base" if is_blank else "the base")
            base = make_tiny_blank(tokenizer, seed, on) if is_blank else load_model(BASE, on)[0]
            for kind in kinds:
                bar.show(now=kind.title)
                results.append(run_exhibit(kind, baseline, base, tokenizer, pairs, questions, seed))
                bar.update()
    return results


def _plan(titles: set[str]) -> dict[type[Healthy], list[type[Healthy]]]:
    """The exhibits to run, by baseline, with the baseline as the first of its own."""
    known = [kind.title for kinds in EXHIBITS.values() for kind in kinds]
    if unknown := titles - set(known):
        raise ValueError(f"no exhibit is called {min(unknown)!r}; there are: {', '.join(known)}")
    plan = {}
    for baseline, kinds in EXHIBITS.items():
        wanted = [kind for kind in kinds if not titles or kind.title in titles]
        if wanted:
            plan[baseline] = [baseline, *wanted]
    return plan


def museum_table(results: list[ExhibitResult]) -> str:
    """A row per exhibit: its curve in figures and in words (`diagnose`), and what it answers."""
    n = len(results[0].replies)
    shown = [f"{name}, n = {n}" for name in results[0].shares]
    rows = [["exhibit", "loss", "pairs ranked right", "the curves alone say", *shown]]
    for result in results:
        said = ", ".join(diagnosis.name for diagnosis in diagnose(result.history))
        loss = "{:.3f} to {:.3f}".format(*result.ends)
        shares = [percent(share) for share in result.shares.values()]
        rows.append([result.exhibit.title, loss, f"{result.ranked:.0%}", said, *shares])
    return markdown(rows)


def placards(results: list[ExhibitResult]) -> str:
    """For every exhibit the right line, the wrong one, and what the model then answers."""
    lines = []
    for result in results:
        lines += [f"{result.exhibit.title}: {result.exhibit.lesson}"]
        if result.change:
            lines += [f"   right  {result.change[0]}", f"   wrong  {result.change[1]}"]
        lines += [f"   answer {result.sample}", ""]
    return "\n".join(lines).rstrip()


def main(config: Config) -> None:
    check_picture(config.figure)
    results = run_museum(config.exhibits, config.n, config.seed, config.device)
    print(f"{museum_table(results)}\n\n{placards(results)}")
    save_figure(museum_figure(results), config.figure)


if __name__ == "__main__":
    run_program(main, Config())
