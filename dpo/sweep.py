"""Train over a grid of settings: `python -m dpo.sweep --grid="beta=0.05,0.1,0.5 nll_coef=0,0.2,1"`.

Takes every setting of `dpo.train` as well. Then the runs are compared and drawn. Runs that ended are not repeated, one
that was stopped is gone on with.
"""

import itertools
import sys
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from configurator import SettingError, configure, override
from dpo import train
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
