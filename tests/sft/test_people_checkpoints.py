"""Checkpoints as other programs write them: read exactly, or refused in one sentence."""

import argparse
import io
import pathlib
import re
import zipfile
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from conftest import TINY, make_tiny, same_bits

from model import GPT, GPTConfig
from sft.checkpoint.archive import CheckpointError
from sft.checkpoint.weights import load_checkpoint

OLD_ARGS = {
    name: TINY[name] for name in ("n_layer", "n_head", "n_embd", "block_size", "vocab_size")
}


@pytest.fixture
def biased():
    """A tiny model with biases in all layers, as nanoGPT of 2022 and minGPT have them."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(**TINY | {"bias": True})).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def prefixed(model, prefix):
    return OrderedDict((prefix + name, value) for name, value in model.state_dict().items())


def causal(dtype=torch.float32, length=96):
    return torch.ones(1, 1, length, length, dtype=dtype).tril()


def with_masks(model, mask, prefix=""):
    """The weights, and in every layer the mask and the number behind it."""
    masks = {
        f"{prefix}transformer.h.{layer}.attn.{name}": value
        for layer in range(TINY["n_layer"])
        for name, value in (("bias", mask), ("masked_bias", torch.tensor(-1e4)))
    }
    return prefixed(model, prefix) | masks


def lightning(weights):
    return {
        "epoch": 3,
        "global_step": 1200,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": weights,
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 4}}}},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_score": torch.tensor(0.3)}},
        "optimizer_states": [],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": TINY | {"learning_rate": 1e-3, "betas": (0.9, 0.95)},
    }


def course(weights, **extras):
    return {"model": weights, "model_args": dict(TINY)} | extras


# What is read. The models are those of the fixtures `tiny` and `biased`.

READ = {
    "masks of floats": lambda tiny: course(with_masks(tiny, causal())),
    "masks of bools": lambda tiny: course(with_masks(tiny, causal(torch.bool))),
    "masks of bytes": lambda tiny: course(with_masks(tiny, causal(torch.uint8))),
    "masks longer than the block": lambda tiny: course(with_masks(tiny, causal(length=128))),
    "masks of a compiled model": lambda tiny: course(with_masks(tiny, causal(), "_orig_mod.")),
    "Lightning": lambda tiny: lightning(prefixed(tiny, "model.")),
    "Lightning, compiled": lambda tiny: lightning(prefixed(tiny, "model._orig_mod.")),
    "Lightning, several processes": lambda tiny: lightning(prefixed(tiny, "module.model.")),
    "Lightning, masks": lambda tiny: lightning(with_masks(tiny, causal(), "model.")),
    "state_dict beside model_args": lambda tiny: {
        "state_dict": tiny.state_dict(),
        "model_args": dict(TINY),
    },
    "arguments among the settings": lambda tiny: {
        "model_state_dict": tiny.state_dict(),
        "config": TINY | {"out_dir": "out", "learning_rate": 1e-3},
        "val_loss": 0.3,
    },
    "several processes, compiled": lambda tiny: course(prefixed(tiny, "module._orig_mod.")),
    "a module of any name": lambda tiny: course(prefixed(tiny, "net.policy.")),
    "shards": lambda tiny: course(prefixed(tiny, "_fsdp_wrapped_module.")),
    "compiled layers": lambda tiny: course(
        {name.replace(".attn.", "._orig_mod.attn."): x for name, x in tiny.state_dict().items()}
    ),
    "averaged weights": lambda tiny: course(
        prefixed(tiny, "module.") | {"n_averaged": torch.tensor(5)}
    ),
    "without the tied embedding": lambda tiny: course(
        {name: x for name, x in tiny.state_dict().items() if name != "transformer.wte.weight"}
    ),
    "without the tied copy": lambda tiny: course(
        {name: value for name, value in tiny.state_dict().items() if name != "lm_head.weight"}
    ),
    "without bias and dropout in model_args": lambda tiny: course(
        tiny.state_dict(), model_args=OLD_ARGS
    ),
    "scaler, generators and scheduler": lambda tiny: course(
        tiny.state_dict(),
        scaler={"scale": 65536.0, "growth_factor": 2.0, "growth_interval": 2000},
        rng_state=torch.get_rng_state(),
        scheduler={"base_lrs": [1e-3], "last_epoch": 12, "_last_lr": [1e-4]},
    ),
}


def written(path, contents):
    torch.save(contents, path)
    return path


@pytest.mark.parametrize("name", READ)
def test_a_file_of_another_program_is_read_exactly(name, tiny, tmp_path):
    checkpoint = load_checkpoint(written(tmp_path / "best.pt", READ[name](tiny)))
    assert same_bits(checkpoint.state_dict, tiny)
    assert checkpoint.model_args == TINY


OLD_FILES = {
    "nanoGPT of 2022": lambda model: {"model": with_masks(model, causal()), "model_args": OLD_ARGS},
    "nanoGPT of 2023": lambda model: course(
        with_masks(model, causal()), model_args=TINY | {"bias": True}
    ),
    "minGPT with a head like its embedding": lambda model: {
        "model": with_masks(model, causal()),
        "config": OLD_ARGS | {"model_type": None, "attn_pdrop": 0.1},
    },
}


@pytest.mark.parametrize("name", OLD_FILES)
def test_an_old_file_with_biases_is_read_exactly(name, biased, tmp_path):
    checkpoint = load_checkpoint(written(tmp_path / "ckpt.pt", OLD_FILES[name](biased)))
    assert same_bits(checkpoint.state_dict, biased)
    assert checkpoint.model_args == TINY | {"bias": True}


def test_a_file_saved_on_a_card_is_read_without_one(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
    path = written(tmp_path / "ckpt.pt", course(tiny.state_dict()))
    assert b"cuda:0" in path.read_bytes()
    assert same_bits(load_checkpoint(path).state_dict, tiny)


def test_settings_that_hold_the_arguments_stay_extras(tiny, tmp_path):
    contents = lightning(prefixed(tiny, "model."))
    extras = load_checkpoint(written(tmp_path / "last.ckpt", contents)).extras
    assert extras["hyper_parameters"]["learning_rate"] == 1e-3


def test_model_args_count_more_than_settings(tiny, tmp_path):
    contents = course(tiny.state_dict(), config=TINY | {"n_head": 8})
    assert load_checkpoint(written(tmp_path / "ckpt.pt", contents)).model_args["n_head"] == 2


# What is refused, with the sentence and what to do.

SAVE_AGAIN = (
    r"its owner can save it again: torch\.save\({'model': model\.state_dict\(\), 'model_args'"
)


@dataclass
class Settings:
    n_layer: int = 2


def mingpt_2020(tiny):
    """The names of minGPT before 2022: keys, queries and values apart, a head of its own."""
    width = TINY["n_embd"]
    weights = {"tok_emb.weight": torch.zeros(74, width), "pos_emb": torch.zeros(1, 96, width)}
    for layer in range(2):
        for name in ("key", "query", "value", "proj"):
            weights[f"blocks.{layer}.attn.{name}.weight"] = torch.zeros(width, width)
        weights[f"blocks.{layer}.attn.mask"] = causal()
    return weights | {"head.weight": torch.zeros(74, width)}


def changed(model, name, change):
    weights = model.state_dict()
    return weights | {name: change(weights[name])}


def transposed(model):
    """As Hugging Face's GPT-2 stores the matrices of its layers."""
    inner = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    return {
        name: value.T.contiguous() if name.removesuffix(".weight").endswith(inner) else value
        for name, value in model.state_dict().items()
    }


REFUSED = {
    "an optimizer alone": (
        lambda tiny: torch.optim.AdamW(tiny.parameters()).state_dict(),
        r"no `model` .*\(it has 'state', 'param_groups'\)",
    ),
    "a policy and its average": (
        lambda tiny: course(prefixed(tiny, "policy.") | prefixed(make_tiny(), "ema.")),
        "differ in their prefix only, as of two models; save the weights of one of them alone",
    ),
    "lists for tensors": (
        lambda tiny: course(changed(tiny, "lm_head.weight", lambda weight: weight.tolist())),
        f"lm_head.weight is not a plain tensor of floating-point numbers; {SAVE_AGAIN}",
    ),
    "a failed training": (
        lambda tiny: course(changed(tiny, "lm_head.weight", lambda weight: weight * torch.nan)),
        "NaN or infinite values; the training that made it failed, use an earlier one",
    ),
    "a state dict alone": (lambda tiny: tiny.state_dict(), f"no `model` .*{SAVE_AGAIN}"),
    "Lightning without hyperparameters": (
        lambda tiny: lightning(prefixed(tiny, "model.")) | {"hyper_parameters": {}},
        f"no `model` .*{SAVE_AGAIN}",
    ),
    "settings without n_head": (
        lambda tiny: {"model": tiny.state_dict(), "config": {"n_layer": 2, "n_embd": 16}},
        f"no `model` .*{SAVE_AGAIN}",
    ),
    "the module itself": (lambda tiny: course(tiny), f"nothing was run; {SAVE_AGAIN}"),
    "best.pt with a config object": (
        lambda tiny: course(tiny.state_dict(), config=Settings()),
        f"asks for .*Settings'.*nothing was run; {SAVE_AGAIN}",
    ),
    "best.pt with a GPTConfig": (
        lambda tiny: course(tiny.state_dict(), config=tiny.config),
        f"asks for 'model.GPTConfig'.*nothing was run; {SAVE_AGAIN}",
    ),
    "parsed arguments": (
        lambda tiny: course(tiny.state_dict(), args=argparse.Namespace(lr=1e-3)),
        f"asks for 'argparse.Namespace'.*nothing was run; {SAVE_AGAIN}",
    ),
    "a path": (
        lambda tiny: course(tiny.state_dict(), out=pathlib.PurePosixPath("out")),
        f"asks for 'pathlib.*nothing was run; {SAVE_AGAIN}",
    ),
    "a type of numbers": (
        lambda tiny: course(tiny.state_dict(), config={"dtype": torch.float16}),
        f"asks for 'torch.float16'.*nothing was run; {SAVE_AGAIN}",
    ),
    "a number of numpy's": (
        lambda tiny: course(tiny.state_dict(), best_val_loss=np.float64(0.3)),
        f"asks for 'numpy.*nothing was run; {SAVE_AGAIN}",
    ),
    "minGPT of 2020": (
        lambda tiny: course(mingpt_2020(tiny)),
        "not nanoGPT's names .it has 'blocks.0.attn.key.weight'.; rename its tensors",
    ),
    "a head of its own": (
        lambda tiny: course(changed(tiny, "lm_head.weight", lambda weight: weight + 1)),
        "lm_head.weight and transformer.wte.weight differ, but this model ties them; use one",
    ),
    "a mask that looks ahead": (
        lambda tiny: course(with_masks(tiny, torch.ones(1, 1, 96, 96))),
        "h.0.attn.bias is no causal mask, so this is another model.*; use one",
    ),
    "a mask that looks ten characters back": (
        lambda tiny: course(with_masks(tiny, causal() - causal().tril(-10))),
        "h.0.attn.bias is no causal mask",
    ),
    "a bias in place of a mask": (
        lambda tiny: course(with_masks(tiny, torch.zeros(48))),
        "h.0.attn.bias is no causal mask",
    ),
    "a mask of another name": (
        lambda tiny: course(with_masks(tiny, causal()) | {"transformer.h.1.attn.mask": causal()}),
        "tensor 'transformer.h.1.attn.mask' is unknown .1 such.; it does not fit",
    ),
    "matrices of Hugging Face": (
        lambda tiny: course(transposed(tiny)),
        r"has shape \(16, 48\), its model_args say \(48, 16\); transpose the matrices",
    ),
    "arguments of another model": (
        lambda tiny: course(tiny.state_dict(), model_args=TINY | {"vocab_size": 65}),
        r"shape \(74, 16\), its model_args say \(65, 16\); they must be those that it was trained",
    ),
    "vocab_size None": (
        lambda tiny: course(tiny.state_dict(), model_args=TINY | {"vocab_size": None}),
        "vocab_size is a NoneType; it must be a whole number",
    ),
    "weights in eight bits": (
        lambda tiny: course(changed(tiny, "transformer.wte.weight", lambda weight: weight.char())),
        SAVE_AGAIN,
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_of_another_program_is_refused_in_a_sentence(name, tiny, tmp_path):
    make, sentence = REFUSED[name]
    path = written(tmp_path / "best.pt", make(tiny))
    with pytest.raises(CheckpointError, match=sentence) as refusal:
        load_checkpoint(path)
    message = str(refusal.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    assert len(message) < 400 + len(str(path))


def zipped(name, contents):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, contents)
    return file.getvalue()


FOREIGN = {
    "but a text ('Entry not found'); download it again": b"Entry not found\n",
    "but a text ('# Weights See the page of'); download it again": b"# Weights\n\nSee the page of",
    "is a web page, not the weights; download it again": b"\xef\xbb\xbf\n<html>",
    "but a file of safetensors; `python -m dpo.export": b'\x08\0\0\0\0\0\0\0{"a": 1}',
    "but an array of NumPy; its owner can save it again": b"\x93NUMPY\x01\0",
    "but packed with gzip; unpack it and give the file that is inside": b"\x1f\x8b\x08\0",
    "but begins with zeros, as after a failed copy; download it again": bytes(999),
    "another kind of zip archive (with 'gpt.pt'); if that is the checkpoint, unpack it": zipped(
        "gpt.pt", b"PK"
    ),
}


@pytest.mark.parametrize("words", FOREIGN)
def test_another_kind_of_file_is_named(words, tmp_path):
    (tmp_path / "gpt.pt").write_bytes(FOREIGN[words])
    with pytest.raises(CheckpointError, match=re.escape(words)):
        load_checkpoint(tmp_path / "gpt.pt")


@pytest.mark.parametrize(
    "extra", ["attn.bias.", "attn.masked", "attn.c_bias", "mlp.bias", "attn.rotary.inv_freq"]
)
def test_nothing_but_a_mask_is_dropped(extra, tiny, tmp_path):
    weights = tiny.state_dict() | {f"transformer.h.0.{extra}": causal()}
    with pytest.raises(CheckpointError, match="is unknown"):
        load_checkpoint(written(tmp_path / "ckpt.pt", course(weights)))


def test_a_file_read_gives_the_answers_of_its_model(tmp_path):
    model = make_tiny()
    path = written(tmp_path / "ckpt.pt", lightning(with_masks(model, causal(), "model.")))
    checkpoint = load_checkpoint(path)
    again = GPT(GPTConfig(**checkpoint.model_args)).eval()
    again.load_state_dict(checkpoint.state_dict)
    ids = torch.tensor([[5, 9, 12, 30]])
    assert torch.equal(again(ids, full_seq=True)[0], model(ids, full_seq=True)[0])
