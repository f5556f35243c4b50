"""From replies to numbers: rates with 95 % intervals, by group and form, and their tables.

Questions of one fact family mostly go right or wrong together, so that ten of them say less than
ten of ten families. `clustered_rate` knows the families; `rate` is for counts that have none.
"""

import math
import statistics
from collections import Counter
from collections.abc import Callable, Hashable, Sequence

from dpo.evaluation.replies import Reply, families_of, groups_of
from sft.arithmetic import FORMS, SIDES

SHARES = ("answer", "reason", "refused", "ended")  # shown beside the right answers
SHOWN = 5  # examples of each kind


def wilson(count: float, n: float) -> tuple[float, float]:
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


def clustered_rate(hits: Sequence[float], families: Sequence[Hashable]) -> dict[str, float]:
    """Like `rate`, of one hit (1) or miss (0) a question, or a part of a hit, with its family.

    Wilson's interval, but with `effective_size` in place of n (Dean and Pagano 2015, Evaluating
    confidence interval methods for binomial proportions in clustered surveys).
    """
    n, count = len(hits), sum(hits)
    if n == 0:
        return rate(0, 0)
    size = effective_size(hits, families)
    low, high = wilson(count * size / n, size)
    return rate(count, n) | {"low": low, "high": high}


def effective_size(hits: Sequence[float], families: Sequence[Hashable]) -> float:
    """How many questions of different families say as much about the rate as these n: n / deff.

    The design effect (Kish 1965) compares the variance between families with that of n independent
    questions: deff = sum of (hits in a family - rate * questions in it)² / (n rate (1 - rate)), at
    least 1. It is known from k families only, those with a hit or those with a miss, whichever are
    fewer; so it is averaged over these k and one more, in which all questions go alike:
    deff = sum of (questions in a family)² / n. At 0 % and 100 % that one is all there is.
    """
    n, p = len(hits), sum(hits) / len(hits)
    questions = Counter(families)
    found = dict.fromkeys(questions, 0.0)  # hits by family
    for hit, family in zip(hits, families, strict=True):
        found[family] += hit
    all_alike = sum(size**2 for size in questions.values()) / n
    if p in (0, 1):
        return n / all_alike
    with_hit = sum(found[family] > 0 for family in questions)
    with_miss = sum(found[family] < size for family, size in questions.items())
    between = sum((found[family] - p * size) ** 2 for family, size in questions.items())
    observed, k = max(1.0, between / (n * p * (1 - p))), min(with_hit, with_miss)
    return n * (k + 1) / (k * observed + all_alike)


def sign_test(one: int, other: int) -> float:
    """Chance that fair coins fall at least as unevenly as these two counts, in either direction.

    That is the exact test of McNemar (1947) for what changed sides.
    """
    n = one + other
    tail = sum(math.comb(n, k) for k in range(min(one, other) + 1)) / 2**n
    return min(1.0, 2 * tail)


def summarise(replies: list[Reply]) -> dict:
    """n, their families, the shares that can be counted, and the median length in characters."""
    families = families_of([reply.question for reply in replies])
    shares = {}
    for outcome in ("right", "refused"):
        shares[outcome] = clustered_rate([r.outcome == outcome for r in replies], families)
    for verdict in ("answer", "reason", "ended"):
        shares[verdict] = clustered_rate([getattr(r, verdict) for r in replies], families)
    length = statistics.median(len(r.text) for r in replies) if replies else 0
    about = {"n": len(replies), "families": len(set(families))}
    return about | shares | {"median_length": length}


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
    """A rate with its 95 % interval, `62 % (54 to 69)`; a dash if nothing was asked."""
    if not share["n"]:
        return "-"
    digits = _decimals(share)
    low, high = (f"{100 * share[end]:.{digits}f}" for end in ("low", "high"))
    return f"{bare_percent(share)} ({low} to {high})"


def bare_percent(share: dict) -> str:
    """A rate without its interval, `62 %`; a dash if nothing was asked."""
    return f"{100 * share['rate']:.{_decimals(share)}f} %" if share["n"] else "-"


def counted(share: dict) -> str:
    """`62 of 100`: for all there is, where an interval would say nothing."""
    return f"{share['count']:,} of {share['n']:,}" if share["n"] else "-"


def _decimals(share: dict) -> int:
    """None; one where a question is no more than a tenth of a percent.

    One more where a rate would else read as 0 % or 100 % and is not.
    """
    digits = int(share["n"] >= 1000)
    reads_as = round(share["rate"], 2 + digits)
    return digits + (reads_as in (0, 1) and share["rate"] != reads_as)


def markdown(rows: list[list[str]]) -> str:
    """A table in Markdown, aligned to read well as plain text, too; the first row is its head."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        f"| {' | '.join(cell.ljust(w) for cell, w in zip(row, widths, strict=True))} |"
        for row in rows
    ]
    lines.insert(1, f"|{'|'.join('-' * (w + 2) for w in widths)}|")
    return "\n".join(lines)


def table(results: dict[str, dict], show: Callable[[dict], str] = percent) -> str:
    """The groups of one or more results of `evaluate`, each under its name.

    The right answers stand with 95 % intervals; `counted` as `show` is for the whole domain.
    """
    rows = [["questions", "model", "n", "facts", "right", *SHARES, "length"]]
    for group in next(iter(results.values()))["groups"]:
        for name, result in results.items():
            s = result["groups"][group]
            row = [describe_group(group), name, f"{s['n']:,}", f"{s['families']:,}"]
            row += [show(s["right"]), *(bare_percent(s[key]) for key in SHARES)]
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
