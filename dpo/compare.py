"""Runs beside each other: `python -m dpo.compare RUN RUN ...`; without names, the last two in dpo/.

A table of all of them and, with --figure=FILE, a picture. Of two runs it also says which questions
turned right and which wrong, whether that could be chance, and which pairs and settings differ.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from torch import Tensor

from configurator import run_program
from dpo.evaluation.replies import Reply, answer_questions, families_of, sample_domain
from dpo.evaluation.retention import measure_retention
from dpo.evaluation.tables import (
    count_and_examples,
    counted,
    describe_group,
    evaluate,
    markdown,
    percent,
    sign_test,
)
from dpo.plots.runs import runs_figure
from dpo.plots.style import check_picture, save_figure
from dpo.training.history import History
from dpo.training.run import RUNTIME_SETTINGS
from sft.arithmetic import Question, parse_question
from sft.checkpoint.weights import from_json_tensor, is_plain, load_checkpoint, load_model
from sft.device import best_device
from sft.files import write_json

WATCH_SETTINGS = ("eval_every", "eval_questions")  # settings of how a run is watched
RECORDED = {  # what is shown of a history, by its names in files; "looks" are the evals
    "steps": {"rewards/accuracies"},
    "looks": {"step", "exact/held_out", "kl"},
}
LAST_STEPS = 5  # over which a curve's end is averaged
MOST_EDITED = 200  # questions of changed pairs that are asked at most


@dataclass
class Config:
    """python -m dpo.compare RUN RUN ...: runs of `dpo.train` or the notebook beside each other."""

    runs: tuple[str, ...] = ("dpo/dpo.previous.pt", "dpo/dpo.pt")  # checkpoints or folders of runs
    figure: str = ""  # also draw the runs into this file
    json: str = ""  # also write all figures to this file
    n: int = 100  # questions per group
    seed: int = 1  # of the sample of questions
    split: str = "test"  # held-out families: test, to report; validation, to choose settings by
    device: str = "auto"  # auto, cpu, cuda or mps


@dataclass(frozen=True)
class Run:
    """What `dpo.pt` says about the run that wrote it."""

    settings: dict
    pairs: list[tuple[str, str, str]]  # prompt, chosen, rejected
    history: History


def read_run(path: str | Path) -> Run:
    """Settings, pairs and history of a run.

    ValueError if there is no such file, or it has not all of them: base models are of no run, and a
    file may come from anywhere.
    """
    if not Path(path).exists():
        raise ValueError(
            f"{path}: no such run; name two, as in `python -m dpo.compare runs/one runs/two`, or "
            "train again"
        )
    extras = load_checkpoint(path).extras
    config = extras.get("config")
    if not isinstance(extras.get("pairs"), Tensor) or not isinstance(extras.get("history"), Tensor):
        raise ValueError(
            f"{path} does not say on which pairs it was tuned; train again to compare it"
        )
    # What is printed must not steer the terminal.
    if not is_plain(config) or not all(
        str(text).isprintable() for text in (*config, *config.values())
    ):
        raise ValueError(
            f"{path} has settings that are no plain texts and numbers; train again to compare it"
        )
    pairs = from_json_tensor(extras["pairs"])
    if not isinstance(pairs, list) or not all(map(_is_pair, pairs)):
        raise ValueError(f"{path} has pairs that are no texts; train again to compare it")
    history = _read_history(path, from_json_tensor(extras["history"]))
    return Run(config, [tuple(pair) for pair in pairs], history)


def _read_history(path: str | Path, state: object) -> History:
    """The history, if it has all columns of RECORDED and its numbers can be shown."""
    history = History()
    try:
        history.load_state_dict(state)
        for name, table in history.state_dict().items():
            if name == "looks" and not table:
                continue  # a run without evals
            if not RECORDED[name] <= table.keys():
                raise ValueError
            for column in table.values():
                # NaN is not below, either.
                if not column or not all(abs(float(value)) < 1e9 for value in column):
                    raise ValueError
    except (ValueError, OverflowError):
        raise ValueError(
            f"{path} has a history that cannot be read; train again to compare it"
        ) from None
    return history


def _is_pair(row: object) -> bool:
    return (
        isinstance(row, list)
        and len(row) == 3
        and all(isinstance(text, str) and text.isprintable() for text in row)
    )


def pairs_difference(before: list[tuple], after: list[tuple]) -> tuple[list[tuple], list[tuple]]:
    """The rows that only the earlier list has, and those that only the later one has, in order.

    A row that stands twice counts twice.
    """
    only_before, only_after = Counter(before) - Counter(after), Counter(after) - Counter(before)
    return list(only_before.elements()), list(only_after.elements())


def flipped(
    before: list[Reply], after: list[Reply]
) -> tuple[list[tuple[Reply, Reply]], list[tuple[Reply, Reply]]]:
    """(old, new) replies to the questions that became right, and to those that no longer are."""
    both = list(zip(before, after, strict=True))
    became = [(old, new) for old, new in both if old.outcome != "right" == new.outcome]
    ceased = [(old, new) for old, new in both if old.outcome == "right" != new.outcome]
    return became, ceased


def describe_pairs(before: list[tuple], after: list[tuple]) -> str:
    """Which rows of two lists of pairs differ, in words.

    A row that went and one that came with the same prompt are one row whose answers have changed.
    """
    gone, new = pairs_difference(before, after)
    if not gone and not new:
        return f"Pairs: the same {len(after):,} rows."
    gone_by_prompt: dict[str, list[tuple]] = {}
    for row in gone:
        gone_by_prompt.setdefault(row[0], []).append(row)
    added, edits = [], []
    for row in new:
        prompt, *answers = row
        if not gone_by_prompt.get(prompt):
            added.append(row)
            continue
        _, *old_answers = gone_by_prompt[prompt].pop(0)
        for was, now in zip(old_answers, answers, strict=True):
            if was != now:
                edits.append(f"{prompt}{was} -> {now}")
    removed = [row for rows in gone_by_prompt.values() for row in rows]
    lines = [
        f"Pairs: {len(before):,} rows before, {len(after):,} now.",
        *count_and_examples("changed answers", edits),
    ]
    for name, rows in (("added", added), ("removed", removed)):
        texts = [f"{prompt}{chosen}  not {rejected}" for prompt, chosen, rejected in rows]
        lines += count_and_examples(name, texts)
    return "\n".join(lines)


def describe_answers(
    before: list[Reply], after: list[Reply], names: tuple[str, str] = ("before", "now")
) -> str:
    """Which questions became right and which ceased to be, in words; `names` are of the two."""
    right = [sum(reply.outcome == "right" for reply in replies) for replies in (before, after)]
    counts = ", ".join(f"{n:,} {name}" for n, name in zip(right, names, strict=True))
    lines = [f"Right answers to {len(after):,} questions: {counts}."]
    kinds = ("newly right", "no longer right")
    for name, changes in zip(kinds, flipped(before, after), strict=True):
        texts = [f"{new.question.text}{old.text} -> {new.text}" for old, new in changes]
        lines += count_and_examples(name, texts)
    return "\n".join(lines)


def describe_balance(before: list[Reply], after: list[Reply]) -> str:
    """Whether what turned right outweighs what turned wrong, in words; no words if nothing turned.

    The sign test counts fact families, because the questions of one mostly turn together: a family
    got better if more of its questions turned right than wrong.
    """
    gains: Counter = Counter()
    families = families_of([reply.question for reply in after])
    for family, old, new in zip(families, before, after, strict=True):
        gains[family] += (new.outcome == "right") - (old.outcome == "right")
    better = sum(gain > 0 for gain in gains.values())
    worse = sum(gain < 0 for gain in gains.values())
    if not better and not worse:
        return ""
    return (
        f"Facts: {better:,} better, {worse:,} worse; the chance of so uneven a split by luck is "
        f"{sign_test(better, worse):.2g} (sign test)."
    )


def changed_settings(runs: list[Run]) -> dict[str, list]:
    """The values of every setting that differs between the runs and that results depend on.

    A run from before there was such a setting has a dash.
    """
    left_out = (*RUNTIME_SETTINGS, *WATCH_SETTINGS)
    changed = {}
    for name in dict.fromkeys(name for run in runs for name in run.settings):
        values = [run.settings.get(name, "-") for run in runs]
        if name not in left_out and len(set(values)) > 1:
            changed[name] = values
    return changed


def named(paths: tuple[str, ...]) -> dict[str, Path]:
    """The runs' checkpoints by name: the folder's, or the path where two folders share a name."""
    files = [Path(path) / "dpo.pt" if Path(path).is_dir() else Path(path) for path in paths]
    if len(files) < 2 or len(set(files)) < len(files):
        raise ValueError("name two or more different runs: checkpoints, or folders with a dpo.pt")
    names = [file.parent.name for file in files]
    if len(set(names)) < len(files):
        names = [str(file) for file in files]
    return dict(zip(names, files, strict=True))


def compare(
    files: dict[str, Path], n: int, seed: int, device: str = "auto", split: str = "test"
) -> tuple[dict[str, dict], str, str]:
    """The figures of every run by its name, their table, and what changed between two runs.

    Every run is asked the same n questions a group, of the held-out families those of `split`. Two
    runs are also asked the questions of pairs that only one of them had: these are among the
    examples, but not in the figures.
    """
    runs = {name: read_run(file) for name, file in files.items()}
    first, *_, last = runs.values()
    sample = sample_domain(n, seed, split)
    edited = edited_questions(first, last) if len(runs) == 2 else []
    questions = list(dict.fromkeys(sample + edited))
    results, replies = {}, {}
    for name, run in runs.items():
        model, tokenizer = load_model(files[name], best_device(device))
        replies[name] = answer_questions(model, tokenizer, questions, progress=f"asking {name}")
        results[name] = {
            "settings": run.settings,
            "history": run.history.state_dict(),
            "everyday": measure_retention(model, tokenizer),
            **evaluate(replies[name][: len(sample)], split),
        }
    overview = runs_table(results, changed_settings(list(runs.values())))
    if len(runs) != 2:
        return results, overview, ""
    changes = [
        describe_pairs(first.pairs, last.pairs),
        describe_answers(*replies.values()),
        describe_balance(*(members[: len(sample)] for members in replies.values())),
    ]
    return results, overview, "\n\n".join(filter(None, changes))


def edited_questions(first: Run, last: Run) -> list[Question]:
    """The questions of pairs that only one of two runs has, at most MOST_EDITED."""
    prompts = [row[0] for rows in pairs_difference(first.pairs, last.pairs) for row in rows]
    asked = [parse_question(prompt) for prompt in dict.fromkeys(prompts)]
    return [question for question in asked if question][:MOST_EDITED]


def runs_table(results: dict[str, dict], changed: dict[str, list]) -> str:
    """A row per run: what was set otherwise, and what came of it."""
    first = next(iter(results.values()))
    groups = [group for group in first["groups"] if not group.startswith("seen")]
    asked = [f"{describe_group(group)}, n = {first['groups'][group]['n']:,}" for group in groups]
    rows = [["run", *changed, "pairs ranked right", *asked, "KL to the base, nats", "small talk"]]
    for (name, result), *values in zip(results.items(), *changed.values(), strict=True):
        steps, evals = result["history"]["steps"], result["history"]["looks"]
        settings = [f"{value:g}" if isinstance(value, float) else str(value) for value in values]
        ranked = f"{mean(steps['rewards/accuracies'][-LAST_STEPS:]):.0%}"
        right = [percent(result["groups"][group]["right"]) for group in groups]
        kl = f"{evals['kl'][-1]:.2f}" if evals else "-"
        rows.append([name, *settings, ranked, *right, kl, counted(result["everyday"])])
    return (
        f"{markdown(rows)}\n\nRight: number and reason, greedy; in brackets 95 % intervals, which "
        "know the fact families. Small talk: all of it, with the corpus's own answer."
    )


def main(config: Config) -> None:
    if config.figure:
        check_picture(config.figure)
    about = (config.n, config.seed, config.device, config.split)
    results, overview, changes = compare(named(config.runs), *about)
    print(f"{overview}\n\n{changes}".rstrip())
    if config.json:
        write_json(config.json, results)
    if config.figure:
        save_figure(runs_figure(results), config.figure)


if __name__ == "__main__":
    run_program(main, Config())
