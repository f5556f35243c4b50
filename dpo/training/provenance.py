"""What a run was made of, in one line: versions, hardware, seed, and hashes of its ingredients.

Every hash here is the first eight digits of a SHA-256.
"""

import hashlib
import json
import platform
from pathlib import Path

import torch

from dpo.data.batches import TokenizedPair
from model import GPT
from sft.device import best_precision
from sft.files import sha256

ROOT = Path(__file__).parents[2]


def file_hash(path: str | Path) -> str:
    """Hash of the file's bytes."""
    return sha256(path)[:8]


def weights_hash(model: GPT) -> str:
    """Hash of what a model is: its configuration and its weights."""
    digest = hashlib.sha256(repr(model.config).encode())
    for name, tensor in model.state_dict().items():
        digest.update(name.encode() + tensor.cpu().numpy().tobytes())
    return digest.hexdigest()[:8]


def code_hash(paths: list[Path] | None = None) -> str:
    """The same over Python files of this repository: those given, or all of a result's code."""
    if paths is None:
        paths = [ROOT / "model.py", *ROOT.glob("dpo/**/*.py"), *ROOT.glob("sft/**/*.py")]
        no_code = {"settings", ".ipynb_checkpoints"}  # a result has its settings beside it
        paths = [path for path in paths if path.parent.name not in no_code]
    digest = hashlib.sha256()
    for path in sorted(paths):
        name = path.relative_to(ROOT).as_posix()
        lines = path.read_bytes().splitlines()  # how lines end does not matter
        digest.update(name.encode() + b"\n".join(lines))
    return digest.hexdigest()[:8]


def pairs_hash(tokenized: list[TokenizedPair]) -> str:
    """Hash of what is trained on, in its order: the ids of prompts and answers."""
    rows = [[p.chosen.prompt, p.chosen.completion, p.rejected.completion] for p in tokenized]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:8]


def describe_provenance(
    device: torch.device, precision: str, seed: int, base: str, pairs: str
) -> str:
    """The line that a run prints and that its dpo.pt keeps."""
    on_card = device.type == "cuda"
    threads = f"{device}, {torch.get_num_threads()} threads"
    hardware = torch.cuda.get_device_name(device) if on_card else threads
    versions = f"python {platform.python_version()}, torch {torch.__version__}"
    hashes = f"base {file_hash(base)}, pairs {file_hash(pairs)}, code {code_hash()}"
    precision = best_precision(device, precision)
    return f"{versions}, {hardware}, {precision}, seed {seed}, {hashes}"
