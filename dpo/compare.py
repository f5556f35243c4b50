"""Runs beside each other: `python -m dpo.compare RUN RUN ...`; without names, the last two in dpo/.

A table of all of them and, with --figure=FILE, a picture. Of two runs also in words: which questions turned right and
which wrong, which pairs and settings differ.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from torch import Tensor

from configurator import run_program
from dpo.arithmetic import parse_question
from dpo.evaluate import Reply, answer_questions, evaluate, in_words, markdown, percent, rate, sample_domain, write_json
from dpo.history import History
from dpo.plots import check_picture, runs_figure, save_figure
from dpo.train import PASSING
from dpo.train import Config as Training
from model import GPT
from sft.answers import answer_prompts
from sft.checkpoint import is_plain, load_checkpoint, load_model, unpack
from sft.corpus import everyday_lines
from sft.device import best_device
from sft.tokenizer import Tokenizer, load_tokenizer

SHOWN = 5  # examples of each kind
LOOKING = ("eval_every", "eval_questions")  # settings of how a run is watched
RECORDED = {"steps": {"rewards/accuracies"}, "looks": {"step", "exact/held_out", "kl"}}  # what is shown of a history
LAST_STEPS = 5  # over which a curve's end is averaged
MOST_EDITED = 200  # questions of changed pairs that are asked at most


@dataclass
class Config:
    """python -m dpo.compare RUN RUN ...: runs of `dpo.train` or of the notebook, beside each other."""

    runs: tuple[str, ...] = ("dpo/dpo.previous.pt", "dpo/dpo.pt")  # checkpoints or folders of runs, the earliest first
    figure: str = ""  # also draw the runs into this file
    json: str = ""  # also write all figures to this file
    n: int = 100  # questions per group
    seed: int = 1  # of the sample of questions
    device: str = "auto"  # auto, cpu, cuda or mps


@dataclass(frozen=True)
class Run:
    """What `dpo.pt` says about the run that wrote it."""

    settings: dict
    pairs: list[tuple[str, str, str]]  # prompt, chosen, rejected
    history: History


def read_run(path: str | Path) -> Run:
    """Settings, pairs and history of a run; ValueError if there is none, or the checkpoint is of no training run."""
    if not Path(path).exists():
        raise ValueError(
            f"{path}: no such run; name two, as in `python -m dpo.compare runs/one runs/two`, or train again"
        )
    extras = load_checkpoint(path).extras
    config = extras.get("config")
    if not isinstance(extras.get("pairs"), Tensor) or not isinstance(extras.get("history"), Tensor):
        raise ValueError(f"{path} does not say on which pairs it was tuned; train again to compare it")
    if not is_plain(config) or not all(str(text).isprintable() for text in (*config, *config.values())):
        raise ValueError(f"{path} has settings that are no plain texts and numbers; train again to compare it")
    pairs = unpack(extras["pairs"])
    if not isinstance(pairs, list) or not all(map(_is_pair, pairs)):
        raise ValueError(f"{path} has pairs that are no texts; train again to compare it")
    return Run(config, [tuple(pair) for pair in pairs], _read_history(path, unpack(extras["history"])))


def _read_history(path: str | Path, state: object) -> History:
    history = History()
    try:
        history.load_state_dict(state)
        for name, table in history.state_dict().items():
            whole = RECORDED[name] <= table.keys() and min(map(len, table.values())) > 0
            if not (whole or (name == "looks" and not table)):
                raise ValueError
            if not all(abs(float(value)) < 1e9 for column in table.values() for value in column):
                raise ValueError
    except (ValueError, OverflowError):
        raise ValueError(f"{path} has a history that cannot be read; train again to compare it") from None
    return history


def _is_pair(row: object) -> bool:
    return isinstance(row, list) and len(row) == 3 and all(isinstance(text, str) and text.isprintable() for text in row)


def pairs_difference(before: list[tuple], after: list[tuple]) -> tuple[list[tuple], list[tuple]]:
    """The rows that only the earlier and that only the later list has, in order; what stands twice counts twice."""
    only_before, only_after = Counter(before) - Counter(after), Counter(after) - Counter(before)
    return list(only_before.elements()), list(only_after.elements())


def turned(before: list[Reply], after: list[Reply]) -> tuple[list[tuple[Reply, Reply]], list[tuple[Reply, Reply]]]:
    """(old, new) replies to the questions that became right, and to those that no longer are."""
    both = list(zip(before, after, strict=True))
    became = [(old, new) for old, new in both if old.outcome != "right" == new.outcome]
    ceased = [(old, new) for old, new in both if old.outcome == "right" != new.outcome]
    return became, ceased


def _counted(name: str, lines: list[str]) -> list[str]:
    """How many there are, and the first few of them."""
    more = [f"  ... and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return [f"{name}: {len(lines)}", *(f"  {line}" for line in lines[:SHOWN]), *more]


def describe_pairs(before: list[tuple], after: list[tuple]) -> str:
    """The row-level difference of two lists of pairs, in words; another answer to a question is a changed row."""
    gone, new = pairs_difference(before, after)
    if not gone and not new:
        return f"Pairs: the same {len(after):,} rows."
    rows_of: dict[str, list[tuple]] = {}
    for row in gone:
        rows_of.setdefault(row[0], []).append(row)
    added, edits = [], []
    for row in new:
        if not rows_of.get(row[0]):
            added.append(row)
            continue
        old = rows_of[row[0]].pop(0)
        edits += [f"{row[0]}{was} -> {now}" for was, now in zip(old[1:], row[1:], strict=True) if was != now]
    removed = [row for rows in rows_of.values() for row in rows]
    lines = [f"Pairs: {len(before):,} rows before, {len(after):,} now.", *_counted("changed answers", edits)]
    for name, rows in (("added", added), ("removed", removed)):
        lines += _counted(name, [f"{prompt}{chosen}  not {rejected}" for prompt, chosen, rejected in rows])
    return "\n".join(lines)


def describe_answers(before: list[Reply], after: list[Reply]) -> str:
    """Which questions turned right and which wrong, in words."""
    right = [sum(reply.outcome == "right" for reply in replies) for replies in (before, after)]
    lines = [f"Right answers to {len(after):,} questions: {right[0]:,} before, {right[1]:,} now."]
    for name, changes in zip(("turned right", "turned wrong"), turned(before, after), strict=True):
        lines += _counted(name, [f"{new.question.text}{old.text} -> {new.text}" for old, new in changes])
    return "\n".join(lines)


def changed_settings(runs: list[Run]) -> dict[str, list]:
    """Every setting that a result depends on and that is not the same in all runs, with its value in each.

    A run from before there was a setting has its default.
    """
    names = {name: None for run in runs for name in run.settings if name not in (*PASSING, *LOOKING)}
    values = {name: [run.settings.get(name, getattr(Training, name, "-")) for run in runs] for name in names}
    return {name: column for name, column in values.items() if len(set(column)) > 1}


def named(paths: tuple[str, ...]) -> dict[str, Path]:
    """The runs' checkpoints by names as short as can be: those of their folders, unless these are the same."""
    files = [Path(path) / "dpo.pt" if Path(path).is_dir() else Path(path) for path in paths]
    if len(files) < 2 or len(set(files)) < len(files):
        raise ValueError("name two or more different runs: checkpoints, or folders with a dpo.pt")
    folders = [file.parent.name for file in files]
    return dict(zip(folders if len(set(folders)) == len(files) else map(str, files), files, strict=True))


def right_and_kept(model: GPT, tokenizer: Tokenizer, questions: list, progress: str = "") -> tuple[list[Reply], dict]:
    """Replies to the questions, and the share of everyday questions that get the corpus's own answer."""
    lines = everyday_lines()
    replies = answer_questions(model, tokenizer, questions, progress)
    talk = answer_prompts(model, tokenizer, [prompt for prompt, _ in lines], guesses=[answer for _, answer in lines])
    return replies, rate(sum(said == answer for said, (_, answer) in zip(talk, lines, strict=True)), len(lines))


def compare(files: dict[str, Path], n: int, seed: int, device: str = "auto") -> tuple[dict[str, dict], str, str]:
    """The figures of every run by its name, their table, and, of two runs, what changed in words."""
    runs = {name: read_run(file) for name, file in files.items()}
    first, *_, last = runs.values()
    edited = [row[0] for rows in pairs_difference(first.pairs, last.pairs) for row in rows] if len(runs) == 2 else []
    questions = sample_domain(n, seed)
    sampled = len(questions)
    questions += [q for prompt in dict.fromkeys(edited) if (q := parse_question(prompt))][:MOST_EDITED]
    questions = list(dict.fromkeys(questions))
    tokenizer, results, replies = load_tokenizer(), {}, {}
    for name, run in runs.items():
        model = load_model(files[name], best_device(device), len(tokenizer))
        replies[name], kept = right_and_kept(model, tokenizer, questions, progress=f"asking {name}")
        results[name] = {
            "settings": run.settings, "history": run.history.state_dict(), "everyday": kept,
            **evaluate(replies[name][:sampled]),
        }  # fmt: skip
    overview, changes = runs_table(results, changed_settings(list(runs.values()))), ""
    if len(runs) == 2:
        changes = f"{describe_pairs(first.pairs, last.pairs)}\n\n{describe_answers(*replies.values())}"
    return results, overview, changes


def runs_table(results: dict[str, dict], changed: dict[str, list]) -> str:
    """A row per run: what was set otherwise, and what came of it."""
    first = next(iter(results.values()))
    groups = [group for group in first["groups"] if group.startswith("held_out")]
    asked = [f"{in_words(group)}, n = {first['groups'][group]['n']:,}" for group in groups]
    talk = f"small talk kept, n = {first['everyday']['n']}"
    rows = [["run", *changed, "pairs ranked right", *asked, "KL to the base, nats", talk]]
    for (name, result), *values in zip(results.items(), *changed.values(), strict=True):
        steps, looks = result["history"]["steps"], result["history"]["looks"]
        settings = [f"{value:g}" if isinstance(value, float) else str(value) for value in values]
        ranked = f"{mean(steps['rewards/accuracies'][-LAST_STEPS:]):.0%}"
        right = [percent(result["groups"][group]["right"]) for group in groups]
        kl = f"{looks['kl'][-1]:.2f}" if looks else "-"
        rows.append([name, *settings, ranked, *right, kl, percent(result["everyday"])])
    return f"{markdown(rows)}\n\nRight: number and reason, greedy; 95 % intervals."


def describe_small_talk(before: GPT, after: GPT, tokenizer: Tokenizer) -> str:
    """What became of the everyday questions of the base's corpus: same answers, changed ones, examples."""
    lines = everyday_lines()
    prompts = [prompt for prompt, _ in lines]
    old, new = (answer_prompts(model, tokenizer, prompts, guesses=[a for _, a in lines]) for model in (before, after))
    right = [answer for _, answer in lines]

    def agree(one: list[str], other: list[str]) -> str:
        return percent(rate(sum(a == b for a, b in zip(one, other, strict=True)), len(lines)))

    changed = [f"{p}{a} -> {b}" for p, a, b in zip(prompts, old, new, strict=True) if a != b]
    return "\n".join(
        [
            f"{len(lines)} everyday questions: {agree(old, new)} answered as before.",
            f"With the corpus's own answer: {agree(old, right)} before, {agree(new, right)} after.",
            *_counted("answered otherwise", changed),
        ]
    )


def main(config: Config) -> None:
    if config.figure:
        check_picture(config.figure)
    results, overview, changes = compare(named(config.runs), config.n, config.seed, config.device)
    print(f"{overview}\n\n{changes}".rstrip())
    if config.figure:
        save_figure(runs_figure(results), config.figure)
    if config.json:
        write_json(config.json, results)


if __name__ == "__main__":
    run_program(main, Config())
