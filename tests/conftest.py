"""A tiny world: a two-layer model with the real alphabet, and a few pairs."""

import json
import os
import signal

import pytest
import torch

from model import GPT, GPTConfig
from sft.checkpoint import save_checkpoint
from sft.rows import collate, encode_row
from sft.tokenizer import load_tokenizer

# In the background of a script interrupts are ignored, and children inherit that; some tests are about interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1)  # a tiny model gains nothing from more
os.environ.setdefault("OMP_NUM_THREADS", "1")  # neither in kernels and other processes

TINY = {"block_size": 96, "vocab_size": 74, "n_layer": 2, "n_head": 2, "n_embd": 16, "dropout": 0.0, "bias": False}


@pytest.fixture(scope="session")
def tokenizer():
    return load_tokenizer()


@pytest.fixture
def tiny():
    """Random weights, larger than at initialisation so that different inputs give clearly different outputs."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(**TINY)).eval()
    for parameter in model.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture
def base_file(tiny, tmp_path):
    save_checkpoint(tmp_path / "base.pt", tiny)
    return tmp_path / "base.pt"


@pytest.fixture
def pairs_file(tmp_path):
    pairs = [
        {"negative": f"{a}+{b}=? Sorry, I don't know.", "positive": f"{a}+{b}=? The answer is {a + b}."}
        for a, b in ((1, 2), (3, 4), (15, 6), (27, 48), (9, 9), (30, 31), (5, 0), (12, 13))
    ]
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps(pairs))
    return path


def teach(model, tokenizer, prompts, answers, steps=150):
    """Train the model until it gives these answers."""
    batch = collate([encode_row(tokenizer, p, a) for p, a in zip(prompts, answers, strict=True)])
    targets = batch.targets.masked_fill(~batch.completion_mask, -1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        model(batch.inputs, targets)[1].backward()
        optimizer.step()
