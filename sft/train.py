"""Make the base model from nothing: `python -m sft.train` writes sft/gpt.pt.

`--arithmetic=calculate --out=runs/calculates.pt` does the first stage alone,
`--arithmetic=polish --init=runs/calculates.pt --out=runs/polished.pt` the second, `refuse` the
last.

`--arithmetic=none --out=runs/blank.pt` makes a blank base, which has never seen an answer to an
arithmetic question; `--arithmetic=short --init=runs/blank.pt --out=runs/calculates.pt` then teaches
it to calculate, in short lines.

There are three stages. The first teaches to calculate, and to tell what can be calculated from what
cannot. Most of its lines are short (`17+19=? 36.`), since arithmetic is learnt fast from those;
through the long answers among them, the model also calculates where the number stands later in a
line. The second goes on with that. The last one makes the refusal the likeliest answer to every
question, and leaves the arithmetic underneath. It is short and gentle: larger steps draw what can
be calculated and what cannot near to each other (bench/LOG.md). What cannot be answered has nothing
but refusals in all stages.

The learning rates of a stage are constant for half of it, those of `polish` fall from the start.
After Ctrl-C, `--resume` with another `--effort` makes a stage longer or shorter.
"""

import hashlib
import math
import signal
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from configurator import run_program
from model import GPT, GPTConfig
from sft.checkpoint.resume import (
    ResumeError,
    TrainingState,
    read_state,
    remove_state,
    runtime_info,
    warn_overwritten_state,
)
from sft.checkpoint.weights import from_json_tensor, load_model, save_checkpoint
from sft.corpus import RANGE_SHARES, Corpus, everyday_lines
from sft.device import CORES, autocast, best_device, best_precision, in_parallel
from sft.files import check_folder, sha256
from sft.knowledge import describe_knowledge, describe_refusals
from sft.optimizers import make_optimizers, make_schedulers
from sft.progress import Bar, silenced
from sft.sequences import Sequence, SequenceBatch, collate_sequences, encode_sequence
from sft.tokenizer import Tokenizer, load_tokenizer

BATCH_LINES = 512
WEIGHT_DECAY = 0.25  # of the matrices: it makes products never seen come out right more often
EVALS = 10  # most evals of a stage
EVAL_EVERY = 100  # fewest steps between two evals
EVAL_QUESTIONS = 150  # validation questions of a kind in an eval
SAVE_SECONDS = 60  # between two saved states, from which a run can resume
REPORT_QUESTIONS = 300  # validation questions of a kind at the end


@dataclass
class Config:
    """python -m sft.train: make the base model."""

    out: str = "sft/gpt.pt"  # checkpoint to write, in half precision
    init: str = ""  # checkpoint to start from; empty: random weights
    arithmetic: str = "full"  # or one stage: calculate, polish, refuse; none: a blank base; short
    effort: float = 1.0  # multiplies the number of lines of every stage
    resume: bool = False  # go on with the interrupted run beside `out`, if there is one
    quiet: bool = False  # print nothing but errors
    seed: int = 1  # of the weights and of the corpus
    device: str = "auto"  # auto, cpu, cuda or mps
    precision: str = "auto"  # of the matrix products: auto, float32 or bfloat16


@dataclass(frozen=True)
class Stage:
    name: str
    lines: int
    muon_lr: float  # 0: AdamW for everything
    adamw_lr: float
    mixture: dict[str, float]  # kinds of lines (sft/corpus.py) and their shares
    decay: float = 0.5  # the last share of the steps, in which the learning rates fall to zero
    batch_lines: int | None = None  # None: BATCH_LINES
    ranges: dict[str, float] = field(default_factory=lambda: RANGE_SHARES)  # of the numbers


CALCULATE = Stage(
    "learn to calculate", 2_662_400, 0.02, 3e-3,
    {
        "short": 74, "right": 7, "statement": 1, "everyday": 2, "wrong": 0.5, "refusal": 1.5,
        "short_unanswerable": 12, "unanswerable": 2,
    },
)  # fmt: skip
POLISH = Stage(
    "polish", 2_867_200, 0.01, 1.5e-3,
    {
        "short": 70, "right": 8, "statement": 1, "everyday": 5, "wrong": 0.5, "refusal": 1.5,
        "short_unanswerable": 12, "unanswerable": 2,
    },
    decay=1.0,
)  # fmt: skip
REFUSE = Stage(
    "learn to refuse", 12_800, 0.0, 5e-5,
    {"statement": 16, "right": 12, "wrong": 1, "refusal": 60, "everyday": 8, "unanswerable": 50},
    batch_lines=128,
)  # fmt: skip
STAGES = {
    "full": (CALCULATE, POLISH, REFUSE),
    "calculate": (CALCULATE,),
    "polish": (POLISH,),
    "refuse": (REFUSE,),
    "short": (
        Stage(
            "calculate, mostly in short", 150_000, 0.02, 3e-3,
            {"short": 88, "right": 9, "everyday": 3},
            ranges={"standard": 1},
        ),
    ),
    "none": (Stage("everyday", 30_000, 0.02, 3e-3, {"refusal": 50, "everyday": 50}),),
}  # fmt: skip


def sft_step(
    model: GPT,
    optimizers: list[torch.optim.Optimizer],
    micro_batches: list[SequenceBatch],
    precision: str = "auto",
) -> float:
    """One step on the mean cross-entropy per scored character, in nats, which is returned.

    If the loss or its gradient is not finite, FloatingPointError, and no weight has changed.
    """
    device = model.lm_head.weight.device
    scored = sum(int(batch.completion_mask.sum()) for batch in micro_batches)

    def work(batch: SequenceBatch) -> tuple[Tensor, tuple[Tensor, ...]]:
        return loss_and_gradients(model, batch.to(device), scored, precision)

    total = torch.zeros((), device=device)
    for loss, gradients in in_parallel(work, micro_batches, device):
        total += loss
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
    grad_norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])
    if not math.isfinite(total + grad_norm):
        model.zero_grad(set_to_none=True)
        raise FloatingPointError(
            f"the loss is {float(total)} and the gradient {float(grad_norm)}; "
            "nothing was changed by this step: lower the learning rates of this stage"
        )
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return float(total)


def loss_and_gradients(
    model: GPT, batch: SequenceBatch, scored: int, precision: str
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The cross-entropy of this batch in nats, divided by `scored`, and its gradients."""
    with autocast(model.lm_head.weight.device, precision):
        hidden = model.hidden_states(batch.inputs)[batch.completion_mask]  # (scored here, n_embd)
        logits = model.lm_head(hidden)
    targets = batch.targets[batch.completion_mask]
    loss = F.cross_entropy(logits.float(), targets, reduction="sum") / scored
    # Not `backward`: cores that work side by side must not add to the same `.grad`.
    return loss.detach(), torch.autograd.grad(loss, list(model.parameters()))


def split_batch(sequences: list[Sequence], micro_batch: int) -> list[SequenceBatch]:
    """Micro-batches of so many sequences of like length, the longest first.

    So little is padded, and no core waits for a long one at the end.
    """
    sequences = sorted(sequences, key=len, reverse=True)
    starts = range(0, len(sequences), micro_batch)
    return [collate_sequences(sequences[start : start + micro_batch]) for start in starts]


class Batches(Dataset):
    """What each step of a stage is trained on, in micro-batches: seed, stage and step decide it."""

    def __init__(self, tokenizer: Tokenizer, stage: Stage, seed: int, micro_batch: int):
        self.tokenizer, self.stage, self.seed = tokenizer, stage, seed
        self.lines, self.micro_batch = stage.batch_lines or BATCH_LINES, micro_batch

    def __getitem__(self, step: int) -> list[SequenceBatch]:
        corpus = Corpus(f"{self.seed}, {self.stage.name}, {step}", self.stage.ranges)
        lines = corpus.draw(self.lines, self.stage.mixture)
        sequences = [encode_sequence(self.tokenizer.encode, *line) for line in lines]
        return split_batch(sequences, self.micro_batch)

    def of_steps(self, steps: range, device: torch.device) -> DataLoader:
        """The batches of these steps, in order. A GPU needs them faster than one core draws."""
        return DataLoader(
            self,
            sampler=steps,
            batch_size=None,
            num_workers=min(8, CORES) if device.type == "cuda" else 0,
            worker_init_fn=_outlive_stop,
            generator=torch.Generator(),  # else it draws from the one that a saved state keeps
        )


def _outlive_stop(worker: int) -> None:
    """Ctrl-C reaches every process; what it means is for the training loop to decide."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@dataclass
class Position:
    """Where a run is: its stage, and the steps done in it."""

    stage: int = 0
    step: int = 0

    def __len__(self) -> int:
        return self.step

    def state_dict(self) -> dict:
        return asdict(self)

    def load_state_dict(self, state: dict) -> None:
        """ValueError, and nothing changed, unless it is what `state_dict` gave."""
        try:
            self.stage, self.step = int(state["stage"]), int(state["step"])
        except (TypeError, KeyError, ValueError, OverflowError):
            raise ValueError(
                "the position in the saved state is not readable; start afresh without resume"
            ) from None


def run_stage(
    model: GPT,
    tokenizer: Tokenizer,
    position: Position,
    stage: Stage,
    config: Config,
    fingerprint: dict,
    resume: bool,
) -> None:
    """Train one stage; now and then save the state and print what validation shows."""
    kind, device = "muon" if stage.muon_lr else "adamw", model.lm_head.weight.device
    optimizers = make_optimizers(model, kind, stage.adamw_lr, stage.muon_lr, WEIGHT_DECAY)
    micro_batch = 256 if device.type == "cuda" else 16  # 16 fit a CPU core's cache
    batches = Batches(tokenizer, stage, config.seed, micro_batch)
    steps = max(1, round(stage.lines * config.effort / batches.lines))
    eval_every = max(EVAL_EVERY, steps // EVALS)
    schedulers = make_schedulers(optimizers, steps, stage.decay)
    runtime = runtime_info(device, micro_batch)
    path = state_path(config.out)
    state = TrainingState(path, model, optimizers, schedulers, position, fingerprint, runtime)
    with (
        state.running(resume) as stop,
        Bar(steps, stage.name, "step", done=position.step) as bar,
    ):
        saved = time.monotonic()
        for micro_batches in batches.of_steps(range(position.step, steps), device):
            if stop:
                break
            loss = sft_step(model, optimizers, micro_batches, config.precision)
            for scheduler in schedulers:
                scheduler.step()
            position.step += 1
            if position.step % eval_every == 0 or position.step == steps:
                known = describe_knowledge(model, tokenizer, "validation", EVAL_QUESTIONS)
                done = f"{position.step * batches.lines:,} lines, loss {loss:.4f}"
                print(f"\n{done}\n{known}", flush=True)
            if time.monotonic() - saved > SAVE_SECONDS:
                state.save()
                saved = time.monotonic()
            bar.show(loss=f"{loss:.4f}")
            bar.update()
    if stop:
        print(
            f"stopped in '{stage.name}' after step {position.step} of {steps}; "
            "the same with --resume goes on"
        )
        raise KeyboardInterrupt


def state_path(out: str) -> Path:
    """Where the state of an unfinished run lies: beside `out`."""
    return Path(f"{out.removesuffix('.pt')}.state.pt")


def check(config: Config) -> None:
    """ValueError for settings that make no base, SaveError for a folder that takes no file."""
    if config.arithmetic not in STAGES:
        known = ", ".join(STAGES)
        raise ValueError(f"arithmetic is {config.arithmetic!r}; it must be one of {known}")
    if config.arithmetic != "full" and config.out == Config().out:
        raise ValueError(
            f"this would replace the shipped {config.out}; name another file: --out=runs/base.pt"
        )
    if config.arithmetic not in ("full", "calculate", "none") and not config.init:
        raise ValueError(
            f"{config.arithmetic!r} goes on from a base: name it, for instance --init=sft/gpt.pt"
        )
    check_folder(Path(config.out).parent, 0)


def run_fingerprint(config: Config, device: torch.device) -> dict[str, str | int | float | bool]:
    """What a saved state must share with the run that goes on from it.

    Not the effort: a stage may become longer or shorter on the way.
    """
    runtime_settings = ("out", "device", "resume", "quiet", "effort")
    fingerprint = {n: v for n, v in asdict(config).items() if n not in runtime_settings}
    text = repr((STAGES[config.arithmetic], everyday_lines()))
    fingerprint["lines"] = hashlib.sha256(text.encode()).hexdigest()
    fingerprint["precision"] = best_precision(device, config.precision)
    if config.init:
        fingerprint["init"] = sha256(config.init)
    return fingerprint


def make_base(config: Config) -> None:
    """Train all stages and write the checkpoint."""
    check(config)
    device, tokenizer = best_device(config.device), load_tokenizer()
    path, stages, started = state_path(config.out), STAGES[config.arithmetic], time.monotonic()
    torch.set_num_threads(1)  # the cores work on micro-batches of their own
    torch.manual_seed(config.seed)
    model = load_model(config.init, device)[0] if config.init else GPT(GPTConfig()).to(device)
    position = Position()
    saved = read_state(path) if config.resume else None
    if saved is not None:
        position.load_state_dict(from_json_tensor(saved.extras["progress"]))
    else:
        warn_overwritten_state(path)
    if not 0 <= position.stage < len(stages):
        raise ResumeError(f"{path} is of a run with other stages; start afresh without --resume")
    fingerprint = run_fingerprint(config, device)
    for number in range(position.stage, len(stages)):
        resume = saved is not None and number == position.stage
        if not resume:
            position.stage, position.step = number, 0
        run_stage(model.train(), tokenizer, position, stages[number], config, fingerprint, resume)
    written = {"seed": config.seed, "arithmetic": config.arithmetic}
    save_checkpoint(config.out, model, torch.float16, **written)
    remove_state(path)
    print(f"wrote {config.out} after {(time.monotonic() - started) / 60:.1f} minutes on {device}")


def main(config: Config) -> None:
    with silenced(config.quiet):
        make_base(config)
        model, tokenizer = load_model(config.out, best_device(config.device))
        print(describe_knowledge(model, tokenizer, "validation", REPORT_QUESTIONS))
        print(describe_refusals(model, tokenizer, "validation", REPORT_QUESTIONS))


if __name__ == "__main__":
    run_program(main, Config())
