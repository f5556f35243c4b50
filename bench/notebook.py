"""Run both notebooks and keep their outputs tidy, for committing: `python -m bench.notebook`.

First comes a run of a few steps, so that there is an earlier run to compare with. The outputs show
the edit that the notebook makes itself, so there must be no dpo/my_pairs.json.
"""

from pathlib import Path

from dpo.notebook import run_notebook
from dpo.train import Config, train

FOLDER = Path("dpo")
NOTEBOOKS = ("dpo.ipynb", "explore.ipynb")  # the second one loads what the first one writes


def main() -> None:
    if (FOLDER / "my_pairs.json").exists():
        raise SystemExit("dpo/my_pairs.json holds pairs of yours: move it away for this run")
    train(Config(steps=8, eval_every=0))
    for name in NOTEBOOKS:
        run_notebook(FOLDER / name)


if __name__ == "__main__":
    main()
