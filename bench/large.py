"""Runs on thousands of pairs: where measurements get their files and their settings."""

from dataclasses import replace
from pathlib import Path

from configurator import override
from dpo import make_pairs
from dpo.train import Config

SETTINGS = Path(__file__).parents[1] / "dpo/settings"


def pairs_file(n: int, negatives: str) -> str:
    """A generated file of pairs, made if it is not there."""
    path = Path(f"runs/pairs_{negatives}_{n}.json")
    if not path.exists():
        make_pairs.main(make_pairs.Config(n=n, negatives=negatives, out=str(path), quiet=True))
    return str(path)


def large_run(**settings) -> Config:
    """The settings for a large file, with some of them replaced."""
    return replace(override(Config(), [str(SETTINGS / "large_file.py")]), **settings)
