"""Run both notebooks and keep their outputs tidy, for committing: `python -m bench.notebook`.

First comes a run of a few steps, so that there is an earlier run to compare with.
"""

from pathlib import Path

from dpo.notebook import run_notebook
from dpo.train import Config, train

FOLDER = Path("dpo")
NOTEBOOKS = ("dpo.ipynb", "explore.ipynb")  # the second one loads what the first one writes


def main() -> None:
    train(Config(steps=8, eval_every=0))
    for name in NOTEBOOKS:
        run_notebook(FOLDER / name)


if __name__ == "__main__":
    main()
