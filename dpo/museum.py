"""The failure museum: `python -m dpo.museum` makes ten classic mistakes, each beside the same run without it.

Nothing is drawn by hand: every exhibit is a class that replaces one method of a healthy run, trains for some seconds,
and is asked held-out sums. The line that it shows as the mistake is read from its own source.
"""

import inspect
import math
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from configurator import run_program
from dpo.arithmetic import Question, parse_answer
from dpo.batches import Example, batches, compute_reference_logps, encode_pairs
from dpo.curves import read_curves
from dpo.evaluate import Reply, answer_questions, markdown, percent, rate, sample_questions
from dpo.formats import spaced
from dpo.history import History
from dpo.pairs import Pair, load_pairs
from dpo.plots import check_picture, museum_figure, save_figure
from dpo.train import accumulate, update
from model import GPT, GPTConfig
from sft.bar import Bar
from sft.checkpoint import load_model, save_checkpoint
from sft.corpus import Corpus
from sft.device import autocast, best_device
from sft.optimizers import make_optimizers, make_schedulers
from sft.rows import Row, encode_row
from sft.tokenizer import Tokenizer, load_tokenizer
from sft.train import WEIGHT_DECAY, train_step

BASE, PAIRS = "sft/gpt.pt", "dpo/pos_neg_pairs.json"
BLANK_STEPS, BLANK_LINES = 94, 64  # steps that make the tiny blank base, and lines in each
LAST = 4  # steps at the end over which a curve is averaged


@dataclass
class Config:
    """python -m dpo.museum: make the classic mistakes for real, and draw what becomes of them."""

    exhibits: tuple[str, ...] = ()  # titles of those to run, in quotes (a wrong one lists them); all if none is named
    figure: str = "runs/museum.png"  # the figure
    n: int = 100  # held-out sums and differences that every exhibit is asked
    seed: int = 1  # of the questions, the order of the pairs and the tiny base
    device: str = "auto"  # auto, cpu, cuda or mps


class Healthy:
    """A short run from the shipped base. Each exhibit replaces one method; its last line is the mistake."""

    title = "healthy: shipped base"
    lesson = "This base knows the answers under its refusals. A few steps bring them out."
    pairs, epochs, batch_size, base_lr, beta, nll_coef = 256, 1, 16, 7e-5, 0.1, 0.2

    def policy(self, base: GPT) -> GPT:
        """What is trained."""
        return copy_of(base, dropout=0.0)

    def row(self, row: Row) -> Row:
        """What is scored of a question and an answer."""
        return row

    def reference_logps(self, logps: Tensor) -> Tensor:
        """What the loss takes as the reference's log-probabilities."""
        return logps

    def objective(self) -> dict[str, float]:
        return {"beta": self.beta, "nll_coef": self.nll_coef}

    def schedulers(self, optimizers: list[torch.optim.Optimizer], steps: int) -> list[LambdaLR]:
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
        "The NLL term now asks for the question as well, which nobody can guess, and the model begins to "
        "write questions."
    )

    def row(self, row):
        return Row(row.prompt[:1], row.prompt[1:] + row.completion)


class QuestionsCutOff(Healthy):
    title = "questions cut off"
    lesson = (
        "Rows cut to fit have lost their beginning, and that is the question: the pairs no longer say what is asked."
    )

    def row(self, row):
        return Row(row.prompt[-2:], row.completion)


class DropoutOn(Healthy):
    title = "dropout in scoring"
    lesson = (
        "The loss does not start at ln 2: the same model, scored twice, gives two results. The curve is "
        "noise as much as learning."
    )

    def policy(self, base):
        return copy_of(base, dropout=0.2)


class RateTwice(Healthy):
    title = "learning rate squared"
    lesson = (
        "LambdaLR multiplies base_lr by what it is given. Given base_lr again, the rate is its square, and "
        "nothing moves."
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
    lesson = "The run is the healthy one. But the file that is tested is an older one that lay there, here the base."

    def file_written(self):
        return "model.pt"


class HealthyFromBlank(Healthy):
    """The same from a tiny base that has only ever refused: large steps, and the NLL term has to teach."""

    title = "healthy: blank base"
    lesson = (
        "A tiny base that has only ever refused. The NLL term teaches how an answer looks; to calculate "
        "takes far longer."
    )
    pairs, epochs, batch_size, base_lr, beta, nll_coef = 1024, 2, 32, 2e-3, 0.1, 1.0


class NoAnchor(HealthyFromBlank):
    title = "no NLL term"
    lesson = "Ranked right is not written right: both answers may sink, as long as the rejected one sinks further."

    def objective(self):
        return {"beta": self.beta, "nll_coef": 0.0}


class NoReference(HealthyFromBlank):
    title = "no reference"
    lesson = (
        "The loss does not start at ln 2, but at how much likelier a refusal is; nothing measures how far "
        "the policy goes."
    )

    def reference_logps(self, logps):
        return torch.zeros_like(logps)


class BetaUpsideDown(HealthyFromBlank):
    title = "beta upside down"
    lesson = "Dividing makes 10 of 0.1: a pair ranked wrong pulls a hundred times as hard, and the run jumps about."

    def objective(self):
        return {"beta": 1 / self.beta, "nll_coef": self.nll_coef}


class NoTerminator(HealthyFromBlank):
    title = "no terminator"
    lesson = "The full stop and the newline that end an answer are not scored: nothing says where to stop."

    def row(self, row):
        return Row(row.prompt, row.completion[:-2])


ROOMS = {
    Healthy: (PromptNotMasked, QuestionsCutOff, DropoutOn, RateTwice, FormatDrift, StaleCheckpoint),
    HealthyFromBlank: (NoAnchor, NoReference, BetaUpsideDown, NoTerminator),
}


@dataclass(frozen=True)
class Visit:
    """What came of one exhibit."""

    exhibit: type[Healthy]
    room: type[Healthy]  # the same run without the mistake
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
        """Rates with intervals: `right`; `in form`, a number and a reason, true or not; `ended` by itself."""
        n = len(self.replies)
        claims = [parse_answer(reply.text) for reply in self.replies]
        return {
            "right": rate(sum(reply.outcome == "right" for reply in self.replies), n),
            "in form": rate(sum(claim.value is not None and claim.reason is not None for claim in claims), n),
            "ended": rate(sum(reply.ended for reply in self.replies), n),
        }

    @property
    def change(self) -> tuple[str, str] | None:
        """The line of the healthy run and the one that the exhibit has in its place; None for a healthy run."""
        if self.exhibit is self.room:
            return None
        (name,) = (name for name, value in vars(self.exhibit).items() if inspect.isfunction(value))
        sources = (inspect.getsource(getattr(owner, name)) for owner in (Healthy, self.exhibit))
        right, wrong = (source.splitlines()[-1].strip().removeprefix("return ") for source in sources)
        return f"{name} = {right}", f"{name} = {wrong}"

    @property
    def curve(self) -> list[float]:
        return self.history["loss/preference"]

    @property
    def ends(self) -> tuple[float, float]:
        """The loss of the first step, and the mean of the last ones."""
        return self.curve[0], mean(self.curve[-LAST:])

    @property
    def ranked(self) -> float:
        """Share of the last pairs that are ranked right."""
        return mean(self.history["rewards/accuracies"][-LAST:])


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
        train_step(model, optimizers, [encode_row(tokenizer, *line) for line in lines], BLANK_LINES)
        for scheduler in schedulers:
            scheduler.step()
    return model.eval()


def visit(
    kind: type[Healthy],
    room: type[Healthy],
    base: GPT,
    tokenizer: Tokenizer,
    pairs: list[Pair],
    questions: list[Question],
    seed: int,
) -> Visit:
    """Train the exhibit from this base, save it, load what is to be tested, and ask the questions."""
    exhibit, device = kind(), base.lm_head.weight.device
    torch.manual_seed(seed)
    policy = exhibit.policy(base)
    examples = [
        Example(exhibit.row(e.chosen), exhibit.row(e.rejected), e.line)
        for e in encode_pairs(tokenizer, pairs[: exhibit.pairs])
    ]
    with autocast(device):
        reference_logps = exhibit.reference_logps(compute_reference_logps(base, examples))
    optimizers = make_optimizers(policy, "adamw", exhibit.base_lr)
    steps = math.ceil(len(examples) / exhibit.batch_size) * exhibit.epochs
    schedulers, history = exhibit.schedulers(optimizers, steps), History()
    for parts in batches(examples, reference_logps, exhibit.batch_size, seed, exhibit.epochs, device=device):
        metrics = accumulate(policy, parts, "auto", **exhibit.objective())
        history.append(metrics | update(policy, parts, optimizers, schedulers, max_grad_norm=1.0))
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(Path(folder) / "dpo.pt", base)  # an earlier run, which came to nothing
        save_checkpoint(Path(folder) / exhibit.file_written(), policy)
        tuned = load_model(Path(folder) / "dpo.pt", device)
    replies = answer_questions(tuned, tokenizer, questions, prompts=[exhibit.prompt(q) for q in questions])
    return Visit(kind, room, history, replies)


def visit_museum(titles: Iterable[str] = (), n: int = 100, seed: int = 1, device: str = "auto") -> list[Visit]:
    """Run the exhibits of these titles, all if there are none, each room with its healthy run first.

    ValueError for a title that no exhibit has.
    """
    wanted = set(titles) or {kind.title for kinds in ROOMS.values() for kind in kinds}
    plan = {room: [kind for kind in kinds if kind.title in wanted] for room, kinds in ROOMS.items()}
    if unknown := wanted - {kind.title for kinds in plan.values() for kind in kinds}:
        known = ", ".join(kind.title for kinds in ROOMS.values() for kind in kinds)
        raise ValueError(f"no exhibit is called {min(unknown)!r}; there are: {known}")
    on, tokenizer, visits = best_device(device), load_tokenizer(), []
    pairs, questions = load_pairs(PAIRS, tokenizer).pairs, sample_questions("held_out/additive", n, seed)
    with Bar(sum(1 + len(kinds) for kinds in plan.values() if kinds), "museum", "exhibit") as bar:
        for room, kinds in plan.items():
            if not kinds:
                continue
            bar.show(now="the tiny base" if room is HealthyFromBlank else "the base")
            base = make_tiny_blank(tokenizer, seed, on) if room is HealthyFromBlank else load_model(BASE, on)
            for kind in (room, *kinds):
                bar.show(now=kind.title)
                visits.append(visit(kind, room, base, tokenizer, pairs, questions, seed))
                bar.update()
    return visits


def museum_table(visits: list[Visit]) -> str:
    """A row per exhibit: its curve in figures, what the rules of `dpo/curves.py` say of it, and what it answers."""
    n = len(visits[0].replies)
    names = ["right", "in form", "ended"]
    rows = [["exhibit", "loss", "pairs ranked right", "the curves alone say", *(f"{name}, n = {n}" for name in names)]]
    for seen in visits:
        said = ", ".join(reading.name for reading in read_curves(seen.history))
        loss = "{:.3f} to {:.3f}".format(*seen.ends)
        shares = [percent(share) for share in seen.shares.values()]
        rows.append([seen.exhibit.title, loss, f"{seen.ranked:.0%}", said, *shares])
    return markdown(rows)


def placards(visits: list[Visit]) -> str:
    """For every exhibit the line that was wrong, the one that is right, and what the model then answers."""
    lines = []
    for seen in visits:
        lines += [f"{seen.exhibit.title}: {seen.exhibit.lesson}"]
        if seen.change:
            lines += [f"   right  {seen.change[0]}", f"   wrong  {seen.change[1]}"]
        lines += [f"   answer {seen.sample}", ""]
    return "\n".join(lines).rstrip()


def main(config: Config) -> None:
    check_picture(config.figure)
    visits = visit_museum(config.exhibits, config.n, config.seed, config.device)
    print(f"{museum_table(visits)}\n\n{placards(visits)}")
    save_figure(museum_figure(visits), config.figure)


if __name__ == "__main__":
    run_program(main, Config())
