"""Training that can be stopped and gone on with: Ctrl-C, a closed laptop, a full disk or a NaN lose nothing.

A `TrainingState` keeps everything that the next step depends on in one file, and goes on from it bitwise as if nothing
had happened (on the same machine, with the same versions and threads). The order of the data is a function of the seed
and the step, so it needs no keeping; the reference is always read from the base, never from here.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch.optim.lr_scheduler import LambdaLR

from model import GPT
from sft.archive import CheckpointError
from sft.checkpoint import Checkpoint, checkpoint_bytes, is_plain, load_checkpoint, pack, unpack
from sft.files import SaveError, check_folder, sweep, write_atomically

BYTES_PER_PARAMETER = 3 * 4  # weights and both moments of AdamW, in float32
MOMENTS = {torch.optim.AdamW: {"step", "exp_avg", "exp_avg_sq"}, torch.optim.Muon: {"momentum_buffer"}}
KEPT = 3  # files of that size at a time: the state, the one before it, and the one being written


class ResumeError(ValueError):
    """A saved state that this run cannot go on from; the message names what differs and how to start afresh."""


class Progress(Protocol):
    """What a run records besides its weights, as plain data: its history, say."""

    def __len__(self) -> int: ...  # steps done

    def state_dict(self) -> dict: ...

    def load_state_dict(self, state: dict) -> None: ...


class Stop:
    """Whether somebody pressed Ctrl-C (or a notebook's stop button) inside the block; a second press stops at once."""

    def __init__(self):
        self.asked = False

    def __bool__(self) -> bool:
        return self.asked

    def __call__(self, signum: int, frame: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


@contextmanager
def stop_on_interrupt() -> Iterator[Stop]:
    """Inside the block an interrupt only sets the flag, so that no step is left half done.

    Signals reach the main thread only; in any other one the block changes nothing, nor in a program that was started
    to ignore them, in the background of a script.
    """
    stop = Stop()
    main_thread = threading.current_thread() is threading.main_thread()
    if not main_thread or signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        yield stop
        return
    before = signal.signal(signal.SIGINT, stop)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


@dataclass
class TrainingState:
    """All that the next step depends on, and the file that keeps it.

    `path` is a checkpoint like any other, with more beside the weights; the one before it is kept, too. `made_from`
    (settings, hashes of base and data) must be that of the run which goes on; where `circumstances` (threads, versions)
    differ, the run goes on and says so, but no longer bitwise as it would have. Both hold plain values.
    """

    path: Path
    model: GPT
    optimizers: list[torch.optim.Optimizer]
    schedulers: list[LambdaLR]
    progress: Progress
    made_from: dict[str, str | int | float | bool]
    circumstances: dict[str, str | int]
    writes: bool = True  # of several processes one writes
    in_doubt: bool = False  # an interrupt or an error may have left a step half done in memory

    @property
    def step(self) -> int:
        """Steps done so far, of the present schedule."""
        return self.schedulers[0].last_epoch

    def save(self) -> None:
        """Write the state; the one before it stays beside it. SaveError leaves both as they were."""
        if not self.writes:
            return
        data = checkpoint_bytes(
            self.model,
            optimizers=[optimizer.state_dict() for optimizer in self.optimizers],
            schedulers=[scheduler.state_dict() for scheduler in self.schedulers],
            torch_rng=torch.get_rng_state(),
            made_from=self.made_from,
            circumstances=self.circumstances,
            progress=pack(self.progress.state_dict()),
        )
        write_atomically(self.path, data, previous=_previous(self.path))

    def restore(self) -> bool:
        """Go back to the newest state that can be read; False if there is none. ResumeError if it is of another run."""
        saved = read_state(self.path)
        if saved is None:
            return False
        self._check_made_from(saved.extras["made_from"])
        for key, now in self.circumstances.items():
            if (then := saved.extras["circumstances"].get(key)) != now:
                changed = f"{key} was {_shown(then)}, now it is {_shown(now)}"
                print(f"note: {changed}: the result will not be bitwise that of one long run")
        self._check_parts(saved)
        self.in_doubt = True
        self.progress.load_state_dict(unpack(saved.extras["progress"]))
        self.model.load_state_dict(saved.state_dict)
        self.model.zero_grad(set_to_none=True)
        for name, parts in (("optimizers", self.optimizers), ("schedulers", self.schedulers)):
            for part, state in zip(parts, saved.extras[name], strict=True):
                part.load_state_dict(state)
        torch.set_rng_state(saved.extras["torch_rng"])
        if len(self.progress) != self.step:
            raise CheckpointError(f"{self.path} contradicts itself; start afresh without resume")
        self.in_doubt = False
        return True

    @contextmanager
    def running(self, resume: bool) -> Iterator[Stop]:
        """The block of the training loop, which is to end after a step once the `Stop` that it is given turns true.

        Before it: go on from the file with `resume`, or write the first state, so that a folder which cannot be written
        is found now. After it: save. After a loss or gradient that is not finite: back to the last
        saved state.
        """
        with stop_on_interrupt() as stop:
            self._begin(resume)
            begun = self.step
            try:
                yield stop
                if self.step > begun:
                    self.save()
            except FloatingPointError as error:
                lr = max(group["lr"] for optimizer in self.optimizers for group in optimizer.param_groups)
                failed = f"step {self.step + 1}, learning rate {lr:g}: {error}"
                self.in_doubt = True
                back = f"again those after step {self.step}" if self.restore() else "of no use: load the base again"
                raise FloatingPointError(f"{failed}. The weights are {back}") from None
            except SaveError:  # between two steps: what is in memory is whole
                raise
            except BaseException:
                self.in_doubt = True
                raise

    def _begin(self, resume: bool) -> None:
        if self.in_doubt and not self.restore():
            raise ResumeError("the last step was left half done, and there is no saved state: load the base again")
        if self.step:
            if len(self.progress) != self.step:
                raise ResumeError("the weights were trained further than this history says: load the base again")
            return
        if resume and self.restore():
            print(f"going on after step {self.step} ({self.path})")
            return
        if self.writes:
            count = sum(parameter.numel() for parameter in self.model.parameters())
            check_folder(self.path.parent, KEPT * BYTES_PER_PARAMETER * count)
        self.save()

    def _check_made_from(self, stored: dict) -> None:
        differs = [
            f"{_shown(key)} was {_shown(stored.get(key))}, now it is {_shown(self.made_from.get(key))}"
            for key in sorted(stored.keys() | self.made_from.keys())
            if stored.get(key) != self.made_from.get(key)
        ]
        if differs:
            raise ResumeError(
                f"{self.path} is of another run: {'; '.join(differs)}. "
                "Go back to that, or start afresh: resume = False, on the command line without --resume"
            )

    def _check_parts(self, saved: Checkpoint) -> None:
        """CheckpointError unless every part has the form of the one it replaces."""
        extras = saved.extras
        optimizers, schedulers = extras.get("optimizers"), extras.get("schedulers")
        good = (
            saved.model_args == vars(self.model.config)
            and isinstance(optimizers, list)
            and len(optimizers) == len(self.optimizers)
            and all(map(_fits, optimizers, self.optimizers))
            and _alike(schedulers, [scheduler.state_dict() for scheduler in self.schedulers])
            and _is_random_state(extras.get("torch_rng"))
        )
        if not good:
            raise CheckpointError(f"{self.path} is no state of this run; start afresh without resume")


def read_state(path: Path) -> Checkpoint | None:
    """The newest of the two states that can be read, with a notice for one that cannot; None if there is none.

    ResumeError if there are states, but none can be read.
    """
    there = [candidate for candidate in (path, _previous(path)) if candidate.exists()]
    for candidate in there:
        try:
            saved = load_checkpoint(candidate)
            if not all(is_plain(saved.extras.get(name)) for name in ("made_from", "circumstances")):
                raise CheckpointError(f"{candidate} is no training state")
            unpack(saved.extras.get("progress"))
            return saved
        except CheckpointError as error:
            print(f"note: {error}" + ("; taking the state before it" if candidate == path else ""))
    if there:
        raise ResumeError(f"no readable state at {path}: start afresh without resume, or delete it")
    return None


def announce_replaced(path: Path) -> None:
    """Say so if a run that starts afresh will replace the state of an interrupted one."""
    if path.exists():
        print(f"note: {path} is the state of an interrupted run and will be replaced; resume would go on with it")


def remove_state(path: Path) -> None:
    """Delete the states: the run has ended and its result is saved."""
    sweep(path)
    for state in (path, _previous(path)):
        state.unlink(missing_ok=True)


def circumstances(device: torch.device, micro_batch: int, processes: int = 1) -> dict[str, str | int]:
    """What may differ between two halves of a run, and then costs it bitwise equality."""
    sums = {"threads": torch.get_num_threads(), "micro_batch": micro_batch, "processes": processes}
    return {"torch": str(torch.__version__), "device": str(device), **sums}


def _previous(path: Path) -> Path:
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def _shown(value: object) -> str:
    """A single value as it stands in a message; texts of this program's own without quotes."""
    return value if isinstance(value, str) and value.isidentifier() else repr(value)[:80]


def _alike(one: object, other: object) -> bool:
    """Whether two pieces of plain data have the same form: keys, lengths, kinds of values, shapes of tensors."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_alike(one[key], other[key]) for key in other)
    if isinstance(one, list | tuple) and type(one) is type(other):
        return len(one) == len(other) and all(map(_alike, one, other))
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.shape == other.shape and one.dtype == other.dtype
    numbers = isinstance(one, int | float) and isinstance(other, int | float)
    return type(one) is type(other) or (numbers and bool not in (type(one), type(other)))


def _fits(state: object, optimizer: torch.optim.Optimizer) -> bool:
    """Whether this is a state of that optimizer: the same groups, and per parameter finite tensors of its shape."""
    own = optimizer.state_dict()["param_groups"]
    if not isinstance(state, dict) or not _alike(state.get("param_groups"), own):
        return False
    if [group["params"] for group in state["param_groups"]] != [group["params"] for group in own]:
        return False
    shapes = [parameter.shape for group in optimizer.param_groups for parameter in group["params"]]
    entries = state.get("state")
    if entries == {}:  # before the first step
        return True
    return (
        isinstance(entries, dict)
        and entries.keys() == set(range(len(shapes)))
        and all(isinstance(entry, dict) and entry.keys() == entries[0].keys() for entry in entries.values())
        and MOMENTS[type(optimizer)] <= entries[0].keys()
        and all(_is_moment(value, shapes[i]) for i, entry in entries.items() for value in entry.values())
    )


def _is_moment(value: object, shape: torch.Size) -> bool:
    """Whether this is a finite tensor of that shape, or a counter."""
    return isinstance(value, torch.Tensor) and value.shape in ((), shape) and bool(value.isfinite().all())


def _is_random_state(value: object) -> bool:
    """Whether torch's generator accepts this as its state."""
    try:
        torch.Generator().set_state(value)
    except (TypeError, RuntimeError):
        return False
    return True
