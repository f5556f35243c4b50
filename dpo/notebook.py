"""Run a notebook and say meanwhile what it does: `python -m dpo.notebook` runs dpo/dpo.ipynb.

The outputs go into the notebook; if a cell fails, or after Ctrl-C, those of the cells that have
run. `--notebook=dpo/explore.ipynb` runs the other one, `--out=FILE` leaves the notebook as it is.
"""

import asyncio
import re
import shutil
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbformat import NotebookNode

from configurator import run_program
from sft.files import check_folder, open_plain, write_atomically
from sft.progress import silenced

LARGEST_NOTEBOOK = 100_000_000  # bytes
ROOM = 5_000_000  # bytes to be free where the notebook is written; ours take less than a third
REDRAWN = 0.25  # seconds between two drawings of the line that says what runs
LONGEST = 200  # characters of a cell or of an error that a message quotes
NEXT = """\
Next:
  jupyter lab {}   # read it, with its figures
  python -m dpo.evaluate --ask="17+19=?"   # ask the tuned model yourself"""


@dataclass
class Config:
    """python -m dpo.notebook: run a notebook from top to bottom and keep its outputs."""

    notebook: str = "dpo/dpo.ipynb"  # the notebook to run, in its own folder
    out: str = ""  # file for the notebook with its outputs; empty: the notebook itself
    quiet: bool = False  # print nothing but errors


class NotebookError(ValueError):
    """A notebook that cannot be read or did not come to its end; the message says where and why."""


def read_notebook(path: Path) -> NotebookNode:
    """The notebook, checked, without the numbers and times of an earlier run; or NotebookError."""
    remedy = "name a notebook, as in --notebook=dpo/dpo.ipynb"
    with open_plain(path, LARGEST_NOTEBOOK, NotebookError, remedy) as file:
        content = file.read()
    try:
        notebook = nbformat.reads(content.decode(), as_version=4)
        nbformat.validate(notebook)
    except Exception:  # nbformat raises whatever it stumbles over
        raise NotebookError(f"{path} is no notebook, or a damaged one; {remedy}") from None
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.execution_count = None
    return notebook


def find_steps(cells: list[NotebookNode], first: str) -> list[str]:
    """For each cell the last heading of level 1 to 3 up to it; `first` where there is none yet."""
    steps, step = [], first
    for cell in cells:
        if cell.cell_type == "markdown":
            text = re.sub(r"(?ms)^```.*?^```", "", cell.source)  # in code, # begins a comment
            step = [step, *re.findall(r"(?m)^#{1,3} +(.+)", text)][-1]
        steps.append(step)
    return steps


def last_line(text: str) -> str:
    """The last line that is not blank, without colours and whatever else steers a terminal.

    A bar that is drawn again and again behind carriage returns counts as lines.
    """
    text = re.sub(r"\x1b\[[\d;]*[A-Za-z]", "", text)
    lines = [line.strip() for line in re.split(r"[\r\n]", text) if line.strip()]
    return "".join(letter if letter.isprintable() else " " for letter in (lines or [""])[-1])


def shown_text(content: dict) -> str:
    """The text in a message of the kernel; "" for figures, tables and what shows nothing.

    A figure has a text, too, but also a picture.
    """
    data = content.get("data", {})
    return data["text/plain"] if data.keys() == {"text/plain"} else content.get("text", "")


def fit(step: str, rest: str, columns: int) -> str:
    """Both in one line of so many columns.

    Where that is too narrow, the bar in `rest` loses its blocks, then the step all but its number.
    """
    if len(step + rest) > columns:
        rest = re.sub(r"(?<=%)\|.*?\|", "", rest)
    if len(step + rest) > columns:
        step = step.partition(":")[0]
    return (step + rest)[:columns].ljust(columns)


@dataclass
class Progress:
    """Which step and cell run: a line for every step and, in a terminal, one line that changes.

    That one ends with a carriage return, so that the next text takes its place.
    """

    cells: int  # that are run
    step: str = ""
    cell: int = 0  # number of the running one, from 1
    code: str = ""  # its first line
    text: str = ""  # the last line that it has shown
    step_started: float = 0.0  # seconds, by the clock of `time.monotonic`
    started: float = field(default_factory=time.monotonic)

    def begin_cell(self, step: str, source: str) -> None:
        if step != self.step:
            self.end_step()
            self.step, self.step_started = step, time.monotonic()
        self.cell, self.text = self.cell + 1, ""
        self.code = source.strip().partition("\n")[0][:LONGEST]

    def end_step(self) -> None:
        if self.step:
            self.say(f"{self.step}  {describe_seconds(self.step_started)}")

    def say(self, line: str) -> None:
        self.clear()
        print(line, flush=True)

    def clear(self) -> None:
        if sys.stdout.isatty():
            print(" " * line_width(), end="\r", flush=True)

    def draw(self) -> None:
        seconds = time.monotonic() - self.step_started
        rest = f"  cell {self.cell} of {self.cells}  {seconds:.0f} s  {self.text}"
        line = fit(self.step, rest, line_width())
        encoding = sys.stdout.encoding  # a terminal may lack the blocks of a bar
        print(line.encode(encoding, "replace").decode(encoding), end="\r", flush=True)

    async def keep_drawing(self) -> None:
        while sys.stdout.isatty():
            if self.cell:
                self.draw()
            await asyncio.sleep(REDRAWN)


def line_width() -> int:
    """Columns of the terminal but one: a line that fills all of them would begin a new one."""
    return shutil.get_terminal_size().columns - 1


def describe_seconds(since: float) -> str:
    seconds = time.monotonic() - since
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"


class ThisPython(AsyncKernelManager):
    """Starts a kernel of the Python that runs this program, whatever kernel a notebook names.

    That one may belong to another environment, which lacks the packages or has others.
    """

    @property
    def kernel_spec(self) -> KernelSpec:
        return KernelSpec(**get_kernel_dict())


class Client(NotebookClient):
    """Runs the cells of a notebook in a folder, and tells `progress` what they show."""

    def __init__(self, notebook: NotebookNode, folder: Path, progress: Progress):
        super().__init__(
            notebook,
            kernel_manager_class=ThisPython,
            kernel_name="python3",
            resources={"metadata": {"path": str(folder)}},
            coalesce_streams=True,  # what a cell prints is one output
            record_timing=False,
            # Or each kernel warns that it is not encrypted; it is on this machine only.
            extra_arguments=["--log-level=ERROR"],
        )
        self.progress = progress

    def process_message(
        self, msg: dict, cell: NotebookNode, cell_index: int
    ) -> NotebookNode | None:
        self.progress.text = last_line(shown_text(msg["content"])) or self.progress.text
        return super().process_message(msg, cell, cell_index)


@asynccontextmanager
async def running_kernel(client: Client) -> AsyncIterator[None]:
    """Inside the block the client has a kernel; behind it there is none, whatever happens.

    The client's own `async_setup_kernel` would answer Ctrl-C with the kernel's death.
    """
    client.create_kernel_manager()
    try:
        await client.async_start_new_kernel()
        await client.async_start_new_kernel_client()
        yield
    finally:
        if client.kc:
            client.kc.stop_channels()
        if client.km and client.km.has_kernel:  # else it did not start, and nothing is left of it
            await client.km.shutdown_kernel()


async def run_cells(client: Client, steps: list[str]) -> None:
    """Run all cells; after Ctrl-C no other one is begun."""
    drawing = asyncio.create_task(client.progress.keep_drawing())
    async with running_kernel(client):
        information = await client.async_wait_for_reply(client.kc.kernel_info())
        client.nb.metadata.language_info = information["content"]["language_info"]
        for number, (cell, step) in enumerate(zip(client.nb.cells, steps, strict=True)):
            if is_run(cell):
                client.progress.begin_cell(step, cell.source)
                await run_cell(client, cell, number)
        client.progress.end_step()
        drawing.cancel()


async def run_cell(client: Client, cell: NotebookNode, number: int) -> None:
    """Run one cell; after Ctrl-C interrupt it, and wait until it has ended in its own way.

    A training, for instance, first saves its state.
    """
    running = asyncio.ensure_future(client.async_execute_cell(cell, number))
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:  # so asyncio.run tells of the first Ctrl-C; a second one ends it
        client.progress.say("Stopping the cell. Press Ctrl-C again if it does not end.")
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda *_: None)  # of what a second one leaves half done
        await client.km.interrupt_kernel()
        with suppress(CellExecutionError, DeadKernelError):
            await running
        raise


def is_run(cell: NotebookNode) -> bool:
    return cell.cell_type == "code" and bool(cell.source.strip())


def run_notebook(path: Path, out: Path | None = None) -> NotebookNode:
    """Run all cells in the notebook's folder and write it with their outputs, to `out` if given.

    If a cell fails, which raises NotebookError, or after Ctrl-C, it is written as well: cells that
    have not run keep their outputs, but have no number. There are no timestamps in it.
    """
    out = out or path
    notebook = read_notebook(path)
    check_folder(out.parent, ROOM)
    progress = Progress(cells=sum(map(is_run, notebook.cells)))
    progress.say(f"Running {path}, {progress.cells} cells")
    client = Client(notebook, path.parent.resolve(), progress)
    try:
        asyncio.run(run_cells(client, find_steps(notebook.cells, path.name)))
    except (CellExecutionError, RuntimeError) as error:
        raise NotebookError(f"{describe_failure(error)}, {describe_end(progress, out)}") from None
    except KeyboardInterrupt:
        progress.say(f"Stopped {describe_end(progress, out)}")
        raise
    finally:
        progress.clear()
        if progress.cell:
            write_atomically(out, nbformat.writes(notebook).rstrip("\n").encode() + b"\n")
    print(f"Ran {progress.cells} cells in {describe_seconds(progress.started)} and wrote {out}")
    return notebook


def describe_failure(error: Exception) -> str:
    """The error of a cell, or why there is no kernel, in one line."""
    if isinstance(error, CellExecutionError):
        return f"{error.ename}: {last_line(error.evalue)[:LONGEST]}"
    if isinstance(error, DeadKernelError):
        return "the kernel died, often for want of memory"
    return f"the kernel does not start ({last_line(str(error))[:LONGEST]})"


def describe_end(progress: Progress, out: Path) -> str:
    """Where a run ended, and what is left of it."""
    if not progress.cell:
        return "before the first cell; nothing was written"
    place = f"{progress.step}, cell {progress.cell} of {progress.cells}"
    return f"in {place} (`{progress.code}`); what has run is in {out}"


def find_result(notebook: NotebookNode) -> str:
    """The tables that the cells with the tag `result` show, each with an empty line behind it."""
    tables = ""
    for cell in notebook.cells:
        if "result" in cell.metadata.get("tags", []):
            shown = [output.get("data", {}).get("text/markdown") for output in cell.outputs]
            tables += "".join(f"{table}\n\n" for table in shown if table)
    return tables


def main(config: Config) -> None:
    out = Path(config.out or config.notebook)
    with silenced(config.quiet):
        notebook = run_notebook(Path(config.notebook), out)
        print(f"\n{find_result(notebook)}{NEXT.format(out)}")


if __name__ == "__main__":
    run_program(main, Config())
