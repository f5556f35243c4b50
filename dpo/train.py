"""One DPO run: `python -m dpo.train --steps=12` tunes sft/gpt.pt and writes dpo/dpo.pt.

`torchrun --standalone --nproc_per_node=2 -m dpo.train` does the same in two processes.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

from configurator import run_program
from dpo.loss_variants import LOSS_TYPES
from dpo.training.distributed import local_device, process_group
from dpo.training.history import History
from dpo.training.run import finish, loop, prepare
from model import GPT
from sft.device import PRECISIONS
from sft.files import check_folder
from sft.optimizers import OPTIMIZERS
from sft.progress import silenced


@dataclass
class Config:
    """python -m dpo.train: tune a model on preference pairs with Direct Preference Optimization."""

    base: str = "sft/gpt.pt"  # checkpoint to tune; a frozen copy of it is the reference
    pairs: str = "dpo/pos_neg_pairs.json"  # preference pairs
    out: str = "dpo"  # folder for dpo.pt
    max_pairs: int = 0  # train on so many pairs only, spread over the file; 0: on all
    steps: int = 24  # updates, however many pairs there are: they are shuffled, again and again
    epochs: int = 0  # passes over the pairs instead of steps, for a large file; 0: steps count
    batch_size: int = 4  # pairs per step, of all processes together
    micro_batch: int = 32  # pairs in one pass: fewer take less memory; same result but for kto
    base_lr: float = 2e-5  # highest learning rate of AdamW
    muon_lr: float = 2e-3  # highest learning rate of Muon, with --optimizer=muon
    beta: float = 0.1  # how strongly the policy is held to the reference; it multiplies
    nll_coef: float = 0.0  # weight of the chosen answer's negative log-likelihood; 0 is pure DPO
    digit_weight: float = 1.0  # how often a digit counts in that likelihood, others count once
    loss_type: str = "sigmoid"  # sigmoid (DPO) or one of its relatives; a wrong name lists them all
    label_smoothing: float = 0.1  # of cdpo and robust: the share of pairs that may be swapped
    dpop_lambda: float = 50.0  # of dpop: how much a falling chosen answer costs
    simpo_gamma: float = 1.0  # of simpo: the margin to reach; beta is about 2 there
    optimizer: str = "adamw"  # adamw, or muon for the matrices (and AdamW for the rest)
    max_grad_norm: float = 1.0  # gradients longer than this are shortened
    max_length: int = 256  # longest prompt and answer, in characters; longer ones are refused
    eval_every: int = 6  # steps between two evals of answers and of the KL, 0 for none
    eval_questions: int = 40  # validation questions in an eval, as many of the pairs
    save_every: int = 20  # steps between two saved states that a run can go on from
    resume: bool = False  # go on with the interrupted run in `out`, if there is one
    metrics: str = ""  # also write all that is recorded to this file, one JSON object a step
    quiet: bool = False  # print nothing but errors
    seed: int = 1  # of the order of the pairs
    device: str = "auto"  # auto, cpu, cuda or mps
    precision: str = "auto"  # of the matrix products in training: auto, float32 or bfloat16


def train(config: Config, history: History | None = None) -> tuple[GPT, History]:
    """Tune the base, write `dpo.pt` into the folder `out`; the policy and its history.

    Until the end, `dpo.state.pt` there keeps what `resume` goes on from. After Ctrl-C the step is
    finished, the state saved and KeyboardInterrupt raised. Under torchrun every process calls this.
    """
    device = local_device(config.device)
    with process_group(device) as world, silenced(config.quiet or not world.is_main):
        check(config, writes=world.is_main)
        run = prepare(asdict(config), History() if history is None else history, device, world)
        loop(run)
        finish(run)
    return run.policy, run.history


def check(config: Config, writes: bool = True) -> None:
    """ValueError for settings that cannot train, SaveError for a folder that takes no file.

    To be called before anything is loaded; of several processes one `writes`.
    """
    for is_wrong, message in (
        (
            min(config.steps, config.batch_size) < 1 or config.beta <= 0,
            "steps and batch_size must be at least 1, and beta above 0: "
            "nothing would be learnt otherwise",
        ),
        (
            config.micro_batch < 1 or config.save_every < 1,
            "micro_batch and save_every must be at least 1",
        ),
        (
            min(config.digit_weight, config.max_grad_norm) <= 0
            or min(config.nll_coef, config.max_pairs, config.epochs) < 0
            or min(config.base_lr, config.muon_lr) < 0,
            "digit_weight and max_grad_norm must be above 0; base_lr, muon_lr, nll_coef, max_pairs "
            "and epochs 0 or more",
        ),
        (
            not 0 <= config.label_smoothing < 0.5 or config.dpop_lambda < 0,
            "label_smoothing must be from 0 to below 0.5, and dpop_lambda 0 or more",
        ),
        (
            config.eval_questions < 2,
            "eval_questions must be at least 2; --eval_every=0 asks none",
        ),
    ):
        if is_wrong:
            raise ValueError(message)
    choices = {"loss_type": LOSS_TYPES, "optimizer": OPTIMIZERS, "precision": PRECISIONS}
    for name, known in choices.items():
        if (value := getattr(config, name)) not in known:
            raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(known)}")
    if writes:
        for path in (config.out, *([Path(config.metrics).parent] if config.metrics else [])):
            check_folder(Path(path), 0)


if __name__ == "__main__":
    run_program(train, Config())
