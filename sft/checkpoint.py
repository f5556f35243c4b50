"""The only reader and writer of .pt files: nanoGPT's layout, plain tensors, nothing of the file is ever executed."""

import io
import os
import tempfile
import zipfile
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from model import GPT, GPTConfig

PREFIXES = ("_orig_mod.", "module.")  # left by torch.compile and by DistributedDataParallel
WEIGHT_KEYS = ("model", "model_state_dict")
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
TIED = ("lm_head.weight", "transformer.wte.weight")


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message says what is wrong and what to do."""


@dataclass
class Checkpoint:
    model_args: dict[str, int | float | bool]  # the seven fields of GPTConfig
    state_dict: dict[str, Tensor]  # float32, nanoGPT's names without prefixes
    extras: dict  # whatever else the file held: optimizer state, counters, settings


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read and check a checkpoint; CheckpointError unless the weights are complete, finite and fit `model_args`."""
    path = Path(path)
    contents = _read(path)
    key = next((key for key in WEIGHT_KEYS if isinstance(contents.get(key), dict)), None)
    if key is None or not isinstance(contents.get("model_args"), dict):
        raise CheckpointError(
            f"{path} has no `model` (or `model_state_dict`) with `model_args`; it is not a nanoGPT checkpoint"
        )
    model_args = _checked_args(path, contents["model_args"])
    state_dict = _checked_weights(path, contents[key], model_args)
    return Checkpoint(model_args, state_dict, {k: v for k, v in contents.items() if k not in (key, "model_args")})


def load_model(path: str | Path, device: str | torch.device = "cpu", vocab_size: int | None = None) -> GPT:
    """The model of a checkpoint in float32, without dropout, ready to answer; refuses another vocabulary size."""
    checkpoint = load_checkpoint(path)
    known = checkpoint.model_args["vocab_size"]
    if vocab_size not in (None, known):
        raise CheckpointError(
            f"{path} knows {known} characters, the vocabulary file {vocab_size}; use the pair that belongs together"
        )
    model = GPT(GPTConfig(**checkpoint.model_args | {"dropout": 0.0}))
    model.load_state_dict(checkpoint.state_dict, strict=True)
    return model.to(device).eval()


def save_checkpoint(path: str | Path, model: GPT, dtype: torch.dtype = torch.float32, **extras) -> None:
    """Write `model`, `model_args` and plain-data extras. The old file stays whole until the new one is complete."""
    weights = {name: tensor.detach().to("cpu", dtype) for name, tensor in model.state_dict().items()}
    weights[TIED[0]] = weights[TIED[1]]  # stored once
    buffer = io.BytesIO()
    torch.save({"model": weights, "model_args": asdict(model.config), **extras}, buffer)
    write_atomically(path, buffer.getbuffer())


def write_atomically(path: str | Path, data: bytes | memoryview) -> None:
    """Replace the file in one move, or leave it as it was."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, path.stat().st_mode & 0o777 if path.exists() else 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _read(path: Path) -> dict:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; check the path, or make the base with `python -m sft.train`")
    with path.open("rb") as file:
        head = file.read(64)
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path} is a Git LFS pointer, not the weights; run `git lfs pull`")
    if head.lstrip()[:1] == b"<":
        raise CheckpointError(
            f"{path} is a web page, not the weights; download it again with the browser, past any warning page"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except zipfile.BadZipFile:
        raise CheckpointError(f"{path} is cut off or not a PyTorch (zip) checkpoint; download it again") from None
    if damaged:
        raise CheckpointError(f"{path} is damaged (checksum of {damaged}); download it again")
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True, mmap=False)
    except Exception as error:  # the reader's own message advises to switch the protection off: it is not shown
        raise CheckpointError(
            f"{path} holds something other than plain tensors and numbers ({type(error).__name__}); not loaded"
        ) from None
    if not isinstance(contents, dict):
        raise CheckpointError(f"{path} holds a {type(contents).__name__}, not a nanoGPT checkpoint")
    return contents


def _checked_args(path: Path, model_args: dict) -> dict:
    names = [field.name for field in fields(GPTConfig)]
    if set(model_args) != set(names):
        raise CheckpointError(
            f"{path}: model_args must have exactly {', '.join(names)}; it has {', '.join(map(str, model_args))}"
        )
    for name in ("block_size", "vocab_size", "n_layer", "n_head", "n_embd"):
        if type(model_args[name]) is not int or not 0 < model_args[name] <= 100_000:
            raise CheckpointError(
                f"{path}: model_args {name} is {model_args[name]!r}; it must be a whole number from 1 to 100000"
            )
    if model_args["n_embd"] % model_args["n_head"]:
        raise CheckpointError(
            f"{path}: n_embd {model_args['n_embd']} is not divisible by n_head {model_args['n_head']}"
        )
    if (
        type(model_args["bias"]) is not bool
        or type(model_args["dropout"]) not in (int, float)
        or not 0 <= model_args["dropout"] < 1
    ):
        raise CheckpointError(f"{path}: model_args bias must be true or false, and dropout from 0 to below 1")
    return model_args


def _expected_shapes(args: dict) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor, without building the model."""
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in GPT(GPTConfig(**args)).state_dict().items()}


def _checked_weights(path: Path, weights: dict, model_args: dict) -> dict[str, Tensor]:
    named = {_without_prefix(name): tensor for name, tensor in weights.items()}
    expected = _expected_shapes(model_args)
    if TIED[0] not in named and TIED[1] in named:
        named[TIED[0]] = named[TIED[1]]
    for problem, names in (
        ("is missing", expected.keys() - named.keys()),
        ("is unknown", named.keys() - expected.keys()),
    ):
        if names:
            raise CheckpointError(
                f"{path}: tensor {min(map(str, names))} {problem} ({len(names)} such); it does not fit its model_args"
            )
    for name, tensor in named.items():
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.dtype not in FLOATS:
            raise CheckpointError(f"{path}: {name} is not a plain tensor of floating-point numbers")
        if tuple(tensor.shape) != expected[name]:
            raise CheckpointError(
                f"{path}: {name} has shape {tuple(tensor.shape)}, its model_args say {expected[name]}"
            )
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path}: {name} holds NaN or infinite values; the training that made it failed")
    if not torch.equal(named[TIED[0]], named[TIED[1]]):
        raise CheckpointError(f"{path}: {TIED[0]} and {TIED[1]} differ, but this model ties them")
    return {name: tensor.float() for name, tensor in named.items()}


def _without_prefix(name: str) -> str:
    while str(name).startswith(PREFIXES):
        name = name.partition(".")[2]
    return name
