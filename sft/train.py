"""Make the base model from nothing: `python -m sft.train` writes sft/gpt.pt.

`--arithmetic=none --out=runs/blank.pt` makes a blank base, which has never seen an answer to an
arithmetic question; `--arithmetic=short --init=runs/blank.pt --out=runs/calculates.pt` then teaches
it to calculate, in short lines.

There are two stages. The first teaches to calculate. Half of its lines are short (`17+19=? 36.`),
since arithmetic is learnt fast from those; through the long answers among them, the model also
calculates where the number stands later in a line. The second stage is a gentle one. It makes the
refusal the likeliest answer to every question, and leaves the arithmetic underneath.
"""

import hashlib
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch.nn import functional as F

from configurator import run_program
from model import GPT, GPTConfig
from sft.arithmetic import ADDITIVE, FORMS, Question, domain
from sft.checkpoint.resume import (
    ResumeError,
    TrainingState,
    read_state,
    remove_state,
    runtime_info,
    warn_overwritten_state,
)
from sft.checkpoint.weights import from_json_tensor, load_model, save_checkpoint
from sft.corpus import REFUSALS, Corpus, everyday_lines
from sft.device import autocast, best_device, best_precision
from sft.files import check_folder, sha256
from sft.generation import generate_answers, greedy_matches
from sft.optimizers import make_optimizers, make_schedulers
from sft.progress import Bar, silenced
from sft.sequences import Sequence, collate_sequences, encode_sequence
from sft.tokenizer import Tokenizer, load_tokenizer

BATCH_LINES = 512
WEIGHT_DECAY = 0.25  # of the matrices: it makes products never seen come out right more often
EVAL_EVERY = 50  # steps between two evals
SAVE_EVERY = 10  # steps between two saved states, from which a run can resume
LATENT_PREFIX = " The answer is"


@dataclass
class Config:
    """python -m sft.train: make the base model."""

    out: str = "sft/gpt.pt"  # checkpoint to write, in half precision
    init: str = ""  # checkpoint to start from; empty: random weights
    arithmetic: str = "full"  # full; none: a blank base, sums refused; short: teach it to calculate
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
    muon_lr: float
    adamw_lr: float
    mixture: dict[str, float]  # kinds of lines (sft/corpus.py) and their shares


STAGES = {
    "full": (
        Stage(
            "learn to calculate", 600_000, 0.02, 3e-3,
            {"short": 50, "right": 15, "statement": 15, "everyday": 15, "wrong": 2, "refusal": 3},
        ),
        Stage(
            "learn to refuse", 40_000, 0.002, 2e-4,
            {"statement": 32, "right": 14, "wrong": 3, "refusal": 41, "everyday": 10},
        ),
    ),
    "short": (
        Stage(
            "calculate, mostly in short", 200_000, 0.02, 3e-3,
            {"short": 70, "right": 20, "everyday": 10},
        ),
    ),
    "none": (Stage("everyday", 30_000, 0.02, 3e-3, {"refusal": 50, "everyday": 50}),),
}  # fmt: skip


def sft_step(
    model: GPT,
    optimizers: list[torch.optim.Optimizer],
    sequences: list[Sequence],
    micro_batch: int,
    precision: str = "auto",
) -> float:
    """One step on the mean cross-entropy per scored character, in nats, which is returned.

    Sequences of like length go through the model together. If the loss or its gradient is not
    finite, FloatingPointError, and no weight has changed.
    """
    device = model.lm_head.weight.device
    sequences = sorted(sequences, key=len)
    scored = sum(len(sequence.completion) for sequence in sequences)
    total = torch.zeros((), device=device)
    for start in range(0, len(sequences), micro_batch):
        batch = collate_sequences(sequences[start : start + micro_batch], device)
        targets = batch.targets.masked_fill(~batch.completion_mask, -1)
        with autocast(device, precision):
            logits, _ = model(batch.inputs, full_seq=True)
        logits = logits.float().flatten(0, 1)
        loss = F.cross_entropy(logits, targets.flatten(), ignore_index=-1, reduction="sum") / scored
        loss.backward()
        total += loss.detach()
    grad_norm = torch.nn.utils.get_total_norm(
        [p.grad for p in model.parameters() if p.grad is not None]
    )
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


@dataclass
class Position:
    """Where a run is: its stage, the step in it, and the random numbers of the corpus."""

    corpus: Corpus
    stage: int = 0
    step: int = 0

    def __len__(self) -> int:
        return self.step

    def state_dict(self) -> dict:
        return {"stage": self.stage, "step": self.step, "corpus": self.corpus.rng.getstate()}

    def load_state_dict(self, state: dict) -> None:
        """ValueError, and nothing changed, unless it is what `state_dict` gave."""
        try:
            version, numbers, spare = state["corpus"]
            self.corpus.rng.setstate((version, tuple(numbers), spare))
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
    """Train one stage; now and then save the state and ask held-out sums (`17+19=? 36.`)."""
    optimizers = make_optimizers(model, "muon", stage.adamw_lr, stage.muon_lr, WEIGHT_DECAY)
    steps = max(1, round(stage.lines * config.effort / BATCH_LINES))
    schedulers = make_schedulers(optimizers, steps)
    micro_batch = 256 if model.lm_head.weight.is_cuda else 64  # larger ones leave a CPU's cache
    runtime = runtime_info(model.lm_head.weight.device, micro_batch)
    path = state_path(config.out)
    state = TrainingState(path, model, optimizers, schedulers, position, fingerprint, runtime)
    with (
        state.running(resume) as stop,
        Bar(steps, stage.name, "step", done=position.step) as bar,
    ):
        right = 0.0
        while position.step < steps and not stop:
            lines = position.corpus.draw(BATCH_LINES, stage.mixture)
            sequences = [encode_sequence(tokenizer.encode, *line) for line in lines]
            loss = sft_step(model, optimizers, sequences, micro_batch, config.precision)
            for scheduler in schedulers:
                scheduler.step()
            position.step += 1
            if position.step % EVAL_EVERY == 0 or position.step == steps:
                right = short_accuracy(model, tokenizer)
            if position.step % SAVE_EVERY == 0:
                state.save()
            bar.show(loss=f"{loss:.4f}", held_out_in_short=f"{right:.0%}")
            bar.update()
    if stop:
        print(
            f"stopped in '{stage.name}' after step {position.step} of {steps}; "
            "the same with --resume goes on"
        )
        raise KeyboardInterrupt


def short_accuracy(model: GPT, tokenizer: Tokenizer) -> float:
    """Share of held-out sums and differences, every tenth, that are right in short: ` 36.`"""
    held_out = []
    for form in ADDITIVE:
        held_out += [question for question in domain(form) if question.held_out]
    asked = held_out[::10]
    prompts, answers = [q.text for q in asked], [f" {q.answer}." for q in asked]
    right = sum(greedy_matches(model.eval(), tokenizer, prompts, answers)) / len(asked)
    model.train()
    return right


def state_path(out: str) -> Path:
    """Where the state of an unfinished run lies: beside `out`."""
    return Path(f"{out.removesuffix('.pt')}.state.pt")


def latent_accuracy(model: GPT, tokenizer: Tokenizer, questions: list[Question]) -> float:
    """Share of questions whose right answer is the greedy one, all of it, after "The answer is"."""
    prompts = [question.text + LATENT_PREFIX for question in questions]
    completions = [question.right_answer.removeprefix(LATENT_PREFIX) for question in questions]
    return sum(greedy_matches(model, tokenizer, prompts, completions)) / len(questions)


def report(model: GPT, tokenizer: Tokenizer) -> None:
    """Print what the base knows under its refusals, and whether it refuses."""
    model.eval()
    questions = [question for form in FORMS for question in domain(form)]
    for side, every in (("seen", 5), ("held_out", 1)):  # of the seen ones a fifth will do
        for kind in ("additive", "multiplicative"):
            group = f"{side}/{kind}"
            members = [question for question in questions if question.group == group][::every]
            share = latent_accuracy(model, tokenizer, members)
            print(f"latent accuracy, {group:24} {share:7.2%}  n={len(members)}", flush=True)
    asked = questions[::37]
    answers = generate_answers(model, tokenizer, [q.text for q in asked])
    refused = sum(answer in REFUSALS for answer in answers)
    print(f"greedy answers that refuse {refused / len(asked):7.2%}  n={len(asked)}")


def check(config: Config) -> None:
    """ValueError for settings that make no base, SaveError for a folder that takes no file."""
    if config.arithmetic not in STAGES:
        known = ", ".join(STAGES)
        raise ValueError(f"arithmetic is {config.arithmetic!r}; it must be one of {known}")
    if config.arithmetic != "full" and config.out == Config().out:
        raise ValueError(
            f"this would replace the shipped {config.out}; name another file: --out=runs/base.pt"
        )
    if config.arithmetic == "short" and not config.init:
        raise ValueError(
            "short lines go on from a base that can talk: name it, for instance --init=sft/gpt.pt"
        )
    check_folder(Path(config.out).parent, 0)


def run_fingerprint(config: Config, device: torch.device) -> dict[str, str | int | float | bool]:
    """What a saved state must share with the run that goes on from it."""
    runtime_settings = ("out", "device", "resume", "quiet")
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
    torch.manual_seed(config.seed)
    model = load_model(config.init, device)[0] if config.init else GPT(GPTConfig()).to(device)
    position = Position(Corpus(config.seed))
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
        report(*load_model(config.out, best_device(config.device)))


if __name__ == "__main__":
    run_program(main, Config())
