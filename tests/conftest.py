"""A tiny world: a two-layer model with the real alphabet, eight pairs, and runs that train it."""

import json
import os
import runpy
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from dpo.train import Config, train
from dpo.training.history import History
from model import GPT, GPTConfig
from sft.checkpoint.weights import Checkpoint, load_checkpoint, load_model, save_checkpoint
from sft.corpus import everyday_lines
from sft.sequences import collate_sequences, encode_sequence
from sft.tokenizer import load_tokenizer
from sft.unanswerable import KINDS

# In the background of a script interrupts are ignored, and children inherit that; some tests are
# about interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1)  # a tiny model gains nothing from more
os.environ.setdefault("OMP_NUM_THREADS", "1")  # neither in kernels and other processes

ROOT = Path(__file__).parents[1]
TINY = {
    "block_size": 96,
    "vocab_size": 74,
    "n_layer": 2,
    "n_head": 2,
    "n_embd": 16,
    "dropout": 0.0,
    "bias": False,
}
SUMS = ((1, 2), (3, 4), (15, 6), (27, 48), (9, 9), (30, 31), (5, 0), (12, 13))


def pytest_xdist_auto_num_workers(config):
    """No worker for a single file, which one would run alone; else as many as xdist finds cores."""
    return 0 if len(config.args) == 1 and ".py" in config.args[0] else None


@pytest.fixture(scope="session")
def tokenizer():
    return load_tokenizer()


@pytest.fixture(scope="session")
def shipped_base():
    """The model in sft/gpt.pt. It is shared: only to be asked, never to be trained."""
    return load_model(ROOT / "sft/gpt.pt")[0]


def make_tiny():
    """Random weights, larger than usual, so that other inputs clearly give other outputs."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(**TINY)).eval()
    for parameter in model.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def write_tiny_pairs(path):
    pairs = [
        {
            "positive": f"{a}+{b}=? The answer is {a + b}.",
            "negative": f"{a}+{b}=? Sorry, I don't know.",
        }
        for a, b in SUMS
    ]
    path.write_text(json.dumps(pairs))
    return path


@pytest.fixture
def tiny():
    return make_tiny()


@pytest.fixture
def base_file(tiny, tmp_path):
    save_checkpoint(tmp_path / "base.pt", tiny)
    return tmp_path / "base.pt"


@pytest.fixture
def pairs_file(tmp_path):
    return write_tiny_pairs(tmp_path / "pairs.json")


@dataclass
class TinyRun:
    """What came of one run of `dpo.train`."""

    policy: GPT
    history: History
    config: Config

    @property
    def path(self) -> Path:
        return Path(self.config.out) / "dpo.pt"

    @property
    def saved(self) -> Checkpoint:
        return load_checkpoint(self.path)


def train_tiny(folder, **settings):
    """Train base.pt on pairs.json, both of this folder; one pass if not asked otherwise."""
    files = {"base": "base.pt", "pairs": "pairs.json", "out": "run"}
    files = {name: str(folder / file) for name, file in files.items()}
    one_pass = {"epochs": 1, "batch_size": 64, "eval_every": 0}
    config = Config(**files | {"device": "cpu"} | one_pass | settings)
    return TinyRun(*train(config), config)


@pytest.fixture
def tiny_run(base_file, pairs_file, tmp_path):
    """`tiny_run(**settings)` trains the tiny base on the eight pairs, into tmp_path / "run"."""
    return lambda **settings: train_tiny(tmp_path, **settings)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """A folder with the tiny base and the eight pairs, for runs that several tests read."""
    folder = tmp_path_factory.mktemp("tiny")
    save_checkpoint(folder / "base.pt", make_tiny())
    write_tiny_pairs(folder / "pairs.json")
    return folder


@dataclass
class Ended:
    """How a program ended, and what it said."""

    code: int
    out: str
    err: str


@pytest.fixture
def run_program(monkeypatch, capsys):
    """`run_program("dpo.train", "--beta=0.2")` does what `python -m` does, in this process."""

    def run(module, *words):
        capsys.readouterr()
        code = 0
        with monkeypatch.context() as patch:
            patch.delitem(sys.modules, module, raising=False)  # or runpy warns
            patch.setattr(sys, "argv", [module, *map(str, words)])
            try:
                runpy.run_module(module, run_name="__main__")
            except SystemExit as ending:
                code = ending.code or 0
        return Ended(code, *capsys.readouterr())

    return run


def course_file(path, model, prefix="_orig_mod.", key="model"):
    """The layout of the assignment's gpt.pt: prefixed float32 names, optimizer state, counters."""
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 4, dtype=torch.long), torch.ones(1, 4, dtype=torch.long))[1].backward()
    optimizer.step()
    torch.save(
        {
            key: {prefix + name: tensor for name, tensor in model.state_dict().items()},
            "model_args": TINY | {"dropout": 0.2},
            "optimizer": optimizer.state_dict(),
            "iter_num": 5000,
            "best_val_loss": torch.tensor(0.3),
            "config": {"learning_rate": 1e-3, "compile": True},
        },
        path,
    )


def teach(model, tokenizer, prompts, answers, steps=150):
    """Train the model until it gives these answers."""
    batch = collate_sequences(
        [encode_sequence(tokenizer.encode, p, a) for p, a in zip(prompts, answers, strict=True)]
    )
    targets = batch.targets.masked_fill(~batch.completion_mask, -1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        model(batch.inputs, targets)[1].backward()
        optimizer.step()


def make_terse(tokenizer):
    """A tiny model that says " 5." or less to whatever it is asked, and so is quick to ask."""
    model = make_tiny()
    prompts = [kind.example for kind in KINDS.values()] + [f"{a}+{b}=?" for a, b in SUMS]
    teach(model, tokenizer, prompts, [" 5."] * len(prompts), steps=60)
    return model


def shorten_small_talk(monkeypatch):
    """Ask 40 everyday questions instead of 725, where a test is not about them."""
    few = everyday_lines()[:40]
    monkeypatch.setattr("dpo.evaluation.retention.everyday_lines", lambda: few)


def texts_in(figure):
    """All texts that stand in the axes of a figure."""
    return [text.get_text() for axis in figure.axes for text in axis.texts]


def same_bits(one, other):
    """Whether two models, or their state dicts, have the same tensors to the last bit."""
    one, other = (m if isinstance(m, dict) else m.state_dict() for m in (one, other))
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)
