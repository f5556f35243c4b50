"""Stop and resume: Ctrl-C, a closed laptop, a full disk or a NaN lose nothing.

A `TrainingState` keeps in one file everything that the next step depends on. A run that resumes
from it ends with the same bits as one that was never stopped (on the same machine, with the same
versions and threads). The order of the data is not in it, since that follows from the seed and the
step; neither is the reference, which is always read from the base.
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
from sft.checkpoint.archive import CheckpointError
from sft.checkpoint.weights import (
    Checkpoint,
    checkpoint_bytes,
    from_json_tensor,
    is_plain,
    load_checkpoint,
    to_json_tensor,
)
from sft.files import SaveError, check_folder, remove, sweep, write_atomically
from sft.optimizers import Float32Muon

BYTES_PER_PARAMETER = 3 * 4  # weights and both moments of AdamW, in float32
MOMENTS = {  # what an optimizer keeps of each parameter
    torch.optim.AdamW: {"step", "exp_avg", "exp_avg_sq"},
    torch.optim.Muon: {"momentum_buffer"},
    Float32Muon: {"momentum_buffer"},
}
KEPT = 3  # files of that size at a time: the state, the one before it, the one being written


class ResumeError(ValueError):
    """A saved state that this run cannot resume from; the message says why, and what to do."""


class Progress(Protocol):
    """What a run records besides its weights, as plain data: its history, say."""

    def __len__(self) -> int: ...  # steps done

    def state_dict(self) -> dict: ...

    def load_state_dict(self, state: dict) -> None: ...


class Stop:
    """True once somebody has pressed Ctrl-C, or a notebook's stop button; a second one interrupts.

    It is itself the handler of that signal.
    """

    def __init__(self):
        self.asked = False

    def __bool__(self) -> bool:
        return self.asked

    def __call__(self, signum: int, frame: object) -> None:
        if self.asked:  # whoever presses again does not want to wait for the end of the step
            raise KeyboardInterrupt
        self.asked = True


@contextmanager
def stop_on_interrupt() -> Iterator[Stop]:
    """Inside the block an interrupt only sets the flag, so that no step is left half done.

    Signals reach the main thread only: in any other thread the block changes nothing. Neither does
    it in a program that was started to ignore them, as a script starts one in the background.
    """
    stop = Stop()
    main_thread = threading.current_thread() is threading.main_thread()
    if not main_thread or signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        yield stop
        return
    before = signal.signal(signal.SIGINT, stop)
    try:
        yield stop
    finally:  # behind the block Ctrl-C does again what it did
        signal.signal(signal.SIGINT, before)


@dataclass
class TrainingState:
    """All that the next step depends on, and the file that keeps it.

    The file at `path` is a checkpoint like any other, with more beside the weights; the state
    before it is kept, too. `fingerprint` (settings, hashes of base and data) and `runtime`
    (threads, versions) hold plain values. A run resumes only from a state with the same
    fingerprint. If the runtime differs, it says so and resumes, but no longer ends with the bits of
    one long run.
    """

    path: Path
    model: GPT
    optimizers: list[torch.optim.Optimizer]
    schedulers: list[LambdaLR]
    progress: Progress
    fingerprint: dict[str, str | int | float | bool]
    runtime: dict[str, str | int]
    writes: bool = True  # of several processes one writes
    is_dirty: bool = False  # an interrupt or an error may have left a step half done in memory

    @property
    def step(self) -> int:
        """Steps done so far, of the present schedule."""
        return self.schedulers[0].last_epoch  # torch's name for how often it was stepped

    def save(self) -> None:
        """Write the state and keep the one before it; after a SaveError both are as they were."""
        if not self.writes:
            return
        data = checkpoint_bytes(
            self.model,
            optimizers=[optimizer.state_dict() for optimizer in self.optimizers],
            schedulers=[scheduler.state_dict() for scheduler in self.schedulers],
            torch_rng=torch.get_rng_state(),
            # Files keep the names that they have always had: made_from, circumstances.
            made_from=self.fingerprint,
            circumstances=self.runtime,
            progress=to_json_tensor(self.progress.state_dict()),
        )
        write_atomically(self.path, data, previous=_previous(self.path))

    def restore(self) -> bool:
        """Go back to the newest state that can be read; False if there is none.

        ResumeError if that is a state of another run. All parts are checked before one is changed.
        """
        saved = read_state(self.path)
        if saved is None:
            return False
        self._check_fingerprint(saved.extras["made_from"])
        self._note_runtime(saved.extras["circumstances"])
        self._check_parts(saved)
        self.is_dirty = True  # half of a state is worse than none: until all of it is loaded
        self._load(saved)
        self.is_dirty = False
        return True

    def _load(self, saved: Checkpoint) -> None:
        self.progress.load_state_dict(from_json_tensor(saved.extras["progress"]))
        self.model.load_state_dict(saved.state_dict)
        self.model.zero_grad(set_to_none=True)  # of a step that was left half done
        for name, parts in (("optimizers", self.optimizers), ("schedulers", self.schedulers)):
            for part, state in zip(parts, saved.extras[name], strict=True):
                part.load_state_dict(state)
        torch.set_rng_state(saved.extras["torch_rng"])
        if len(self.progress) != self.step:
            raise CheckpointError(f"{self.path} contradicts itself; start afresh without resume")

    @contextmanager
    def running(self, resume: bool) -> Iterator[Stop]:
        """The block around a training loop, which is to end when its `Stop` turns true.

        Before the loop: resume from the file, if `resume`, or write the first state, so that a
        folder that cannot be written is found now. After it: save. If a loss or gradient was not
        finite: go back to the last saved state.
        """
        with stop_on_interrupt() as stop:
            self._begin(resume)
            begun = self.step
            try:
                yield stop  # here the loop runs
                if self.step > begun:  # if not, the file holds this state already
                    self.save()
            except FloatingPointError as error:
                raise self._go_back(error) from None
            except SaveError:  # a save comes between two steps: what is in memory is whole
                raise
            except BaseException:  # it may have come in the middle of a step
                self.is_dirty = True
                raise

    def _go_back(self, error: FloatingPointError) -> FloatingPointError:
        """Load the last saved state after a step that failed; returned is the error to raise."""
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        lr = max(group["lr"] for group in groups)  # of the step that failed; `restore` sets it back
        failed = f"step {self.step + 1}, learning rate {lr:g}: {error}"
        self.is_dirty = True
        back = "of no use: load the base again"
        if self.restore():
            back = f"again those after step {self.step}"
        return FloatingPointError(f"{failed}. The weights are {back}")

    def _begin(self, resume: bool) -> None:
        """Bring memory and file together before the first step of the loop.

        In a notebook the cell may run again, after an interrupt, an error or a whole run. Then
        what is in memory is trained further, if it is whole; if not, what was saved.
        """
        if self.is_dirty and not self.restore():
            raise ResumeError(
                "the last step was left half done, and there is no saved state: load the base again"
            )
        if self.step:  # steps have been done in this process
            if len(self.progress) != self.step:
                raise ResumeError(
                    "the weights were trained further than this history says: load the base again"
                )
            return
        if resume and self.restore():
            print(f"going on after step {self.step} ({self.path})")
            return
        if self.writes:
            count = sum(parameter.numel() for parameter in self.model.parameters())
            check_folder(self.path.parent, KEPT * BYTES_PER_PARAMETER * count)
        self.save()  # so that even a first step that fails has something to go back to

    def _check_fingerprint(self, stored: dict) -> None:
        """ResumeError that names all differences, if settings or data are others."""
        differs = []
        for key in sorted(stored.keys() | self.fingerprint.keys()):
            then, now = stored.get(key), self.fingerprint.get(key)
            if then != now:
                differs.append(f"{_shown(key)} was {_shown(then)}, now it is {_shown(now)}")
        if differs:
            raise ResumeError(
                f"{self.path} is of another run: {'; '.join(differs)}. Go back to that, "
                "or start afresh: resume = False, on the command line without --resume"
            )

    def _note_runtime(self, stored: dict) -> None:
        """Print each difference that changes how the sums of a step are rounded."""
        for key, now in self.runtime.items():
            if (then := stored.get(key)) != now:
                changed = f"{key} was {_shown(then)}, now it is {_shown(now)}"
                print(f"note: {changed}: the result will not be bitwise that of one long run")

    def _check_parts(self, saved: Checkpoint) -> None:
        """CheckpointError unless every part has the form of the one it replaces."""
        extras = saved.extras
        optimizers, schedulers = extras.get("optimizers"), extras.get("schedulers")
        # torch would load much of this without a word, and fail in the middle or in the next step.
        good = (
            saved.model_args == vars(self.model.config)
            and isinstance(optimizers, list)
            and len(optimizers) == len(self.optimizers)
            and all(map(_fits, optimizers, self.optimizers))
            and _alike(schedulers, [scheduler.state_dict() for scheduler in self.schedulers])
            and _is_random_state(extras.get("torch_rng"))
        )
        if not good:
            reason = f"{self.path} is no state of this run"
            raise CheckpointError(f"{reason}; start afresh without resume")


def read_state(path: Path) -> Checkpoint | None:
    """The state, or the one before it if it cannot be read, with a note; None if there is neither.

    ResumeError if there are states, but none can be read.
    """
    there = [candidate for candidate in (path, _previous(path)) if candidate.exists()]
    for candidate in there:
        try:
            saved = load_checkpoint(candidate)
            if not all(is_plain(saved.extras.get(name)) for name in ("made_from", "circumstances")):
                raise CheckpointError(f"{candidate} is no training state")
            from_json_tensor(saved.extras.get("progress"))
            return saved
        except CheckpointError as error:
            print(f"note: {error}" + ("; taking the state before it" if candidate == path else ""))
    if there:
        raise ResumeError(f"no readable state at {path}: start afresh without resume, or delete it")
    return None


def warn_overwritten_state(path: Path) -> None:
    """Print a note if a run that starts afresh will replace the state of an interrupted one."""
    if path.exists():
        print(
            f"note: {path} is the state of an interrupted run and will be replaced; "
            "resume would go on with it"
        )


def remove_state(path: Path) -> None:
    """Delete both states, after the run has ended and its result is saved."""
    sweep(path)
    for state in (path, _previous(path)):
        remove(state)


def runtime_info(
    device: torch.device, micro_batch: int, processes: int = 1
) -> dict[str, str | int]:
    """What may change where a run is resumed, but then its result differs in the last bits."""
    sums = {"threads": torch.get_num_threads(), "micro_batch": micro_batch, "processes": processes}
    return {"torch": str(torch.__version__), "device": str(device), **sums}


def _previous(path: Path) -> Path:
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def _shown(value: object) -> str:
    """A single value as it stands in a message: without quotes if it is a plain name, and short."""
    return value if isinstance(value, str) and value.isidentifier() else repr(value)[:80]


def _alike(one: object, other: object) -> bool:
    """Whether two pieces of plain data have the same form; the values in it may differ.

    The form are keys, lengths, kinds of values (int and float count as one), shapes of tensors.
    """
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_alike(one[key], other[key]) for key in other)
    if isinstance(one, list | tuple) and type(one) is type(other):
        return len(one) == len(other) and all(map(_alike, one, other))
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.shape == other.shape and one.dtype == other.dtype
    # An int may stand for a float (a learning rate of 0); True, which is an int too, for neither.
    numbers = isinstance(one, int | float) and isinstance(other, int | float)
    return type(one) is type(other) or (numbers and bool not in (type(one), type(other)))


def _fits(state: object, optimizer: torch.optim.Optimizer) -> bool:
    """Whether this is a state of that optimizer.

    It must have the same groups of parameters, and for each parameter finite tensors of its shape.
    """
    own = optimizer.state_dict()["param_groups"]
    if not isinstance(state, dict) or not _alike(state.get("param_groups"), own):
        return False
    # `_alike` compared how many parameters each group has; these are their numbers.
    if [group["params"] for group in state["param_groups"]] != [group["params"] for group in own]:
        return False
    # torch numbers the parameters over all groups; `entries` has the moments under these numbers.
    shapes = [parameter.shape for group in optimizer.param_groups for parameter in group["params"]]
    entries = state.get("state")
    if entries == {}:  # before the first step
        return True
    return (
        isinstance(entries, dict)
        and entries.keys() == set(range(len(shapes)))
        and all(
            isinstance(entry, dict) and entry.keys() == entries[0].keys()
            for entry in entries.values()
        )
        and MOMENTS[type(optimizer)] <= entries[0].keys()
        and all(
            _is_moment(value, shapes[i]) for i, entry in entries.items() for value in entry.values()
        )
    )


def _is_moment(value: object, shape: torch.Size) -> bool:
    """Whether this is a finite tensor of that shape, or a counter."""
    return (
        isinstance(value, torch.Tensor)
        and value.shape in ((), shape)
        and bool(value.isfinite().all())
    )


def _is_random_state(value: object) -> bool:
    """Whether torch's generator accepts this as its state."""
    try:  # on a generator of its own, so that the random numbers of the run do not change
        torch.Generator().set_state(value)
    except (TypeError, RuntimeError):
        return False
    return True
