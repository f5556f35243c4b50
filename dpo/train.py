"""One DPO run: `python -m dpo.train --beta=0.2 --epochs=3` tunes sft/gpt.pt on the pairs and writes dpo/dpo.pt.

`torchrun --standalone --nproc_per_node=2 -m dpo.train` does the same in two processes. `dpo_step` and `update` are
shared with the notebook; only the loop around them is written there again, to be read.
"""

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from configurator import run_program
from dpo.batches import Example, PairBatch, batches, compute_reference_logps, encode_pairs, pair_logits
from dpo.curves import describe
from dpo.history import History, Observer
from dpo.loss import LOSS_TYPES, dpo_loss, sequence_logps
from dpo.pairs import Pair, load_pairs
from dpo.processes import Processes, joined, own_device
from dpo.provenance import environment, examples_hash, weights_hash
from model import DIGIT_IDS, GPT
from sft.bar import Bar, hushed
from sft.checkpoint import CheckpointError, checkpoint_bytes, identify, is_plain, load_checkpoint, load_model, pack
from sft.device import autocast, best_precision, out_of_memory_in_words
from sft.files import check_folder, write_atomically
from sft.optimizers import OPTIMIZERS, make_optimizers, make_schedulers
from sft.state import TrainingState, announce_replaced, circumstances, remove_state
from sft.tokenizer import Tokenizer, load_tokenizer

STATE = "dpo.state.pt"  # in the folder `out`, while a run is not finished
USED_BY = {"label_smoothing": ("cdpo", "robust"), "dpop_lambda": ("dpop",), "simpo_gamma": ("simpo",)}
OBJECTIVE = ("beta", "nll_coef", "loss_type", "digit_weight", "label_smoothing", "dpop_lambda", "simpo_gamma")
PASSING = ("out", "device", "micro_batch", "save_every", "resume", "metrics", "quiet")  # no result depends on these
METRICS = (
    "loss", "loss/preference", "nll", "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies",
    "logps/chosen", "logps/rejected",
)  # fmt: skip


@dataclass
class Config:
    """python -m dpo.train: tune a model on preference pairs with Direct Preference Optimization."""

    base: str = "sft/gpt.pt"  # checkpoint to tune; a frozen copy of it is the reference
    pairs: str = "dpo/pos_neg_pairs.json"  # preference pairs
    out: str = "dpo"  # folder for dpo.pt
    max_pairs: int = 0  # train on the first so many pairs only, 0: on all
    epochs: int = 1  # passes over the pairs
    batch_size: int = 64  # pairs per step, of all processes together
    micro_batch: int = 32  # pairs in one pass: fewer take less memory and give the same result
    base_lr: float = 1e-5  # highest learning rate of AdamW
    muon_lr: float = 2e-3  # highest learning rate of Muon, with --optimizer=muon
    beta: float = 0.1  # how strongly the policy is held to the reference; it multiplies
    nll_coef: float = 0.2  # weight of the chosen answer's negative log-likelihood, 0 is pure DPO
    digit_weight: float = 1.0  # how often a digit counts in that likelihood; other characters count once
    loss_type: str = "sigmoid"  # sigmoid (DPO), ipo, hinge, cdpo, robust, dpop, length_norm, simpo or assignment
    label_smoothing: float = 0.1  # of cdpo and robust: which share of the pairs may be the wrong way round
    dpop_lambda: float = 50.0  # of dpop: how much a falling chosen answer costs
    simpo_gamma: float = 1.0  # of simpo: the margin to reach; beta is about 2 there
    optimizer: str = "adamw"  # adamw, or muon (with AdamW for what is no matrix)
    max_grad_norm: float = 1.0  # gradients longer than this are shortened
    max_length: int = 256  # longest prompt and answer, in characters; longer ones are refused, never cut
    eval_every: int = 10  # steps between two looks at answers and at the KL to the reference, 0 for none
    eval_questions: int = 100  # held-out questions in a look, and as many of the pairs
    save_every: int = 20  # steps between two saved states that a run can go on from
    resume: bool = False  # go on with the interrupted run in `out`, if there is one
    metrics: str = ""  # also write all that is recorded to this file, one JSON object a step
    quiet: bool = False  # print nothing but errors
    seed: int = 1  # of the order of the pairs
    device: str = "auto"  # auto, cpu, cuda or mps
    precision: str = "auto"  # of the matrix products in training: auto, float32 or bfloat16


def dpo_step(
    policy: GPT,
    batch: PairBatch,
    beta: float,
    nll_coef: float = 0.0,
    loss_type: str = "sigmoid",
    digit_weight: float = 1.0,
    **variant: float,
) -> tuple[Tensor, dict[str, float]]:
    """Mean loss over the batch, ready for backward, and its metrics.

    DPO (Eq. 7), or another `loss_type` with the numbers of that `variant` (`dpo_loss`); plus `nll_coef` times the
    chosen answer's negative log-likelihood, mean per character of each answer: the RPO term of Pang et al. 2024
    (arXiv 2404.19733). In that mean a digit counts `digit_weight` times. Where the loss is `assignment`, an answer is
    the whole text (`encode_pairs`), also in the metrics.
    """
    chosen, rejected = batch.pairs.chosen, batch.pairs.rejected
    chosen_logits, rejected_logits = pair_logits(policy, batch.pairs)
    chosen_logps = sequence_logps(chosen_logits, chosen.targets, chosen.completion_mask)
    rejected_logps = sequence_logps(rejected_logits, rejected.targets, rejected.completion_mask)
    lengths = [answer.completion_mask.sum(dim=1) for answer in (chosen, rejected)]
    four_logps = chosen_logps, rejected_logps, batch.reference_chosen_logps, batch.reference_rejected_logps
    losses, chosen_rewards, rejected_rewards = dpo_loss(*four_logps, beta, loss_type, *lengths, **variant)
    is_digit = (chosen.targets >= DIGIT_IDS[0]) & (chosen.targets <= DIGIT_IDS[-1])
    weights = chosen.completion_mask * (1 + (digit_weight - 1) * is_digit)
    nll = (-sequence_logps(chosen_logits, chosen.targets, weights) / weights.sum(dim=1)).mean()
    loss = losses.mean() + nll_coef * nll
    margins = chosen_rewards - rejected_rewards
    values = (
        loss, losses.mean(), nll, chosen_rewards.mean(), rejected_rewards.mean(), margins.mean(),
        (margins > 0).float().mean(), chosen_logps.mean(), rejected_logps.mean(),
    )  # fmt: skip
    return loss, {name: value.item() for name, value in zip(METRICS, values, strict=True)}


def accumulate(policy: GPT, parts: list[PairBatch], precision: str, **objective: float | str) -> dict[str, float]:
    """Add up the gradients of a batch's mean loss, part by part; return the batch's metrics.

    Every part weighs as many pairs as it holds, so the sum is the gradient of the whole batch. `objective` are the
    settings of `dpo_step`. FloatingPointError, and no gradients, where a loss is not finite.
    """
    metrics, pairs, device = dict.fromkeys(METRICS, 0.0), sum(map(len, parts)), policy.lm_head.weight.device
    for part in parts:
        share = len(part) / pairs
        with out_of_memory_in_words(len(part)):
            with autocast(device, precision):
                loss, of_part = dpo_step(policy, part, **objective)
            if not math.isfinite(of_part["loss"]):
                raise _not_finite(policy, f"the loss is {of_part['loss']}", [part])
            (share * loss).backward()
        metrics = {name: metrics[name] + share * value for name, value in of_part.items()}
    return metrics


def update(
    policy: GPT,
    parts: list[PairBatch],
    optimizers: list[torch.optim.Optimizer],
    schedulers: list[LambdaLR],
    max_grad_norm: float,
) -> dict[str, float]:
    """Clip the gradients that `parts` left, step, clear them.

    FloatingPointError, before anything moves, if they are not finite.
    """
    grad_norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), max_grad_norm).item()
    if not math.isfinite(grad_norm):
        raise _not_finite(policy, f"the gradient is {grad_norm}", parts)
    lr = max(optimizer.param_groups[0]["lr"] for optimizer in optimizers)
    for optimizer, scheduler in zip(optimizers, schedulers, strict=True):
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad(set_to_none=True)
    return {"grad_norm": grad_norm, "lr": lr}


def _not_finite(policy: GPT, what: str, parts: list[PairBatch]) -> FloatingPointError:
    """The error to raise, with no gradients left behind."""
    policy.zero_grad(set_to_none=True)
    lines = ", ".join(map(str, sorted(line for part in parts for line in part.lines))) or "of another process"
    return FloatingPointError(f"{what} for the pairs of lines {lines}; nothing was changed by this step: lower base_lr")


def check(config: Config, writes: bool = True) -> None:
    """ValueError for settings that cannot train anything, SaveError for a folder that cannot be written to.

    To be called before anything is loaded; of several processes one `writes`.
    """
    if config.epochs < 1 or config.batch_size < 1 or config.beta <= 0:
        raise ValueError(
            "epochs and batch_size must be at least 1, and beta above 0: nothing would be learnt otherwise"
        )
    if config.micro_batch < 1 or config.save_every < 1:
        raise ValueError("micro_batch and save_every must be at least 1")
    if config.digit_weight <= 0 or config.max_grad_norm <= 0 or config.nll_coef < 0 or config.max_pairs < 0:
        raise ValueError("digit_weight and max_grad_norm must be above 0, and nll_coef and max_pairs 0 or more")
    if not 0 <= config.label_smoothing < 0.5 or config.dpop_lambda < 0:
        raise ValueError("label_smoothing must be from 0 to below 0.5, and dpop_lambda 0 or more")
    if config.eval_questions < 2:
        raise ValueError("eval_questions must be at least 2; --eval_every=0 asks none")
    if config.loss_type not in LOSS_TYPES:
        raise ValueError(f"loss_type is {config.loss_type!r}; it must be one of {', '.join(LOSS_TYPES)}")
    if config.optimizer not in OPTIMIZERS:
        raise ValueError(f"optimizer is {config.optimizer!r}; it must be one of {', '.join(OPTIMIZERS)}")
    for folder in [Path(config.out), *([Path(config.metrics).parent] if config.metrics else [])] if writes else []:
        check_folder(folder, 0)


def lasting(settings: dict) -> dict:
    """Those settings of a run that its result depends on."""
    return {name: value for name, value in settings.items() if name not in PASSING}


def made_from(config: Config, reference: GPT, examples: list[Example]) -> dict[str, str | int | float | bool]:
    """What a saved state must share with the run that goes on from it: the settings that its result depends on,
    and hashes of base and data, wherever their files lie."""
    settings = {n: v for n, v in lasting(asdict(config)).items() if n not in ("base", "pairs", "precision")}
    precision = best_precision(reference.lm_head.weight.device, config.precision)
    return settings | {"precision": precision, "base": weights_hash(reference), "pairs": examples_hash(examples)}


def save_run(out: str | Path, policy: GPT, pairs: list[Pair], history: History, config: dict, environment: str) -> None:
    """Write `dpo.pt` with what it was made of; that of another run is kept as `dpo.previous.pt`."""
    path = Path(out) / "dpo.pt"
    rows = [[pair.prompt, pair.chosen, pair.rejected] for pair in pairs]
    made_of = {"config": config, "environment": environment}
    new = checkpoint_bytes(policy, pairs=pack(rows), history=pack(history.state_dict()), **made_of)
    if path.exists() and not _is_of(path, made_of):
        write_atomically(path.with_name("dpo.previous.pt"), path.read_bytes())  # a copy: there is always a dpo.pt
    write_atomically(path, new)


def _is_of(path: Path, made_of: dict) -> bool:
    """Whether this is a result, or a part of it, of the same run."""
    try:
        extras = load_checkpoint(path).extras
    except CheckpointError:
        return False
    if not is_plain(extras.get("config")) or extras.get("environment") != made_of["environment"]:
        return False
    return lasting(extras["config"]) == lasting(made_of["config"])


def train(config: Config, history: History | None = None) -> tuple[GPT, History]:
    """Tune the base, write `dpo.pt` into the folder `out`, return the policy and its history.

    Until the end, `dpo.state.pt` there keeps what `resume` goes on from. After Ctrl-C the step is finished, the state
    saved and KeyboardInterrupt raised. Under torchrun, every process calls this.
    """
    device = own_device(config.device)
    with joined(device) as processes, hushed(config.quiet or not processes.first):
        check(config, processes.first)
        return _run(config, History() if history is None else history, device, processes)


def _run(config: Config, history: History, device: torch.device, processes: Processes) -> tuple[GPT, History]:
    tokenizer, precision = load_tokenizer(), best_precision(device, config.precision)
    policy, reference = (load_model(config.base, device, len(tokenizer)) for _ in range(2))
    pairs = _load_pairs(config, tokenizer, policy.config.block_size)
    made_of = environment(device, config.precision, config.seed, config.base, config.pairs)
    examples = encode_pairs(tokenizer, pairs, config.loss_type)
    steps = math.ceil(len(examples) / config.batch_size) * config.epochs
    print(f"{identify(config.base)}\n{made_of}\n{len(examples)} pairs, {steps} steps of {config.batch_size}")
    for name, loss_types in USED_BY.items():
        if getattr(config, name) != getattr(Config(), name) and config.loss_type not in loss_types:
            print(f"note: {name} does nothing with the loss {config.loss_type}, only with {' and '.join(loss_types)}")
    observer = Observer(reference, tokenizer, pairs, config.eval_questions, config.seed)
    with autocast(device, precision):
        scored = compute_reference_logps(reference, examples, config.micro_batch, "reference", processes.share)
    reference_logps = processes.sum(scored.to(device)).cpu()
    optimizers = make_optimizers(policy, config.optimizer, config.base_lr, config.muon_lr)
    schedulers = make_schedulers(optimizers, steps)
    made = made_from(config, reference, examples)
    here = circumstances(device, config.micro_batch, processes.count)
    path = Path(config.out) / STATE
    state = TrainingState(path, policy, optimizers, schedulers, history, made, here, writes=processes.first)
    if not config.resume:
        announce_replaced(state.path)
    order = (config.batch_size, config.seed, config.epochs)
    with (
        state.running(config.resume) as stop,
        Bar(steps, "DPO", "step", done=len(history)) as bar,
        _metrics_file(config.metrics if processes.first else "", history) as record,
    ):
        processes.check_alike(len(history), weights_hash(policy), *map(str, made.values()))
        if config.eval_every and not history.looks and processes.first:
            history.append_look(observer.look(policy))
            record()
        start = len(history)
        for parts in batches(examples, reference_logps, *order, start, device, config.micro_batch, processes.share):
            metrics = accumulate(policy, parts, precision, **objective(config))
            metrics = processes.average(policy, metrics, sum(map(len, parts)))
            metrics |= update(policy, parts, optimizers, schedulers, config.max_grad_norm)
            history.append(metrics)
            looking = config.eval_every and (len(history) % config.eval_every == 0 or len(history) == steps)
            if looking and processes.first:
                history.append_look(observer.look(policy))
            if len(history) % config.save_every == 0:
                state.save()
            record()
            held_out = f"{history.looks['exact/held_out'][-1]:.0%}" if history.looks else "-"
            bar.show(
                loss=f"{metrics['loss/preference']:.3f}", margin=f"{metrics['rewards/margins']:.2f}", held_out=held_out
            )
            bar.update()
            if processes.any(bool(stop)):
                break
    processes.wait()  # or torchrun ends the first while it saves, since the others have ended
    if len(history) < steps:
        print(f"stopped after step {len(history)} of {steps}; the same command with --resume goes on from there")
        raise KeyboardInterrupt
    if processes.first:
        save_run(config.out, policy, pairs, history, config=asdict(config), environment=made_of)
        remove_state(state.path)
    processes.wait()
    print(f"wrote {Path(config.out) / 'dpo.pt'}\n{describe(history)}")
    return policy, history


def objective(config: Config) -> dict[str, float | str]:
    """What is minimised: the settings that `dpo_step` takes."""
    return {name: getattr(config, name) for name in OBJECTIVE}


@contextmanager
def _metrics_file(path: str, history: History) -> Iterator[Callable[[], None]]:
    """A function that adds the history's last step to the file as a line of JSON; the steps before it stand there.

    A file that cannot be written, on a full disk say, does not stop the training.
    """
    if not path:
        yield lambda: None
        return
    lines = [json.dumps(history.after(step)) for step in range(0 if history.looks else 1, len(history) + 1)]
    Path(path).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    failed = False

    def record() -> None:
        nonlocal failed
        try:
            if not failed:
                with open(path, "a", encoding="utf-8") as file:
                    file.write(json.dumps(history.after(len(history))) + "\n")
        except OSError as error:
            failed = True
            print(f"note: {path} is not written any more ({error.strerror}); the training goes on")

    yield record


def _load_pairs(config: Config, tokenizer: Tokenizer, block_size: int) -> list[Pair]:
    """The pairs, with what is odd about them printed."""
    file = load_pairs(config.pairs, tokenizer, min(config.max_length, block_size))
    for warning in file.warnings:
        print(f"warning: {Path(config.pairs).name}: {warning}")
    pairs = file.pairs[: config.max_pairs or None]
    if len(pairs) < config.batch_size:
        print(f"note: {len(pairs)} pairs are less than one batch of {config.batch_size}: one small step an epoch")
    return pairs


if __name__ == "__main__":
    run_program(train, Config())
