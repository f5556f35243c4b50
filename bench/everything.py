"""Make every result of bench/results again: `python -m bench.everything`.

The cheapest come first. What is up to date is not measured again, so that a call that was stopped
goes on where it was: only the measurement that ran is lost. Then `python -m bench.tables` writes
the pages.
"""

from dataclasses import dataclass

from bench.measurements import MEASUREMENTS
from bench.results import Measurement
from configurator import SettingError, run_program
from dpo.evaluation.tables import markdown
from sft.progress import Bar


@dataclass
class Config:
    """python -m bench.everything: measure what is not there, or is of another base or code."""

    only: str = ""  # names of measurements, with commas between them; empty: all
    list: bool = False  # measure nothing: say what is out of date, and how long each takes


def choose(names: str) -> list[Measurement]:
    """The measurements of these names, all if none is given; the cheapest first."""
    known = {one.name: one for one in MEASUREMENTS}
    wanted = names.split(",") if names else list(known)
    if unknown := set(wanted) - known.keys():
        raise SettingError(
            f"no measurement is called {min(unknown)!r}; there are: {', '.join(known)}"
        )
    return sorted((known[name] for name in wanted), key=lambda one: one.expected_seconds)


def overview(measurements: list[Measurement]) -> str:
    """A row for each: its minutes, last time or about, and why it is out of date."""
    rows = [["measurement", "minutes", "state"]]
    for one in measurements:
        state = one.outdated() or "up to date"
        rows.append([one.name, f"{one.expected_seconds / 60:.1f}", state])
    return markdown(rows)


def measure_all(measurements: list[Measurement]) -> list[str]:
    """Measure them one after the other; a line for each that failed, after which the next goes on.

    The bar counts their expected seconds.
    """
    failed = []
    with Bar(round(sum(one.expected_seconds for one in measurements)), "measuring", "s") as bar:
        for one in measurements:
            expected = one.expected_seconds
            bar.show(now=one.name)
            bar.refresh()
            try:
                one.run()
            except Exception as error:
                failed.append(f"{one.name}: {type(error).__name__}: {error}")
            bar.update(round(expected))
    return failed


def main(config: Config) -> None:
    chosen = choose(config.only)
    if config.list:
        print(overview(chosen))
        return
    outdated = [one for one in chosen if one.outdated()]
    print(f"{len(chosen) - len(outdated)} of {len(chosen)} measurements are up to date")
    if failed := measure_all(outdated):
        raise ValueError("not measured: " + "; ".join(failed))


if __name__ == "__main__":
    run_program(main, Config())
