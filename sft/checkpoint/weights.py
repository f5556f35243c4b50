"""The only reader and writer of checkpoints: nanoGPT's layout, plain data, nothing executed."""

import json
import re
from collections.abc import Set
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from model import GPT, GPTConfig
from sft.checkpoint.archive import (
    SAVE_AGAIN,
    CheckpointError,
    archive_bytes,
    read_archive,
)
from sft.files import sha256, write_atomically
from sft.tokenizer import Tokenizer, load_tokenizer

# Left by what compiles, saves memory or spreads a model; they may stand anywhere in a name.
WRAPPERS = re.compile(r"(?:_orig_mod|_checkpoint_wrapped_module|_fsdp_wrapped_module)\.")
# Left by DistributedDataParallel, and by any module around the model (Lightning).
PREFIX = re.compile(r"(?:\w+\.)*?(?=(?:transformer|lm_head)\.)")
WEIGHT_KEYS = ("model", "model_state_dict", "state_dict")
SETTINGS_KEYS = ("hyper_parameters", "config")  # may hold the model's arguments among others
SHOWN_KEYS = 4  # of a stranger's file
NEWER_ARGS = {"bias", "dropout"}  # of the `model_args` that nanoGPT writes; older files lack them
COUNTER = "n_averaged"  # which AveragedModel of torch puts beside the weights
MASK = re.compile(r"transformer\.h\.[0-9]+\.attn\.(?:bias|masked_bias)")
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
TIED = ("lm_head.weight", "transformer.wte.weight")
KNOWN_FILES = {  # by their SHA-256
    "10e1319b14c0adf15424f9a8485a87356e4e5b97eebeb5c7896bbde9c6041779": (
        "the base of this repository"
    ),
    "d1b1b6c2ba5605f17983bd99df64db094fa9cd5c70c5a09fcc1c1963868cbe9c": "the earlier base",
    "7fa3d597e629bdf45ebf0136e310e4bec05682f3c024a78fe402903fbb3bc050": "the course's own base",
}


@dataclass
class Checkpoint:
    model_args: dict[str, int | float | bool]  # the seven fields of GPTConfig
    state_dict: dict[str, Tensor]  # float32, nanoGPT's names without prefixes
    extras: dict  # what else the file holds (optimizer state, settings, ...), plain but unchecked


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read and check a checkpoint.

    CheckpointError unless the weights are complete and finite, and fit `model_args`.
    """
    path = Path(path)
    contents = read_archive(path, "check the path; dpo.train makes dpo/dpo.pt, sft.train the base")
    key = next((key for key in WEIGHT_KEYS if isinstance(contents.get(key), dict)), None)
    found = _find_args(contents)
    if key is None or found is None:
        has = ", ".join(repr(name)[:40] for name in [*contents][:SHOWN_KEYS])
        raise CheckpointError(
            f"{path} has no `model` (or `model_state_dict`) with `model_args`, "
            f"as nanoGPT's checkpoints have (it has {has or 'nothing'}); {SAVE_AGAIN}"
        )
    model_args = _checked_args(path, _with_newer_args(found, contents[key]))
    state_dict = _checked_weights(path, contents[key], model_args)
    extras = {k: v for k, v in contents.items() if k not in (key, "model_args")}
    return Checkpoint(model_args, state_dict, extras)


def _find_args(contents: dict) -> dict | None:
    """The arguments of the model, unchecked: `model_args`, or those among other settings."""
    if isinstance(contents.get("model_args"), dict):
        return contents["model_args"]
    names = [field.name for field in fields(GPTConfig)]
    for key in SETTINGS_KEYS:
        settings = contents.get(key)
        if isinstance(settings, dict) and settings.keys() >= set(names) - NEWER_ARGS:
            return {name: settings[name] for name in names if name in settings}
    return None


def _with_newer_args(model_args: dict, weights: dict) -> dict:
    """The arguments, and those of NEWER_ARGS that they lack if they have all others.

    Whether the layers have a bias is seen from the weights; dropout changes no answer.
    """
    if len(model_args.keys() - NEWER_ARGS) < len(fields(GPTConfig)) - len(NEWER_ARGS):
        return model_args
    bias = any(str(name).endswith("transformer.ln_f.bias") for name in weights)
    return {"bias": bias, "dropout": 0.0} | model_args


def load_model(path: str | Path, device: str | torch.device = "cpu") -> tuple[GPT, Tokenizer]:
    """The model of a checkpoint, in float32 and without dropout, and the tokenizer for it.

    CheckpointError if one of them has more characters than the other.
    """
    checkpoint, tokenizer = load_checkpoint(path), load_tokenizer()
    known = checkpoint.model_args["vocab_size"]
    if known != len(tokenizer):
        raise CheckpointError(
            f"{path} knows {known} characters, the vocabulary file {len(tokenizer)}; "
            "use the pair that belongs together"
        )
    model = GPT(GPTConfig(**checkpoint.model_args | {"dropout": 0.0}))
    model.load_state_dict(checkpoint.state_dict, strict=True)
    return model.to(device).eval(), tokenizer


def save_checkpoint(
    path: str | Path, model: GPT, dtype: torch.dtype = torch.float32, **extras
) -> None:
    """Write `model`, `model_args` and extras, which must be plain data.

    The old file stays whole until the new one is complete.
    """
    write_atomically(path, checkpoint_bytes(model, dtype, **extras))


def checkpoint_bytes(model: GPT, dtype: torch.dtype = torch.float32, **extras) -> memoryview:
    """What `save_checkpoint` writes; FloatingPointError if a weight is NaN or infinite."""
    state_dict = model.state_dict()
    weights = {name: tensor.detach().to("cpu", dtype) for name, tensor in state_dict.items()}
    for name, tensor in weights.items():
        if not torch.isfinite(tensor).all():
            raise FloatingPointError(
                f"{name} holds NaN or infinite values: nothing was saved. Lower the learning rate"
            )
    weights[TIED[0]] = weights[TIED[1]]  # the same object: torch.save stores it once
    return archive_bytes({"model": weights, "model_args": asdict(model.config), **extras})


def to_json_tensor(value: object) -> Tensor:
    """Long plain data, such as a history, for a checkpoint: the bytes (uint8) of its JSON.

    So it is one record; as a list it would be thousands of pickle instructions.
    """
    return torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)


def from_json_tensor(packed: object) -> object:
    """The value that `to_json_tensor` was given; CheckpointError if this is not what it gave."""
    try:
        return json.loads(packed.detach().numpy().tobytes())
    except (AttributeError, TypeError, ValueError, RuntimeError):  # a RecursionError is one, too
        raise CheckpointError(
            "a part of the checkpoint is not readable; it was not written by this program"
        ) from None


def identify(path: str | Path) -> str:
    """Which file this is, in a line: size, SHA-256, and whose it is, if that is known."""
    digest, megabytes = sha256(path), Path(path).stat().st_size / 1e6
    name = KNOWN_FILES.get(digest, "not shipped with this repository")
    return f"{path}: {megabytes:.1f} MB, SHA-256 {digest[:8]}..., {name}"


def _checked_args(path: Path, model_args: dict) -> dict:
    """The arguments, if they are those of GPTConfig and such that a model can have them."""
    names = [field.name for field in fields(GPTConfig)]
    if set(model_args) != set(names):
        # Cut in length and number: a stranger's file decides what stands in this message.
        has = ", ".join(repr(name)[:40] for name in [*model_args][:20])
        raise CheckpointError(
            f"{path}: model_args must have exactly {', '.join(names)}; it has {has}"
        )
    for name in ("block_size", "vocab_size", "n_layer", "n_head", "n_embd"):
        if type(model_args[name]) is not int or not 0 < model_args[name] <= 100_000:
            raise CheckpointError(
                f"{path}: model_args {name} is {_shown(model_args[name])}; "
                "it must be a whole number from 1 to 100000"
            )
    width, heads = model_args["n_embd"], model_args["n_head"]
    if width % heads:
        raise CheckpointError(f"{path}: n_embd {width} is not divisible by n_head {heads}")
    bias, dropout = model_args["bias"], model_args["dropout"]
    if type(bias) is not bool or type(dropout) not in (int, float) or not 0 <= dropout < 1:
        raise CheckpointError(
            f"{path}: model_args bias must be true or false, and dropout from 0 to below 1; "
            f"they are {_shown(bias)} and {_shown(dropout)}"
        )
    return model_args


def _shown(value: object) -> str:
    """A value as it stands in a message: a single one in short, of another only its kind."""
    if type(value) in (str, int, float, bool):
        return repr(value)[:40]
    return f"a {type(value).__name__}"


def expected_shapes(args: dict, most_layers: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of a GPT with these `model_args`, up to `most_layers` layers.

    They are written down here, and not taken from a model, because to build one would take as much
    memory as the numbers in a file ask for.
    """
    width = args["n_embd"]
    of_layer = {
        "ln_1": (width,), "attn.c_attn": (3 * width, width), "attn.c_proj": (width, width),
        "ln_2": (width,), "mlp.c_fc": (4 * width, width), "mlp.c_proj": (width, 4 * width),
    }  # fmt: skip
    modules = {
        f"transformer.h.{layer}.{name}": shape
        for layer in range(min(args["n_layer"], most_layers))
        for name, shape in of_layer.items()
    } | {"transformer.ln_f": (width,)}
    shapes = {TIED[0]: (args["vocab_size"], width), TIED[1]: (args["vocab_size"], width)}
    shapes["transformer.wpe.weight"] = (args["block_size"], width)
    shapes |= {f"{name}.weight": shape for name, shape in modules.items()}
    return shapes | {f"{name}.bias": shape[:1] for name, shape in modules.items() if args["bias"]}


def _checked_weights(path: Path, weights: dict, model_args: dict) -> dict[str, Tensor]:
    """The weights in float32 by their plain names, if they are just those that the model has."""
    named = {_without_prefix(str(name)): tensor for name, tensor in weights.items()}
    if len(named) != len(weights):
        raise CheckpointError(
            f"{path} has tensors whose names differ in their prefix only, as of two models; "
            "save the weights of one of them alone"
        )
    named.pop(COUNTER, None)
    named = _without_masks(path, named)
    # A layer has at least six tensors, so one layer more than these could make up is enough to see
    # that some are missing, even if n_layer is 100000.
    expected = expected_shapes(model_args, most_layers=len(named) // 6 + 1)
    if "transformer.wpe.weight" in named:  # these are our names
        for name, other in (TIED, TIED[::-1]):
            if name not in named and other in named:  # some programs leave out one of the tied two
                named[name] = named[other]
    _check_names(path, expected.keys(), named.keys())
    tensors = {
        name: _checked_tensor(f"{path}: {name}", named[name], expected[name]) for name in expected
    }
    if not torch.equal(tensors[TIED[0]], tensors[TIED[1]]):
        raise CheckpointError(
            f"{path}: {TIED[0]} and {TIED[1]} differ, but this model ties them; "
            "use one that was trained with both as one tensor, as nanoGPT does"
        )
    return tensors


def _without_masks(path: Path, named: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without the masks of attention, which older programs saved beside the weights.

    CheckpointError for a mask that is not the causal one of this model. `masked_bias` is the large
    negative number that stood where the mask hides.
    """
    masks = {name: tensor for name, tensor in named.items() if MASK.fullmatch(name)}
    for name, mask in masks.items():
        if name.endswith(".bias") and not _is_causal(mask):
            raise CheckpointError(
                f"{path}: {name[:80]} is no causal mask, so this is another model than nanoGPT's; "
                "use one in which each character sees all before it"
            )
    return {name: tensor for name, tensor in named.items() if name not in masks}


def _is_causal(mask: object) -> bool:
    """Whether this is (1, 1, T, T), with zeros above the diagonal and nowhere else."""
    if not isinstance(mask, Tensor) or mask.layout != torch.strided:
        return False
    square = mask.dim() == 4 and mask.shape == (1, 1, mask.shape[-1], mask.shape[-1])
    return square and torch.equal(mask != 0, torch.ones_like(mask, dtype=torch.bool).tril())


def _check_names(path: Path, expected: Set[str], named: Set[str]) -> None:
    """CheckpointError for a tensor that is missing or unknown."""
    if TIED[1] not in named and named:
        raise CheckpointError(
            f"{path}: tensor {TIED[1]!r} is missing, so these are not nanoGPT's names (it has "
            f"{min(named)[:80]!r}); rename its tensors as nanoGPT does, and save it again"
        )
    for problem, names in (("is missing", expected - named), ("is unknown", named - expected)):
        if names:
            raise CheckpointError(
                f"{path}: tensor {min(names)[:80]!r} {problem} ({len(names)} such); "
                "it does not fit its model_args, which must be those that it was trained with"
            )


def _checked_tensor(place: str, tensor: object, shape: tuple[int, ...]) -> Tensor:
    """The tensor in float32, if it is one of that shape with finite numbers."""
    dense = isinstance(tensor, Tensor) and tensor.layout == torch.strided  # sparse ones are others
    if not dense or tensor.dtype not in FLOATS:
        reason = f"{place} is not a plain tensor of floating-point numbers"
        raise CheckpointError(f"{reason}; {SAVE_AGAIN}")
    found = tuple(tensor.shape)
    if found != shape:
        remedy = "they must be those that it was trained with"
        if found == shape[::-1]:
            remedy = "transpose the matrices of all layers, which Hugging Face's GPT-2 stores so"
        raise CheckpointError(f"{place} has shape {found}, its model_args say {shape}; {remedy}")
    tensor = tensor.detach().float()
    if not torch.isfinite(tensor).all():
        reason = f"{place} holds NaN or infinite values"
        raise CheckpointError(f"{reason}; the training that made it failed, use an earlier one")
    return tensor


def _without_prefix(name: str) -> str:
    """The name of a tensor without what wrappers put into it, in any order and number."""
    return PREFIX.sub("", WRAPPERS.sub("", name), count=1)


def is_plain(table: object) -> bool:
    """Whether this is a dict whose keys are texts and whose values are texts, numbers or bools."""
    return isinstance(table, dict) and all(
        type(key) is str and type(value) in (str, int, float, bool) for key, value in table.items()
    )
