"""From replies to numbers: rates with 95 % intervals, by group and form, and their tables."""

import math
import statistics

from dpo.evaluation.replies import Reply, groups_of
from sft.arithmetic import FORMS, SIDES

SHARES = ("answer", "reason", "refused", "ended")  # shown beside the right answers
SHOWN = 5  # examples of each kind


def wilson(count: float, n: int) -> tuple[float, float]:
    """95 % interval of a rate (Wilson 1927): honest at 0 % and 100 %, too.

    With p = count / n: (p + z² / 2n ± z √(p (1 - p) / n + z² / 4n²)) / (1 + z² / n).
    """
    if n == 0:
        return 0.0, 1.0
    z = 1.959964  # 97.5 % of a normal distribution lie below
    # Numerator and denominator times n, so that nothing is divided by a small number.
    centre = (count + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(count * (n - count) / n + z * z / 4)
    return max(0.0, centre - half), min(1.0, centre + half)


def rate(count: float, n: int) -> dict[str, float]:
    """A share with its 95 % interval, as it stands in tables and JSON files."""
    low, high = wilson(count, n)
    return {"n": n, "count": count, "rate": count / n if n else 0.0, "low": low, "high": high}


def summarise(replies: list[Reply]) -> dict:
    """n, the rates that can be counted in replies, and their median length in characters."""
    n = len(replies)
    shares = {}
    for outcome in ("right", "refused"):
        shares[outcome] = rate(sum(r.outcome == outcome for r in replies), n)
    for verdict in ("answer", "reason", "ended"):
        shares[verdict] = rate(sum(getattr(r, verdict) for r in replies), n)
    length = statistics.median(len(r.text) for r in replies) if replies else 0
    return {"n": n, **shares, "median_length": length}


def evaluate(replies: list[Reply], split: str = "test") -> dict:
    """The figures of every group and form; of the held-out families, those of `split` only.

    The groups `.../factors_from_2` count the products and quotients once more, without those that
    have a factor 0 or 1: these are rules, not facts.
    """
    replies = [r for r in replies if r.question.group in groups_of(split)]
    groups = {}
    for group in groups_of(split):
        members = [r for r in replies if r.question.group == group]
        groups[group] = summarise(members)
        if group.endswith("multiplicative"):
            hard = [r for r in members if not r.question.trivial]
            groups[f"{group}/factors_from_2"] = summarise(hard)
    forms = {}
    for side in (SIDES[split], SIDES["train"]):
        one_side = [r for r in replies if r.question.group.startswith(f"{side}/")]
        for form in FORMS:
            members = [r for r in one_side if r.question.form == form]
            forms[f"{side}/{form}"] = summarise(members)
    about = {"n": len(replies), "split": split, "decoding": "greedy"}
    return about | {"groups": groups, "forms": forms}


def describe_group(group: str) -> str:
    """A group as a reader calls it: `held-out multiplicative, factors from 2`."""
    side, *kind = group.split("/")
    words = [side.replace("_", "-"), *kind[:1]]
    return ", ".join([" ".join(words), *(word.replace("_", " ") for word in kind[1:])])


def percent(share: dict) -> str:
    """A rate with its 95 % interval, `99.97 % (99.83 to 99.99)`; a dash if nothing was asked."""
    if not share["n"]:
        return "-"
    return f"{100 * share['rate']:.2f} % ({100 * share['low']:.2f} to {100 * share['high']:.2f})"


def markdown(rows: list[list[str]]) -> str:
    """A table in Markdown, aligned to read well as plain text, too; the first row is its head."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        f"| {' | '.join(cell.ljust(w) for cell, w in zip(row, widths, strict=True))} |"
        for row in rows
    ]
    lines.insert(1, f"|{'|'.join('-' * (w + 2) for w in widths)}|")
    return "\n".join(lines)


def table(results: dict[str, dict]) -> str:
    """The groups of one or more results of `evaluate`, each under its name, with 95 % intervals."""
    rows = [["questions", "model", "n", "right", *(f"{key}, %" for key in SHARES), "median length"]]
    for group in next(iter(results.values()))["groups"]:
        for name, result in results.items():
            s = result["groups"][group]
            row = [describe_group(group), name, f"{s['n']:,}", percent(s["right"])]
            row += [f"{100 * s[key]['rate']:.2f}" if s["n"] else "-" for key in SHARES]
            rows.append([*row, f"{s['median_length']:g}"])
    return markdown(rows)


def forms_table(result: dict) -> str:
    """Right answers of every form, held-out and seen families apart."""
    sides = (SIDES[result["split"]], SIDES["train"])
    head = ["form"]
    for side in sides:
        head += [f"{describe_group(side)}, n", "right"]
    rows = [head]
    for form in FORMS:
        row = [f"`{form}`"]
        for side in sides:
            s = result["forms"][f"{side}/{form}"]
            row += [f"{s['n']:,}", percent(s["right"])]
        rows.append(row)
    return markdown(rows)


def count_and_examples(name: str, lines: list[str]) -> list[str]:
    """How many there are, and the first few of them."""
    more = [f"  ... and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return [f"{name}: {len(lines)}", *(f"  {line}" for line in lines[:SHOWN]), *more]
