"""Train over a grid of settings: `python -m dpo.sweep --grid="beta=0.05,0.1,0.5 nll_coef=0,0.2,1"`.

Takes every setting of `dpo.train` as well. At the end the runs are compared and drawn: by
validation, since settings are chosen here. A run that has ended is not repeated, and one that was
stopped is resumed.
"""

import itertools
import re
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from configurator import SettingError, override, run_program
from dpo import train
from dpo.compare import compare
from dpo.plots.runs import grid_figure, runs_figure
from dpo.plots.style import save_figure
from dpo.training.provenance import file_hash
from dpo.training.run import result_settings
from sft.checkpoint.archive import CheckpointError
from sft.checkpoint.resume import ResumeError
from sft.checkpoint.weights import is_plain, load_checkpoint
from sft.files import write_json
from sft.progress import silenced

MOST_RUNS = 100


def train_all(runs: dict[str, train.Config], folder: Path) -> dict[str, Path]:
    """Train every run in a folder of its own, unless it was trained there already.

    That is so if settings, pairs and base are just these. The checkpoint of every run; one whose
    loss was not finite is left out, and the others go on.
    """
    # A run's name is that of its folder, with _ for all that a file's name should not have. Windows
    # drops a full stop at its end, and takes capitals for small letters, as macOS does.
    paths = {name: folder / re.sub(r"[^\w.-]|\.$", "_", name) / "dpo.pt" for name in runs}
    if len({str(path).casefold() for path in paths.values()}) < len(paths):
        names = ", ".join(sorted(paths))[:200]
        raise ValueError(f"two of the runs would have the same folder in {folder}: {names}")
    ended = {}
    for number, (name, config) in enumerate(runs.items(), start=1):
        config = replace(config, out=str(paths[name].parent))
        try:
            if not _is_done(paths[name], config):
                print(f"\nrun {number} of {len(runs)}: {name}", flush=True)
                _train_or_resume(config)
            ended[name] = paths[name]
        except FloatingPointError as error:
            print(f"left out: {name}: {error}")
    return ended


def _train_or_resume(config: train.Config) -> None:
    """Go on with the run that was stopped in this folder, if it is this one."""
    try:
        train.train(replace(config, resume=True))
    except ResumeError:  # it had other settings
        train.train(config)


def _is_done(path: Path, config: train.Config) -> bool:
    """Whether the checkpoint is of a run with these settings on these very pairs and this base."""
    try:
        extras = load_checkpoint(path).extras if path.exists() else {}
    except CheckpointError:
        return False
    settings = extras.get("config")
    if not is_plain(settings) or result_settings(settings) != result_settings(asdict(config)):
        return False
    files = f"base {file_hash(config.base)}, pairs {file_hash(config.pairs)},"
    return files in str(extras.get("environment"))


@dataclass
class Config(train.Config):
    """python -m dpo.sweep: train over a grid of settings and compare the runs."""

    out: str = "runs/sweep"  # folder for the runs' folders, the figures and the table
    grid: str = "beta=0.05,0.1,0.5 nll_coef=0,0.2,1"  # values of settings; all combinations are run
    n: int = 300  # questions per group in the comparison


def read_grid(config: Config) -> tuple[dict[str, list], dict[str, train.Config]]:
    """The settings of the grid with their values, and all settings of every run by its name.

    A run's name tells its place in the grid: `beta 0.1, nll_coef 0.2`.
    """
    grid = _read_axes(config.grid)
    combinations = list(itertools.product(*grid.values()))
    if not 2 <= len(combinations) <= MOST_RUNS or len(set(combinations)) < len(combinations):
        raise SettingError(
            f"grid: {len(combinations)} runs; 2 to {MOST_RUNS} different ones are meant"
        )
    if config.n < 1 or config.metrics:
        raise SettingError(
            "n must be at least 1, and metrics empty: every run would write the same file"
        )
    common = {field.name: getattr(config, field.name) for field in fields(train.Config)}
    runs = {}
    for values in combinations:
        own = dict(zip(grid, values, strict=True))
        name = ", ".join(f"{setting} {value}" for setting, value in own.items())
        runs[name] = train.Config(**common | own)
    for settings in runs.values():
        train.check(settings)
    return grid, runs


def _read_axes(text: str) -> dict[str, list]:
    """`beta=0.1,0.5 epochs=1,2` as {"beta": [0.1, 0.5], "epochs": [1, 2]}."""
    grid = {}
    for word in text.split():
        name, _, texts = word.partition("=")
        if name in grid or name in ("grid", "n", "out", "resume") or not texts:
            raise SettingError(
                f"grid: {word!r} is not a setting of its own with values, like beta=0.1,0.5"
            )
        # Read as on a command line, so that a value gets its type or is refused.
        settings = [override(train.Config(), [f"--{name}={value}"]) for value in texts.split(",")]
        grid[name] = [getattr(one, name) for one in settings]
    return grid


def compare_and_draw(
    paths: dict[str, Path], folder: Path, n: int, device: str = "auto", split: str = "test"
) -> dict[str, dict]:
    """Print the table of all runs and draw them into the folder; their figures by name."""
    results, overview, _ = compare(paths, n, seed=1, device=device, split=split)
    print(f"\n{overview}")
    write_json(folder / "runs.json", results)
    save_figure(runs_figure(results), folder / "runs.png")
    return results


def main(config: Config) -> None:
    grid, runs = read_grid(config)
    folder = Path(config.out)
    with silenced(config.quiet):
        ended = train_all(runs, folder)
        results = compare_and_draw(ended, folder, config.n, config.device, "validation")
        if len(grid) == 2:
            rows, columns = grid.values()
            # The runs are in the order of itertools.product: row by row.
            row_by_row = [results.get(name) for name in runs]
            starts = range(0, len(runs), len(columns))
            table = [row_by_row[start : start + len(columns)] for start in starts]
            save_figure(grid_figure(tuple(grid), (rows, columns), table), folder / "grid.png")


if __name__ == "__main__":
    run_program(main, Config())
