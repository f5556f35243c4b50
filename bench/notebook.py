"""Run both notebooks and keep their outputs tidy, for committing: `python -m bench.notebook`.

The outputs show the edit that the notebook makes itself, so there must be no dpo/one_word.json.
Their pictures get 128 colours, which makes them a third of the size.
"""

import base64
import io
from pathlib import Path

import nbformat
from PIL import Image

from dpo.notebook import run_notebook
from sft.files import write_atomically

FOLDER = Path("dpo")
NOTEBOOKS = ("dpo.ipynb", "explore.ipynb")  # the second one loads what the first one writes
COLOURS = 128


def shrink(picture: str) -> str:
    """A PNG in base64 with few colours."""
    image = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB")
    small = io.BytesIO()
    image.quantize(COLOURS).save(small, format="PNG", optimize=True)
    return base64.b64encode(small.getvalue()).decode()


def shrink_pictures(path: Path) -> None:
    """Shrink every picture that the cells of a notebook show."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data:
                data["image/png"] = shrink(data["image/png"])
    write_atomically(path, nbformat.writes(notebook).rstrip("\n").encode() + b"\n")


def main() -> None:
    edited = FOLDER / "one_word.json"
    if edited.exists():
        raise SystemExit(f"{edited} may hold pairs of yours: move it away for this run")
    for name in NOTEBOOKS:
        run_notebook(FOLDER / name)
        shrink_pictures(FOLDER / name)


if __name__ == "__main__":
    main()
