"""Train over a grid of settings: `python -m dpo.sweep --grid="beta=0.05,0.1,0.5 nll_coef=0,0.2,1"`.

Takes every setting of `dpo.train` as well. Then the runs are compared and drawn. Runs that ended are not repeated, one
that was stopped is gone on with.
"""

import itertools
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from configurator import SettingError, override, run_program
from dpo import train
from dpo.compare import compare
from dpo.evaluate import write_json
from dpo.plots import grid_figure, runs_figure, save_figure
from sft.checkpoint import CheckpointError, load_checkpoint

MOST_RUNS = 100


def train_all(runs: dict[str, train.Config], folder: Path) -> dict[str, Path]:
    """Train what has not been trained in its folder with just these settings; the checkpoint of every run."""
    paths = {}
    for number, (name, config) in enumerate(runs.items(), start=1):
        out = folder / "".join(c if c.isalnum() or c in ".-" else "_" for c in name)
        config = replace(config, out=str(out), resume=True)
        paths[name] = out / "dpo.pt"
        if not _is_done(paths[name], config):
            print(f"\nrun {number} of {len(runs)}: {name}", flush=True)
            train.train(config)
    return paths


def _is_done(path: Path, config: train.Config) -> bool:
    try:
        return path.exists() and load_checkpoint(path).extras.get("config") == asdict(config)
    except CheckpointError:
        return False


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
            raise SettingError(f"grid: {word!r} is not a setting of its own with values, like beta=0.1,0.5")
        grid[name] = [getattr(override(train.Config(), [f"--{name}={text}"]), name) for text in texts.split(",")]
    combinations = list(itertools.product(*grid.values()))
    if not grid or len(combinations) > MOST_RUNS or len(set(combinations)) < len(combinations):
        raise SettingError(f"grid: {len(combinations)} runs; 2 to {MOST_RUNS} different ones are meant")
    common = {field.name: getattr(config, field.name) for field in fields(train.Config)}
    runs = {
        ", ".join(f"{name} {value}" for name, value in zip(grid, values, strict=True)): train.Config(
            **common | dict(zip(grid, values, strict=True))
        )
        for values in combinations
    }
    for settings in runs.values():
        train.check(settings)
    return grid, runs


def compare_and_draw(paths: dict[str, Path], picture: Path, n: int = 1200) -> dict[str, dict]:
    """Print the table of all runs, draw them; their figures by name."""
    results, text = compare(paths, n, seed=1)
    print(f"\n{text}")
    save_figure(runs_figure(results), picture)
    write_json(picture.with_suffix(".json"), results)
    return results


def main(config: Config) -> None:
    grid, runs = read_grid(config)
    folder = Path(config.out)
    results = list(compare_and_draw(train_all(runs, folder), folder / "runs.png", config.n).values())
    if len(grid) == 2:
        rows, columns = grid.values()
        table = [results[start : start + len(columns)] for start in range(0, len(results), len(columns))]
        save_figure(grid_figure(tuple(grid), (rows, columns), table), folder / "grid.png")


if __name__ == "__main__":
    run_program(main, Config())
