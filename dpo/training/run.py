"""A whole run: prepare it, loop over its steps, finish it. `settings` are those of `dpo.train`."""

import copy
import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from dpo.data.batches import TokenizedPair, batch_order, batches, tokenize_pairs
from dpo.data.pair import Pair
from dpo.data.pair_file import load_pairs, spread
from dpo.loss_variants import LOSS_TYPES, losses_with, settings_of
from dpo.training.diagnosis import describe_run
from dpo.training.distributed import World
from dpo.training.history import History
from dpo.training.logps import compute_reference_logps
from dpo.training.monitor import Monitor
from dpo.training.provenance import describe_provenance, pairs_hash, weights_hash
from dpo.training.step import train_step
from model import GPT
from sft.checkpoint.archive import CheckpointError
from sft.checkpoint.resume import (
    TrainingState,
    remove_state,
    runtime_info,
    warn_overwritten_state,
)
from sft.checkpoint.weights import (
    checkpoint_bytes,
    identify,
    is_plain,
    load_checkpoint,
    load_model,
    to_json_tensor,
)
from sft.device import autocast, best_precision
from sft.files import write_atomically
from sft.optimizers import make_optimizers, make_schedulers
from sft.progress import Bar
from sft.tokenizer import Tokenizer

STATE = "dpo.state.pt"  # in the folder `out`, while a run is not finished
VARIANT_SETTINGS = {name: value for kind in LOSS_TYPES for name, value in settings_of(kind).items()}
OBJECTIVE = ("beta", "nll_coef", "loss_type", "digit_weight", *VARIANT_SETTINGS)
RUNTIME_SETTINGS = (  # no result depends on these (kto's a little on micro_batch)
    "out", "device", "micro_batch", "save_every", "resume", "metrics", "quiet",
)  # fmt: skip


@dataclass
class Run:
    """Everything that a run needs once it is prepared."""

    settings: dict
    pairs: list[Pair]
    tokenized: list[TokenizedPair]
    reference_logps: Tensor  # (N, 2): chosen and rejected of every pair that the steps use
    policy: GPT
    monitor: Monitor
    history: History
    state: TrainingState  # optimizers and schedulers are in it
    world: World
    provenance: str  # one line, which is kept in dpo.pt

    @property
    def steps(self) -> int:
        return count_steps(len(self.pairs), self.settings)


def count_steps(pairs: int, settings: dict) -> int:
    """As many as the setting says, or those of all epochs, of which the last may be smaller."""
    if not settings["epochs"]:
        return settings["steps"]
    return math.ceil(pairs / settings["batch_size"]) * settings["epochs"]


def prepare(settings: dict, history: History, device: torch.device, world: World) -> Run:
    """Load models and pairs, score the pairs with the reference, make optimizers and schedules."""
    base, micro_batch = settings["base"], settings["micro_batch"]
    policy, tokenizer = load_model(base, device)
    reference = copy.deepcopy(policy)
    pairs = _load_pairs(settings, tokenizer, policy.config.block_size)
    provenance = describe_provenance(
        device, settings["precision"], settings["seed"], base, settings["pairs"]
    )
    tokenized = tokenize_pairs(tokenizer, pairs, settings["loss_type"])
    steps = count_steps(len(pairs), settings)
    print(f"{identify(base)}\n{provenance}")
    print(f"{len(pairs)} pairs, {steps} steps of {settings['batch_size']}")
    _note_unused_settings(settings)
    monitor = Monitor(reference, tokenizer, pairs, settings["eval_questions"], settings["seed"])
    reference_logps = _score_used(reference, tokenized, settings, world)
    optimizers = make_optimizers(
        policy, settings["optimizer"], settings["base_lr"], settings["muon_lr"]
    )
    state = TrainingState(
        Path(settings["out"]) / STATE,
        policy,
        optimizers,
        make_schedulers(optimizers, steps),
        history,
        run_fingerprint(settings, reference, tokenized),
        runtime_info(device, micro_batch, world.world_size),
        writes=world.is_main,
    )
    return Run(
        settings, pairs, tokenized, reference_logps,
        policy, monitor, history, state, world, provenance,
    )  # fmt: skip


def _score_used(
    reference: GPT, tokenized: list[TokenizedPair], settings: dict, world: World
) -> Tensor:
    """The reference's log-probabilities (N, 2), of the pairs that the steps use; 0 elsewhere."""
    device = reference.lm_head.weight.device
    used = sorted(set(chain.from_iterable(batch_order(len(tokenized), **_order(settings)))))
    shard_logps = torch.zeros(len(tokenized), 2)
    with autocast(device, settings["precision"]):
        shard_logps[used] = compute_reference_logps(
            reference, [tokenized[i] for i in used],
            settings["micro_batch"], "reference", world.shard,
        )  # fmt: skip
    # Each process has scored its shard and left zeros elsewhere: the sum is complete.
    return world.all_reduce(shard_logps.to(device)).cpu()


def _order(settings: dict) -> dict[str, int]:
    """The settings that decide which pairs are in which batch; epochs, if any, replace steps."""
    order = {name: settings[name] for name in ("batch_size", "seed", "steps", "epochs")}
    return order | {"steps": 0} if settings["epochs"] else order


def loop(run: Run) -> None:
    """All steps that are left to do; KeyboardInterrupt, with the state saved, after Ctrl-C."""
    settings, history, world = run.settings, run.history, run.world
    if not settings["resume"]:
        warn_overwritten_state(run.state.path)
    metrics_path = settings["metrics"] if world.is_main else ""
    with (
        run.state.running(settings["resume"]) as stop,
        Bar(run.steps, "DPO", "step", done=len(history)) as bar,
        _metrics_file(metrics_path, history) as record,
    ):
        fingerprint = map(str, run.state.fingerprint.values())
        world.check_same_start(len(history), weights_hash(run.policy), *fingerprint)
        if settings["eval_every"] and not history.evals and world.is_main:
            history.append_eval(run.monitor.evaluate(run.policy))  # before the first step
            record()
        for micro_batches in _remaining_batches(run):
            _step_and_eval(run, micro_batches)
            record()
            bar.show(**_latest(history))
            bar.update()
            if world.any_rank(bool(stop)):
                break
    world.barrier()  # or torchrun ends the main process while it saves, since the others have ended
    if len(history) < run.steps:
        print(
            f"stopped after step {len(history)} of {run.steps}; "
            "the same command with --resume goes on from there"
        )
        raise KeyboardInterrupt


def _remaining_batches(run: Run) -> Iterator:
    """The batches after the steps that the history has, of this process, as micro-batches."""
    settings = run.settings
    return batches(
        run.tokenized,
        run.reference_logps,
        **_order(settings),
        start=len(run.history),
        device=run.policy.lm_head.weight.device,
        micro_batch=settings["micro_batch"],
        shard=run.world.shard,
    )


def _step_and_eval(run: Run, micro_batches: list) -> None:
    """One step, recorded; an eval and a saved state where they are due."""
    settings, history, state = run.settings, run.history, run.state
    metrics = train_step(
        run.policy,
        micro_batches,
        state.optimizers,
        state.schedulers,
        max_grad_norm=settings["max_grad_norm"],
        precision=settings["precision"],
        world=run.world,
        **objective(settings),
    )
    history.append(metrics)
    step, every = len(history), settings["eval_every"]
    if every and (step % every == 0 or step == run.steps) and run.world.is_main:
        history.append_eval(run.monitor.evaluate(run.policy))
    if step % settings["save_every"] == 0:
        state.save()


def _latest(history: History) -> dict[str, str]:
    """What stands behind the bar."""
    exact = f"{history.evals['exact/held_out'][-1]:.0%}" if history.evals else "-"
    return {
        "loss": f"{history['loss/preference'][-1]:.3f}",
        "margin": f"{history['rewards/margins'][-1]:.2f}",
        "held_out": exact,
    }


def finish(run: Run) -> None:
    """Write `dpo.pt`, remove the state, say in words how the run went."""
    out = run.settings["out"]
    if run.world.is_main:
        save_run(out, run.policy, run.pairs, run.history, run.settings, run.provenance)
        remove_state(run.state.path)
    run.world.barrier()
    print(f"wrote {Path(out) / 'dpo.pt'}\n{describe_run(run.history)}")


def objective(settings: dict) -> dict[str, float | str]:
    """What is minimised: those of a run's settings that `dpo_step` takes."""
    return {name: settings[name] for name in OBJECTIVE}


def result_settings(settings: dict) -> dict:
    """The settings that the result of a run depends on: of steps and epochs the one that counts."""
    unused = {*RUNTIME_SETTINGS, "steps" if settings.get("epochs") else "epochs"}
    return {name: value for name, value in settings.items() if name not in unused}


def run_fingerprint(
    settings: dict, reference: GPT, tokenized: list[TokenizedPair]
) -> dict[str, str | int | float | bool]:
    """What a saved state must share with the run that goes on from it.

    The settings that its result depends on, and hashes of base and pairs, wherever their files lie.
    """
    fingerprint = result_settings(settings)
    fingerprint["precision"] = best_precision(
        reference.lm_head.weight.device, settings["precision"]
    )
    return fingerprint | {"base": weights_hash(reference), "pairs": pairs_hash(tokenized)}


def save_run(
    out: str | Path,
    policy: GPT,
    pairs: list[Pair],
    history: History,
    settings: dict,
    provenance: str,
) -> None:
    """Write `dpo.pt` with what it was made of; that of another run stays as `dpo.previous.pt`."""
    path = Path(out) / "dpo.pt"
    rows = [[pair.prompt, pair.chosen, pair.rejected] for pair in pairs]
    new = checkpoint_bytes(
        policy,
        pairs=to_json_tensor(rows),
        history=to_json_tensor(history.state_dict()),
        config=settings,
        environment=provenance,
    )
    if path.exists() and not _is_of_run(path, settings, provenance):
        previous = path.with_name("dpo.previous.pt")
        write_atomically(previous, path.read_bytes())  # a copy: there is a dpo.pt at all times
    write_atomically(path, new)


def _is_of_run(path: Path, settings: dict, provenance: str) -> bool:
    """Whether this is a result, or a part of it, of the same run."""
    try:
        extras = load_checkpoint(path).extras
    except CheckpointError:
        return False
    if not is_plain(extras.get("config")) or extras.get("environment") != provenance:
        return False
    return result_settings(extras["config"]) == result_settings(settings)


@contextmanager
def _metrics_file(path: str, history: History) -> Iterator[Callable[[], None]]:
    """A function that adds the history's last step to the file, as a line of JSON.

    The steps before it stand there already. A file that cannot be written, on a full disk say, does
    not stop the training.
    """
    if not path:
        yield lambda: None
        return
    first = 0 if history.evals else 1
    lines = [json.dumps(history.after(step)) for step in range(first, len(history) + 1)]
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


def _load_pairs(settings: dict, tokenizer: Tokenizer, block_size: int) -> list[Pair]:
    """The pairs, with what is odd about them printed."""
    path, batch_size = settings["pairs"], settings["batch_size"]
    file = load_pairs(path, tokenizer, min(settings["max_length"], block_size))
    for warning in file.warnings:
        print(f"warning: {Path(path).name}: {warning}")
    pairs = spread(file.pairs, settings["max_pairs"])
    if settings["epochs"] and len(pairs) < batch_size:
        print(
            f"note: {len(pairs)} pairs are less than one batch of {batch_size}: "
            "one small step an epoch"
        )
    return pairs


def _note_unused_settings(settings: dict) -> None:
    """Say which settings were changed although this run's loss does not have them."""
    loss_type = settings["loss_type"]
    for name, default in VARIANT_SETTINGS.items():
        if settings[name] != default and name not in settings_of(loss_type):
            others = " and ".join(losses_with(name))
            print(f"note: {name} does nothing with the loss {loss_type}, only with {others}")
