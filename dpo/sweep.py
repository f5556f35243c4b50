"""Train over a grid of settings: `python -m dpo.sweep --grid="beta=0.05,0.1,0.5 nll_coef=0,0.2,1"`.

Takes every setting of `dpo.train` as well. Then the runs are compared and drawn. Runs that ended are not repeated, one
that was stopped is gone on with.
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
    """Train what has not been trained in its folder with just these settings, pairs and base.

    The checkpoint of every run, but of those whose loss was not finite: that is said, and the others go on.
    """
    paths = {name: folder / re.sub(r"[^\w.-]", "_", name) / "dpo.pt" for name in runs}
    if len(set(paths.values())) < len(paths):
        raise ValueError(
            f"two of the runs would have the same folder in {folder}: {', '.join(sorted(paths))[:200]}"
        )
    ended = {}
    for number, (name, config) in enumerate(runs.items(), start=1):
        config = replace(config, out=str(paths[name].parent))
        try:
            if not _is_done(paths[name], config):
                print(f"\nrun {number} of {len(runs)}: {name}", flush=True)
                _train_or_go_on(config)
            ended[name] = paths[name]
        except FloatingPointError as error:
            print(f"left out: {name}: {error}")
    return ended


def _train_or_go_on(config: train.Config) -> None:
    try:
        train.train(replace(config, resume=True))
    except ResumeError:  # a run with other settings was stopped in this folder
        train.train(config)


def _is_done(path: Path, config: train.Config) -> bool:
    """Whether the checkpoint is of a run with these settings on these very pairs and this base."""
    try:
        extras = load_checkpoint(path).extras if path.exists() else {}
    except CheckpointError:
        return False
    if not is_plain(extras.get("config")) or result_settings(extras["config"]) != result_settings(
        asdict(config)
    ):
        return False
    files = f"base {file_hash(config.base)}, pairs {file_hash(config.pairs)},"
    return files in str(extras.get("environment"))


@dataclass
class Config(train.Config):
    """python -m dpo.sweep: train over a grid of settings and compare the runs."""

    out: str = "runs/sweep"  # folder for the runs' folders, the figures and the table
    grid: str = "beta=0.05,0.1,0.5 nll_coef=0,0.2,1"  # settings and their values; a run for every combination
    n: int = 300  # questions per group in the comparison


def read_grid(config: Config) -> tuple[dict[str, list], dict[str, train.Config]]:
    """The settings of the grid with their values, and the settings of every run by its name."""
    grid = {}
    for word in config.grid.split():
        name, _, texts = word.partition("=")
        if name in grid or name in ("grid", "n", "out", "resume") or not texts:
            raise SettingError(
                f"grid: {word!r} is not a setting of its own with values, like beta=0.1,0.5"
            )
        grid[name] = [
            getattr(override(train.Config(), [f"--{name}={text}"]), name)
            for text in texts.split(",")
        ]
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
    runs = {
        ", ".join(
            f"{name} {value}" for name, value in zip(grid, values, strict=True)
        ): train.Config(**common | dict(zip(grid, values, strict=True)))
        for values in combinations
    }
    for settings in runs.values():
        train.check(settings)
    return grid, runs


def compare_and_draw(
    paths: dict[str, Path], folder: Path, n: int, device: str = "auto"
) -> dict[str, dict]:
    """Print the table of all runs and draw them into the folder; their figures by name."""
    results, overview, _ = compare(paths, n, seed=1, device=device)
    print(f"\n{overview}")
    save_figure(runs_figure(results), folder / "runs.png")
    write_json(folder / "runs.json", results)
    return results


def main(config: Config) -> None:
    grid, runs = read_grid(config)
    folder = Path(config.out)
    with silenced(config.quiet):
        results = compare_and_draw(train_all(runs, folder), folder, config.n, config.device)
        if len(grid) == 2:
            names, (rows, columns) = tuple(grid), grid.values()
            all_results = [results.get(name) for name in runs]
            table = [
                all_results[start : start + len(columns)]
                for start in range(0, len(runs), len(columns))
            ]
            save_figure(grid_figure(names, (rows, columns), table), folder / "grid.png")


if __name__ == "__main__":
    run_program(main, Config())
