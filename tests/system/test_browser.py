"""The notebook through its real front doors: JupyterLab and Notebook 7, in a headless browser."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager

import nbformat
import pytest
import test_notebook
from PIL import Image
from test_notebook import (
    BEGUN,
    LOOP,
    QUICK,
    STOPS,
    code_cells,
    mark_the_first_step,
    text_of,
)

playwright = pytest.importorskip(
    "playwright.sync_api", reason="needs playwright: pip install playwright"
)
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
notebook, copied = test_notebook.notebook, test_notebook.copied  # fixtures
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium in the search path")

LIMIT = 180  # seconds for anything, also on a busy machine
AS_ROOT = os.name == "posix" and os.geteuid() == 0
PANEL = "window.jupyterapp.shell.currentWidget"


@pytest.fixture(scope="module")
def browser():
    switches = [
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-component-update",
        "--no-first-run",
    ]
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(
            executable_path=CHROMIUM,
            args=switches + ["--no-sandbox"] * AS_ROOT,
            timeout=LIMIT * 1000,
        )
        yield chromium
        chromium.close()


def read_whole(path):
    """The JSON file, None while it is not there or not yet written to its end."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None


@contextmanager
def served(program, folder, home):
    """A Jupyter server on the folder, with settings of its own; what it writes about itself."""
    places = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    own = {name: str(home / name) for name in places}
    own["OMP_NUM_THREADS"] = "1"  # the threads of a tiny model only wait for each other
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", program, "--no-browser", "--ip=127.0.0.1", f"--port={port}"]
    command += ["--expose-app-in-browser", f"--ServerApp.root_dir={folder}"]
    command += ["--allow-root"] * AS_ROOT
    log = home / "server.log"
    quiet = home / "JUPYTER_CONFIG_DIR/labconfig/default_setting_overrides.json"
    quiet.parent.mkdir(parents=True)
    quiet.write_text('{"@jupyterlab/apputils-extension:notification": {"fetchNews": "false"}}')
    with log.open("w") as lines:
        server = subprocess.Popen(
            command, env=os.environ | own, cwd=folder, stdout=lines, stderr=subprocess.STDOUT
        )
    try:
        late = time.monotonic() + LIMIT
        while not (about := read_whole(home / f"JUPYTER_RUNTIME_DIR/jpserver-{server.pid}.json")):
            assert server.poll() is None and time.monotonic() < late, log.read_text()
            time.sleep(0.05)
        yield about
    finally:
        server.terminate()  # it ends its kernels
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


@contextmanager
def opened(program, address, browser, folder, home):
    """The page with the notebook, when its kernel is ready."""
    with served(program, folder, home) as server:
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(LIMIT * 1000)
        try:
            page.goto(f"{server['url']}{address}/dpo/dpo.ipynb?token={server['token']}")
            page.wait_for_selector(".jp-Notebook .jp-Cell")
            page.wait_for_function(
                f"{PANEL}?.context.sessionContext.session?.kernel?.status === 'idle'"
            )
            yield page
        finally:
            page.close()


def start(page, command):
    """Begins a command of Jupyter; `window.ran` is what it returned, once it has ended."""
    page.evaluate(
        """command => {
            window.ran = null
            const running = window.jupyterapp.commands.execute(command)
            running.catch(String).then(result => window.ran = result)
        }""",
        command,
    )


def end(page):
    page.wait_for_function("window.ran !== null")
    return page.evaluate("window.ran")


def finished(page, path):
    """The notebook as saved when the started cells have run, all of them without trouble."""
    ran = end(page)
    page.evaluate("window.jupyterapp.commands.execute('docmanager:save')")
    saved = nbformat.read(path, as_version=4)
    for output in (output for cell in code_cells(saved) for output in cell.outputs):
        assert output.output_type != "error", output
        assert output.get("name") != "stderr", output
    assert ran is True
    assert all(cell.execution_count for cell in code_cells(saved))
    for trouble in (
        '[data-mime-type$="jupyter.error"]',
        '[data-mime-type$="jupyter.stderr"]',
        ".jp-Dialog",
    ):
        assert not page.locator(trouble).count()
    return saved


def images(notebook):
    """How many pictures each cell has put out."""
    counts = {
        cell.id: sum("image/png" in o.get("data", {}) for o in cell.outputs)
        for cell in code_cells(notebook)
    }
    return {cell: count for cell, count in counts.items() if count}


def assert_pictures(ran, committed):
    """As many in each cell as in the committed run."""
    cells = {cell.id for cell in ran.cells}
    expected = {cell: n for cell, n in images(committed).items() if cell in cells}
    assert expected
    assert images(ran) == expected


def place_of(part, notebook):
    """The number of the code cell with this in its source."""
    return next(
        i
        for i, cell in enumerate(notebook.cells)
        if cell.cell_type == "code" and part in cell.source
    )


def assert_picture(page, cell, path):
    """The picture of a cell can be seen in the page; keeps a screenshot of it."""
    page.wait_for_function(  # again and again, since what is above it is drawn late and moves it
        f"""cell => {{
            const notebook = {PANEL}.content
            const picture = notebook.widgets[cell].node.querySelector('img')
            const there = picture?.isConnected && picture.naturalWidth
            if (!there) return void notebook.scrollToItem(cell, 'start')
            const before = window.place
            window.place = picture.getBoundingClientRect().top
            picture.scrollIntoView({{block: 'start'}})
            return window.place === before && 0 < before && before < window.innerHeight
        }}""",
        arg=cell,
        polling=300,
    )
    page.screenshot(path=path)
    with Image.open(path) as shot:
        assert shot.format == "PNG" and len(shot.convert("RGB").getcolors(maxcolors=2**24)) > 100


def test_jupyterlab_runs_stops_and_trains_afresh_in_a_new_kernel(
    browser, notebook, copied, tmp_path
):
    folder, tried = copied
    quick = next(cell for cell in tried.cells if cell.source == QUICK)
    quick.source += f"\n{STOPS}"
    training, saving = place_of(LOOP, tried), place_of("save_run(", tried)
    mark_the_first_step(tried)
    path = folder / "dpo/dpo.ipynb"
    nbformat.write(tried, path)
    with opened("jupyterlab", "lab/tree", browser, folder, tmp_path) as page:
        start(page, "notebook:run-all-cells")
        while not (folder / BEGUN).exists() and page.evaluate("window.ran === null"):
            page.wait_for_timeout(20)
        page.evaluate("window.jupyterapp.commands.execute('notebook:interrupt-kernel')")
        stopped = finished(page, path)
        assert ", stopped after step " in text_of(stopped.cells[saving])
        assert_pictures(stopped, notebook)

        start(page, "notebook:restart-kernel")
        page.click(".jp-Dialog .jp-mod-accept")
        assert end(page) is True
        page.evaluate(f"cell => {{ {PANEL}.content.activeCellIndex = cell }}", saving + 1)
        start(page, "notebook:run-all-above")
        ended = finished(page, path)
        assert images(ended) == images(stopped)
        assert "600 steps; loss" in text_of(ended.cells[saving])
        assert ", stopped after step " not in text_of(ended.cells[saving])
        assert_picture(page, training, tmp_path / "jupyterlab.png")


def test_notebook_7_runs_all(browser, notebook, copied, tmp_path):
    folder, tried = copied
    last = next(i for i, cell in enumerate(tried.cells) if "### Step 8" in cell.source)
    del tried.cells[last:]  # half of the time, and more of the same kinds of output
    path = folder / "dpo/dpo.ipynb"
    nbformat.write(tried, path)
    with opened("notebook", "notebooks", browser, folder, tmp_path) as page:
        start(page, "notebook:run-all-cells")
        saved = finished(page, path)
        training = place_of(LOOP, saved)
        assert "10 steps; loss" in text_of(saved.cells[place_of("save_run(", saved)])
        assert_pictures(saved, notebook)
        assert_picture(page, training, tmp_path / "notebook.png")
