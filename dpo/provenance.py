"""What a run was made of, in one line: versions, device, threads, seed, and the hashes of base, pairs and code."""

import hashlib
import json
import platform
from pathlib import Path

import torch

from dpo.batches import Example
from model import GPT
from sft.device import best_precision
from sft.files import sha256

ROOT = Path(__file__).parents[1]


def file_hash(path: str | Path) -> str:
    """First eight digits of the file's SHA-256."""
    return sha256(path)[:8]


def weights_hash(model: GPT) -> str:
    """The same over what a model is: its configuration and its weights."""
    digest = hashlib.sha256(repr(model.config).encode())
    for name, tensor in model.state_dict().items():
        digest.update(name.encode() + tensor.cpu().numpy().tobytes())
    return digest.hexdigest()[:8]


def code_hash(paths: list[Path] | None = None) -> str:
    """The same over Python files: those given, or all that a result depends on."""
    digest = hashlib.sha256()
    for path in sorted(paths or [ROOT / "model.py", *ROOT.glob("dpo/*.py"), *ROOT.glob("sft/*.py")]):
        digest.update(path.name.encode() + b"\n".join(path.read_bytes().splitlines()))  # line endings do not matter
    return digest.hexdigest()[:8]


def examples_hash(examples: list[Example]) -> str:
    """The same over what is trained on, in its order: the ids of prompts and answers."""
    rows = [[e.chosen.prompt, e.chosen.completion, e.rejected.completion] for e in examples]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:8]


def environment(device: torch.device, precision: str, seed: int, base: str, pairs: str) -> str:
    name = (
        torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device}, {torch.get_num_threads()} threads"
    )
    versions = f"python {platform.python_version()}, torch {torch.__version__}"
    made_of = f"base {file_hash(base)}, pairs {file_hash(pairs)}, code {code_hash()}"
    return f"{versions}, {name}, {best_precision(device, precision)}, seed {seed}, {made_of}"
