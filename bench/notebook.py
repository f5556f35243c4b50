"""Run both notebooks and keep their outputs tidy, for committing: `python -m bench.notebook`.

Like `jupyter execute --inplace`, but without timestamps, and what a cell prints is one output.
First comes a run on 320 pairs, so that there is an earlier run to compare with.
"""

from pathlib import Path

import nbformat
from nbclient import NotebookClient

from dpo.train import Config, train

FOLDER = Path(__file__).parents[1] / "dpo"
NOTEBOOKS = ("dpo.ipynb", "explore.ipynb")  # the second one loads what the first one writes


def run_notebook(path: Path) -> None:
    """Run all cells in the notebook's folder and write them back with their outputs."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    resources = {"metadata": {"path": str(path.parent)}}
    NotebookClient(
        notebook, coalesce_streams=True, record_timing=False, resources=resources
    ).execute()
    nbformat.write(notebook, path)
    print(f"ran {len(notebook.cells)} cells and wrote {path.name}")


def main() -> None:
    train(Config(max_pairs=320, eval_every=0))
    for name in NOTEBOOKS:
        run_notebook(FOLDER / name)


if __name__ == "__main__":
    main()
