"""What safety costs: `python -m bench.loading`.

Seconds to load a checked checkpoint, beside a bare `torch.load`, and to save a training state. The
shipped base, and a file of the course's layout and size (weights and optimizer state). Medians of
five calls in turn.
"""

import time
from collections.abc import Callable
from pathlib import Path

import torch

from bench.report import median_and_spread
from bench.results import Measurement, print_result
from dpo.evaluation.tables import markdown
from dpo.training.history import History
from model import GPTConfig
from sft.checkpoint.resume import TrainingState
from sft.checkpoint.weights import load_checkpoint, load_model
from sft.optimizers import make_optimizers, make_schedulers

BASE = Path("sft/gpt.pt")
COURSE = Path("runs/course.pt")
ROUNDS = 5


def trained_state(path: Path) -> TrainingState:
    """A state of the shipped base after one step of AdamW."""
    model, _ = load_model(BASE)
    [optimizer] = optimizers = make_optimizers(model, "adamw", 1e-5)
    idx = torch.ones(1, 4, dtype=torch.long)
    model(idx, idx)[1].backward()
    optimizer.step()
    return TrainingState(path, model, optimizers, make_schedulers(optimizers, 9), History(), {}, {})


def write_course_file(state: TrainingState) -> None:
    """nanoGPT's layout: weights in float32 under torch.compile's prefix, and optimizer state."""
    weights = {f"_orig_mod.{name}": tensor for name, tensor in state.model.state_dict().items()}
    contents = {"model": weights, "model_args": vars(GPTConfig()) | {"dropout": 0.2}}
    contents |= {"optimizer": state.optimizers[0].state_dict(), "iter_num": 5000}
    COURSE.parent.mkdir(exist_ok=True)
    torch.save(contents, COURSE)


def seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def measure() -> dict:
    """Seconds of every call, and the megabytes of its file."""
    first = seconds(lambda: load_checkpoint(BASE))  # with what is only done once
    state = trained_state(Path("runs/loading/state.pt"))
    write_course_file(state)
    calls = {
        "load the shipped base, checked": (BASE, lambda: load_checkpoint(BASE)),
        "the same, bare torch.load": (BASE, lambda: torch.load(BASE, weights_only=True)),
        "load a file of the course's layout, checked": (COURSE, lambda: load_checkpoint(COURSE)),
        # The space tells it from the other row of this name, and is not shown.
        "the same, bare torch.load ": (COURSE, lambda: torch.load(COURSE, weights_only=True)),
        "save a training state": (state.path, state.save),
        "go back to it": (state.path, state.restore),
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, (_, call) in calls.items():
            times[name].append(seconds(call))
    sizes = {name: path.stat().st_size / 1e6 for name, (path, _) in calls.items()}
    return {"first": first, "seconds": times, "megabytes": sizes}


def render(values: dict) -> dict[str, str]:
    rows = [["what", "file, MB", "seconds, median (lowest to highest)"]]
    for name, seconds in values["seconds"].items():
        megabytes = f"{values['megabytes'][name]:.1f}"
        rows.append([name.strip(), megabytes, median_and_spread(seconds, digits=2)])
    return {"table": markdown(rows), "first": f"{values['first']:.2f}"}


MEASUREMENT = Measurement("loading", "python -m bench.loading", measure, render, 0.5, of_base=False)

if __name__ == "__main__":
    print_result(MEASUREMENT)
