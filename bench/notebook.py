"""Run the notebook and keep its outputs tidy, for committing: `python -m bench.notebook`.

Like `jupyter execute --inplace`, but of each progress bar only the last state is kept, and no timestamps. First comes
a run on 320 pairs, so that the notebook has an earlier run to compare with.
"""

from pathlib import Path

import nbformat
from nbclient import NotebookClient

from dpo.train import Config, train

NOTEBOOK = Path(__file__).parents[1] / "dpo/dpo.ipynb"


def main() -> None:
    train(Config(max_pairs=320, eval_every=0))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    resources = {"metadata": {"path": str(NOTEBOOK.parent)}}
    NotebookClient(
        notebook, coalesce_streams=True, record_timing=False, resources=resources
    ).execute()
    nbformat.write(notebook, NOTEBOOK)
    print(f"ran {len(notebook.cells)} cells and wrote {NOTEBOOK.name}")


if __name__ == "__main__":
    main()
