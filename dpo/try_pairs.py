"""Edit the pairs and see: `python -m dpo.try_pairs` trains on your pairs and on the shipped ones.

The first call makes your file, dpo/my_pairs.json, as a copy of the shipped pairs: edit it, and call
again. Both runs start from the base with the same settings, those of `dpo.train`, and make the same
number of steps: only the pairs differ. Then both are asked the same questions. The run on the
shipped pairs is the one in dpo/ if it was made just so; else it is made once, in runs/try/shipped.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from configurator import run_program
from dpo import train
from dpo.compare import (
    WATCH_SETTINGS,
    describe_answers,
    describe_balance,
    pairs_difference,
    read_run,
)
from dpo.data.pair import Pair
from dpo.data.pair_file import load_pairs
from dpo.evaluation.replies import Reply, answer_questions
from dpo.evaluation.tables import SHOWN, count_and_examples, markdown
from dpo.formats import FORMATS, OUTCOMES, WITHOUT_ANSWER, outcomes, sample_kind
from dpo.plots.style import check_picture, save_figure
from dpo.plots.tries import trial_figure
from dpo.training.provenance import describe_provenance
from dpo.training.run import RUNTIME_SETTINGS
from sft.arithmetic import Question
from sft.checkpoint.archive import CheckpointError
from sft.checkpoint.weights import is_plain, load_checkpoint, load_model
from sft.corpus import everyday_lines
from sft.device import best_device
from sft.files import write_atomically
from sft.generation import generate_answers
from sft.tokenizer import load_tokenizer

MINE, SHIPPED = "dpo/my_pairs.json", train.Config.pairs
RUNS = Path("runs/try")  # a folder in it for each of the two runs
SEED = 1  # of the sample of questions
OF_A_KIND = 2  # questions of every kind without an answer
EVERY_NTH = 10  # of the everyday questions, one in so many is asked
BY_SIGN = {  # where the usual questions are counted
    "+": "with +: 17+19=?, x+17=36,x=?",
    "-": "with -: 36-17=?, x-17=19,x=?",
    "*": "with *: 3*17=?, x*3=51,x=?",
    "/": "with /: 51/3=?, x/3=17,x=?",
}
NO_ANSWER = "not to be calculated: 17/0=?, 52/3=?"


@dataclass
class Config:
    """python -m dpo.try_pairs: train on pairs of your own, and see what they change."""

    pairs: str = MINE  # your pairs; if there is no such file, it is made from the shipped pairs
    n: int = 24  # questions of every kind that has an answer
    figure: str = ""  # also draw losses and answers into this file
    device: str = "auto"  # auto, cpu, cuda or mps


# Which lines differ


@dataclass(frozen=True)
class Edit:
    """A pair that was changed, added (there is no old one) or removed (no new one)."""

    old: Pair | None
    new: Pair | None

    @property
    def kind(self) -> str:
        return "added" if self.old is None else "removed" if self.new is None else "changed"

    @property
    def prompt(self) -> str:
        return (self.new or self.old).prompt

    def __str__(self) -> str:
        """Its line in the file that has it, yours if both do, and what became of its answers."""
        pair = self.new or self.old
        if self.kind != "changed":
            where = "shipped line" if self.new is None else "line"
            return f"{where} {pair.line}: {pair.prompt}{pair.chosen}  not {pair.rejected}"
        answers = ((self.old.chosen, pair.chosen), (self.old.rejected, pair.rejected))
        changes = [f"{was} -> {now}" for was, now in answers if was != now]
        return f"line {pair.line}: {pair.prompt}{';'.join(changes)}"


def find_edits(shipped: list[Pair], yours: list[Pair]) -> list[Edit]:
    """How the shipped pairs became yours, whatever their order.

    A pair that went and one that came with the same prompt are one that was changed.
    """
    rows = [[(p.prompt, p.chosen, p.rejected) for p in pairs] for pairs in (shipped, yours)]
    by_row = [
        dict(zip(texts, pairs, strict=True))
        for texts, pairs in zip(rows, (shipped, yours), strict=True)
    ]
    gone, new = pairs_difference(*rows)
    gone_by_prompt: dict[str, list[Pair]] = {}
    for row in gone:
        gone_by_prompt.setdefault(row[0], []).append(by_row[0][row])
    edits = []
    for row in new:
        olds = gone_by_prompt.get(row[0])
        edits.append(Edit(olds.pop(0) if olds else None, by_row[1][row]))
    return edits + [Edit(pair, None) for pairs in gone_by_prompt.values() for pair in pairs]


# What is asked


@dataclass(frozen=True)
class Asked:
    topic: str  # where the answer is counted
    question: Question | None  # None: it has no answer
    prompt: str


def draw_questions(n: int) -> list[Asked]:
    """At most n questions of every kind with an answer as usually written, of the test's families.

    And a few of every kind without an answer. They are always the same.
    """
    kinds = {name: n for name, kind in FORMATS.items() if kind.write is str and not kind.trivial}
    kinds |= dict.fromkeys(WITHOUT_ANSWER, OF_A_KIND)
    asked = []
    for kind, count in kinds.items():
        for question, prompt in zip(*sample_kind(kind, count, SEED), strict=True):
            asked.append(Asked(_topic(kind, question), question, prompt))
    return asked


def _topic(kind: str, question: Question | None) -> str:
    """The usual questions by their sign, other numbers by their kind, the rest together."""
    if kind in WITHOUT_ANSWER:
        return NO_ANSWER
    if FORMATS[kind].ranges != "standard":
        return kind
    return next(name for sign, name in BY_SIGN.items() if sign in question.form)


# The two runs


@dataclass(frozen=True)
class Tuned:
    """What came of one run."""

    loss: list[float]  # preference loss of every step
    replies: list[Reply]  # greedy, to all that is asked
    edited: list[str]  # answers to prompts of edited pairs
    talk: int  # everyday questions that get the answer of the base's corpus


def is_run_of(path: Path, config: train.Config) -> bool:
    """Whether this checkpoint is of the very run that `config` would make.

    The settings that its result depends on are the same. So is the line of its provenance: hashes
    of base, pairs and code, versions, processor and threads.
    """
    try:
        extras = load_checkpoint(path).extras
    except CheckpointError:  # among others if there is none
        return False
    settings, made_of = extras.get("config"), (config.precision, config.seed)
    provenance = describe_provenance(
        best_device(config.device), *made_of, config.base, config.pairs
    )
    if not is_plain(settings) or extras.get("environment") != provenance:
        return False
    # The hashes are of base and pairs, wherever they lie.
    left_out = ("base", "pairs", *RUNTIME_SETTINGS, *WATCH_SETTINGS)
    return all(
        settings.get(name) == value
        for name, value in asdict(config).items()
        if name not in left_out
    )


def find_or_train(config: train.Config) -> Path:
    """The checkpoint of this run, which may have been made before; else it is trained now."""
    for folder in (train.Config.out, RUNS / "shipped", config.out):
        path = Path(folder) / "dpo.pt"
        if is_run_of(path, config):
            return path
    print(f"\nTraining on {config.pairs}")
    train.train(config)
    return path


def ask(path: Path, asked: list[Asked], prompts: list[str], device: torch.device) -> Tuned:
    """What the tuned model answers to the questions, the edited prompts and small talk."""
    model, tokenizer = load_model(path, device)
    questions, texts = [one.question for one in asked], [one.prompt for one in asked]
    replies = answer_questions(model, tokenizer, questions, f"asking {path.as_posix()}", texts)
    said, answers = zip(*everyday_lines()[::EVERY_NTH], strict=True)
    talk = generate_answers(model, tokenizer, list(said), drafts=list(answers))
    return Tuned(
        read_run(path).history["loss/preference"],
        replies,
        generate_answers(model, tokenizer, prompts),
        sum(text == answer for text, answer in zip(talk, answers, strict=True)),
    )


# A trial


@dataclass(frozen=True)
class Trial:
    """Two runs that differ in their pairs alone, and what both answer to the same questions."""

    path: str  # of your pairs
    pairs: tuple[int, int]  # how many: shipped, and yours
    edits: list[Edit]
    asked: list[Asked]
    prompts: list[str]  # of edited pairs, SHOWN at most
    base: list[str]  # the base's answers to these
    runs: dict[str, Tuned]  # by the pairs that they are of: "shipped" and "yours"

    @property
    def losses(self) -> dict[str, list[float]]:
        """The preference loss of every step, by run."""
        return {name: run.loss for name, run in self.runs.items()}

    @property
    def outcomes(self) -> dict[str, dict[str, dict]]:
        """By topic and by run: n, and the shares of right, refused and wrong answers."""
        by_topic = {}
        for topic in dict.fromkeys(one.topic for one in self.asked):
            by_topic[topic] = {
                name: outcomes([r for r, one in self._replies(run) if one.topic == topic])
                for name, run in self.runs.items()
            }
        return by_topic

    def _replies(self, run: Tuned) -> Iterator[tuple[Reply, Asked]]:
        return zip(run.replies, self.asked, strict=True)

    def describe(self) -> str:
        """What differs between the pairs and between the answers, in words and figures."""
        parts = (
            self._describe_edits(),
            self._describe_flips(),
            self._describe_edited(),
            self._describe_talk(),
        )
        return "\n\n".join(filter(None, parts))

    def _describe_edits(self) -> str:
        lines = ["{:,} shipped pairs, {:,} of yours.".format(*self.pairs)]
        if not self.edits:
            lines.append(f"No pair differs yet: edit {self.path} and run this again.")
        for kind in ("changed", "added", "removed"):
            texts = [str(edit) for edit in self.edits if edit.kind == kind]
            lines += count_and_examples(kind, texts) if texts else []
        return "\n".join(lines)

    def table(self) -> str:
        """Counts by topic, of the shipped pairs and of yours."""
        rows = [["questions", "n", *OUTCOMES]]
        for topic, runs in self.outcomes.items():
            shipped, yours = runs.values()
            counts = [f"{shipped[key]['count']} -> {yours[key]['count']}" for key in OUTCOMES]
            rows.append([topic, str(shipped["n"]), *counts])
        head = (
            "Greedy answers after training on the shipped pairs -> on yours; all facts set aside. "
            "Right: number and calculation."
        )
        return f"{head}\n\n{markdown(rows)}"

    def _describe_flips(self) -> str:
        """The questions with an answer that turned right or wrong."""
        before, after = (
            [reply for reply, one in self._replies(run) if one.topic != NO_ANSWER]
            for run in self.runs.values()
        )
        names = ("with the shipped pairs", "with yours")
        parts = (describe_answers(before, after, names), describe_balance(before, after))
        return "\n".join(filter(None, parts))

    def _describe_edited(self) -> str:
        """What the prompts of edited pairs are answered, by the base and by both runs."""
        if not self.prompts:
            return ""
        answers = {"base": self.base} | {name: run.edited for name, run in self.runs.items()}
        lines = ["Questions of edited pairs:"]
        for prompt, *texts in zip(self.prompts, *answers.values(), strict=True):
            lines.append(f"  {prompt}")
            for name, text in zip(answers, texts, strict=True):
                lines.append(f"    {name:8} {text.strip() or '(nothing)'}")
        return "\n".join(lines)

    def _describe_talk(self) -> str:
        kept = ", ".join(f"{name} {run.talk}" for name, run in self.runs.items())
        return f"Small talk kept, of {len(everyday_lines()[::EVERY_NTH])} questions: {kept}."


def make_copy(path: str | Path) -> bool:
    """Make the file of your pairs from the shipped ones, unless there is one; whether it did."""
    if Path(path).exists():
        return False
    write_atomically(path, Path(SHIPPED).read_bytes())
    return True


def try_pairs(path: str | Path = MINE, n: int = Config.n, **settings) -> Trial:
    """Train on these pairs and on the shipped ones, and ask both models the same.

    `settings` are those of `dpo.train`, for both runs, which have no evals on the way if that is
    not set. If there is no such file, it is made from the shipped pairs. PairsError lists what has
    to be mended in it.
    """
    make_copy(path)
    files = {"shipped": SHIPPED, "yours": str(path)}
    settings = {"eval_every": 0} | settings
    configs = {
        name: train.Config(pairs=pairs, out=str(RUNS / name), **settings)
        for name, pairs in files.items()
    }
    tokenizer, asked = load_tokenizer(), draw_questions(n)
    shipped, yours = (load_pairs(pairs, tokenizer).pairs for pairs in files.values())
    edits = find_edits(shipped, yours)
    prompts = list(dict.fromkeys(edit.prompt for edit in edits))[:SHOWN]
    paths = {name: find_or_train(config) for name, config in configs.items()}
    device = best_device(configs["yours"].device)
    tuned = {run: ask(run, asked, prompts, device) for run in dict.fromkeys(paths.values())}
    runs = {name: tuned[run] for name, run in paths.items()}
    base = generate_answers(*load_model(configs["yours"].base, device), prompts)
    sizes = (len(shipped), len(yours))
    return Trial(str(path), sizes, edits, asked, prompts, base, runs)


def main(config: Config) -> None:
    if config.figure:
        check_picture(config.figure)
    if make_copy(config.pairs):
        print(f"made {config.pairs}, a copy of {SHIPPED}: edit it, one pair a line, and run again")
        return
    trial = try_pairs(config.pairs, config.n, device=config.device)
    print(f"\n{trial.describe()}\n\n{trial.table()}")
    if config.figure:
        save_figure(trial_figure(trial), config.figure)


if __name__ == "__main__":
    run_program(main, Config())
