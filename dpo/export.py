"""A checkpoint for Hugging Face's transformers: `python -m dpo.export` makes runs/hf of dpo/dpo.pt.

`--format=nanogpt --checkpoint=runs/hf --out=runs/back.pt` is the way back, to the same bits.

In transformers the model is a GPT-2 and gives the same greedy answers, with two limits. The newline
ends a text and pads, so that `skip_special_tokens=True` drops the newlines of a prompt as well. And
prompt and answer must fit into the block, while our own model goes on with the last part of them.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from configurator import run_program
from model import GPT, NEWLINE_ID, PERIOD_ID, GPTConfig
from sft.checkpoint.archive import DOWNLOAD_AGAIN, LARGEST_FILE
from sft.checkpoint.weights import TIED, expected_shapes, load_model, save_checkpoint
from sft.files import open_plain, write_atomically, write_json
from sft.tokenizer import Tokenizer, load_tokenizer

FORMATS = ("hf", "nanogpt")
# GPT-2 stores these as (in, out), for x @ W. Ours are of nn.Linear, (out, in), for x @ W.T.
TRANSPOSED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
SIZES = {  # a name in config.json, and ours
    "n_positions": "block_size",
    "vocab_size": "vocab_size",
    "n_layer": "n_layer",
    "n_head": "n_head",
    "n_embd": "n_embd",
}
FUNCTION = {  # what transformers assumes where config.json is silent, and what our model computes
    "model_type": (None, "gpt2"),
    "activation_function": ("gelu_new", "gelu"),
    "layer_norm_epsilon": (1e-5, 1e-5),
    "scale_attn_weights": (True, True),
    "scale_attn_by_inverse_layer_idx": (False, False),
    "add_cross_attention": (False, False),
    "tie_word_embeddings": (True, True),
}
FLOATS = ("F16", "BF16", "F32")  # a checkpoint in float32 holds them exactly
LARGEST_JSON = 2 * 2**20  # bytes; also of a safetensors file's table of contents
ONE_FILE = (
    "parts and .bin files are not read: "
    "write this one by model.save_pretrained(folder, max_shard_size='2GB')"
)


@dataclass
class Config:
    """python -m dpo.export: a checkpoint as a model for Hugging Face's transformers, and back."""

    checkpoint: str = "dpo/dpo.pt"  # what to convert; with --format=nanogpt a Hugging Face folder
    format: str = "hf"  # hf, or nanogpt for the way back
    out: str = "runs/hf"  # folder to write; with --format=nanogpt a file like runs/back.pt


class ExportError(ValueError):
    """A model that cannot be converted; the message says why and what to do."""


def write_folder(folder: str | Path, model: GPT, tokenizer: Tokenizer) -> None:
    """Write what transformers loads as a GPT-2 that computes the same, and its tokenizer."""
    folder = Path(folder)
    weights = _safetensors().torch.save(gpt2_tensors(model), {"format": "pt"})
    write_json(folder / "tokenizer.json", tokenizer_table(tokenizer))
    write_json(folder / "tokenizer_config.json", tokenizer_settings(model.config))
    write_json(folder / "generation_config.json", generation_settings())
    write_atomically(folder / "model.safetensors", weights)
    # Last, since nothing loads a folder without it: one that was only half written is no model.
    write_json(folder / "config.json", gpt2_settings(model.config))


def gpt2_shapes(args: dict, most_layers: int) -> dict[str, tuple[int, ...]]:
    """Name and shape of GPT-2's tensors, as `expected_shapes` has ours; it always has biases."""
    ours = expected_shapes(args | {"bias": True}, most_layers)
    return {
        name: shape[::-1] if name.endswith(TRANSPOSED) else shape for name, shape in ours.items()
    }


def gpt2_tensors(model: GPT) -> dict[str, Tensor]:
    """The weights as GPT-2 stores them, with biases of zeros where our model has none.

    The head is left out, since it is the embedding.
    """
    ours, tensors = model.state_dict(), {}
    for name, shape in gpt2_shapes(asdict(model.config), model.config.n_layer).items():
        if name != TIED[0]:
            tensors[name] = _reoriented(name, ours[name]) if name in ours else torch.zeros(shape)
    return tensors


def _reoriented(name: str, tensor: Tensor) -> Tensor:
    """From our orientation to GPT-2's, or from there to ours."""
    return tensor.T.contiguous() if name.endswith(TRANSPOSED) else tensor


def gpt2_settings(config: GPTConfig) -> dict:
    """config.json."""
    return {
        "architectures": ["GPT2LMHeadModel"],
        **{name: ours for name, (_, ours) in FUNCTION.items()},
        **{theirs: getattr(config, ours) for theirs, ours in SIZES.items()},
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
        "bos_token_id": NEWLINE_ID,  # else GPT-2's own, 50256
        "eos_token_id": NEWLINE_ID,
    }


def generation_settings() -> dict:
    """generation_config.json: greedy, until a newline or a full stop."""
    ends = {
        "bos_token_id": NEWLINE_ID,
        "eos_token_id": [NEWLINE_ID, PERIOD_ID],
        "pad_token_id": NEWLINE_ID,
    }
    return {"do_sample": False, **ends}


def tokenizer_table(tokenizer: Tokenizer) -> dict:
    """tokenizer.json: one token a character.

    No token stands for the characters outside the alphabet: one of those is an error, as in ours.
    """
    newline = {"id": NEWLINE_ID, "content": "\n", "special": True}
    newline |= dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    each_character = {"Regex": r"[\s\S]"}
    return {
        "version": "1.0",
        "added_tokens": [newline],
        "pre_tokenizer": {
            "type": "Split",
            "pattern": each_character,
            "behavior": "Isolated",
            "invert": False,
        },
        "decoder": {"type": "Fuse"},
        "model": {"type": "WordLevel", "vocab": tokenizer.stoi, "unk_token": "no such token"},
    }


def tokenizer_settings(config: GPTConfig) -> dict:
    """tokenizer_config.json."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": config.block_size,
        # Without token_type_ids, for which GPT-2 would add an embedding of its own.
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,  # or spaces before punctuation get lost
        "padding_side": "left",  # an answer goes on at the right
        "pad_token": "\n",
        "eos_token": "\n",
    }


def read_folder(folder: str | Path, tokenizer: Tokenizer) -> GPT:
    """The model in a folder that transformers can load.

    ExportError unless our model computes exactly the same.
    """
    folder = Path(folder)
    args = _model_args(folder / "config.json", len(tokenizer))
    _check_vocabulary(folder / "tokenizer.json", tokenizer)
    weights = _read_weights(folder / "model.safetensors", args)
    biases = [name for name in weights if name.endswith(".bias")]
    args["bias"] = any(bool(weights[name].any()) for name in biases)
    if not args["bias"]:  # all are zero, as `gpt2_tensors` adds them to a model without
        for name in biases:
            del weights[name]
    model = GPT(GPTConfig(**args))
    model.load_state_dict(weights)
    return model


def _model_args(path: Path, characters: int) -> dict:
    """GPTConfig's fields but `bias`, if config.json describes a GPT-2 that is one of our models."""
    settings = _read_json(path, "name a folder that model.save_pretrained(folder) has written")

    def check(name: str, fits: bool, wanted: str, default: object = None) -> None:
        if not fits:
            raise ExportError(f"{path}: {name} is {_shown(settings.get(name, default))}; {wanted}")

    for name, (default, ours) in FUNCTION.items():
        fits = settings.get(name, default) == ours
        check(name, fits, f"our model computes {ours!r} only", default)
    for name in SIZES:
        size = settings.get(name)
        fits = type(size) is int and 0 < size <= 100_000
        check(name, fits, "it must be a whole number from 1 to 100000")
    args = {ours: settings[theirs] for theirs, ours in SIZES.items()} | {"dropout": 0.0}
    width, heads, inner = args["n_embd"], args["n_head"], 4 * args["n_embd"]
    fits = args["vocab_size"] == characters
    check("vocab_size", fits, f"our vocabulary has {characters} characters")
    check("n_embd", width % heads == 0, f"it is not divisible by n_head {heads}")
    fits = settings.get("n_inner") in (None, inner)
    check("n_inner", fits, f"in our model it is {inner}, 4 times n_embd")
    return args


def _shown(value: object) -> str:
    """A value of a foreign file for an error: cut, and of lists and tables only the type."""
    if value is None or type(value) in (str, int, float, bool):
        return repr(value)[:40]
    return f"a {type(value).__name__}"


def _check_vocabulary(path: Path, tokenizer: Tokenizer) -> None:
    """ExportError unless the folder's tokenizer gives every character the id that ours gives it."""
    table = _read_json(path, "tokenizer.save_pretrained(folder) writes it")
    model = table.get("model") if isinstance(table.get("model"), dict) else {}
    if (
        model.get("type") != "WordLevel"
        or model.get("vocab") != tokenizer.stoi
        or table.get("normalizer") is not None
    ):
        raise ExportError(
            f"{path} does not give the {len(tokenizer)} characters of sft/meta.pkl one token each "
            "with the same ids; only a model that was made with this vocabulary can be converted"
        )


def _read_json(path: Path, remedy: str) -> dict:
    with open_plain(path, LARGEST_JSON, ExportError, remedy) as file:
        data = file.read(LARGEST_JSON)
    try:
        table = json.loads(data)
    except (ValueError, RecursionError):
        table = None
    if not isinstance(table, dict):
        raise ExportError(f"{path} is not a JSON table; {remedy}")
    return table


def _read_weights(path: Path, args: dict) -> dict[str, Tensor]:
    """The tensors in float32 as our model has them, all biases included.

    Names, shapes and types are checked before any number is read.
    """
    safetensors = _safetensors()
    with open_plain(path, LARGEST_FILE, ExportError, ONE_FILE) as file:
        # A safetensors file begins with the length of its table of contents, in 8 bytes.
        if int.from_bytes(file.read(8), "little") > LARGEST_JSON:
            raise ExportError(
                f"{path} is no safetensors file; if it is a Git LFS pointer, run `git lfs pull`"
            )
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            contents = {}
            for name in file.keys():  # noqa: SIM118 - it is no dict
                part = file.get_slice(name)
                contents[name] = tuple(part.get_shape()), part.get_dtype()
            _check_contents(path, contents, args)
            weights = {name: _reoriented(name, file.get_tensor(name).float()) for name in contents}
    except safetensors.SafetensorError as error:
        raise ExportError(f"{path} is damaged ({str(error)[:80]}); {DOWNLOAD_AGAIN}") from None
    for name, tensor in weights.items():
        if not torch.isfinite(tensor).all():
            raise ExportError(
                f"{path}: {name} holds NaN or infinite values; the training that made it failed"
            )
    if not torch.equal(weights.setdefault(TIED[0], weights[TIED[1]]), weights[TIED[1]]):
        raise ExportError(f"{path}: {TIED[0]} and {TIED[1]} differ, but our model ties them")
    return weights


def _check_contents(
    path: Path, contents: dict[str, tuple[tuple[int, ...], str]], args: dict
) -> None:
    """ExportError unless these names, shapes and types are those of a GPT-2 with `args`."""
    expected = gpt2_shapes(args, most_layers=len(contents) // 12 + 1)  # a layer has twelve tensors
    for problem, names in (
        ("is missing", expected.keys() - contents.keys() - {TIED[0]}),
        ("is unknown", contents.keys() - expected.keys()),
    ):
        if names:
            raise ExportError(
                f"{path}: tensor {min(names)[:80]!r} {problem} ({len(names)} such); "
                "it is no such GPT-2"
            )
    for name, (shape, kind) in contents.items():
        if shape != expected[name]:
            raise ExportError(
                f"{path}: {name} has shape {shape}, its config.json says {expected[name]}"
            )
        if kind not in FLOATS:
            raise ExportError(
                f"{path}: {name} holds numbers of type {kind}; save them as float32: model.float()"
            )


def _safetensors():
    """The package, which only this command needs."""
    try:
        import safetensors.torch
    except ImportError:
        raise ExportError("safetensors is missing: python -m pip install safetensors") from None
    return safetensors


def main(config: Config) -> None:
    if config.format not in FORMATS:
        raise ValueError(f"format is {config.format!r}; it must be one of {', '.join(FORMATS)}")
    tokenizer = load_tokenizer()
    if config.format == "hf":
        write_folder(config.out, *load_model(config.checkpoint))
        folder = json.dumps(config.out, ensure_ascii=False)
        print(
            f"wrote {config.out}: AutoModelForCausalLM.from_pretrained({folder}) loads the model,"
        )
        print(f"AutoTokenizer.from_pretrained({folder}) its tokenizer")
        return
    if not config.out.endswith(".pt"):
        raise ValueError(
            f"out is {config.out!r}; "
            "with --format=nanogpt name a file that ends in .pt: --out=runs/back.pt"
        )
    save_checkpoint(config.out, read_folder(config.checkpoint, tokenizer))
    print(f"wrote {config.out}: python -m dpo.evaluate --checkpoint={config.out} asks it")


if __name__ == "__main__":
    run_program(main, Config())
