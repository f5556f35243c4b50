"""Checkpoints of the course's layout and our own: read exactly, written as nanoGPT reads them."""

import pickle

import pytest
import torch
from conftest import TINY, course_file, same_bits

from model import GPT, GPTConfig
from sft.checkpoint.archive import CheckpointError
from sft.checkpoint.weights import expected_shapes, load_checkpoint, load_model, save_checkpoint
from sft.tokenizer import VOCABULARY_PATH

# The course's layout

PREFIXES = ["_orig_mod.", "module.", "", "module._orig_mod.", "_orig_mod.module."]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("key", ["model", "model_state_dict"])
def test_course_weights_are_read(tiny, tmp_path, prefix, key):
    course_file(tmp_path / "gpt.pt", tiny, prefix, key)
    assert same_bits(load_checkpoint(tmp_path / "gpt.pt").state_dict, tiny)


@pytest.fixture
def course(tiny, tmp_path):
    course_file(tmp_path / "gpt.pt", tiny)
    return tmp_path / "gpt.pt"


def test_course_file_keeps_what_else_it_holds(course):
    checkpoint = load_checkpoint(course)
    assert checkpoint.model_args["dropout"] == 0.2
    assert checkpoint.extras["iter_num"] == 5000


def test_course_model_is_loaded_without_dropout(course):
    model, _ = load_model(course)
    assert model.config.dropout == 0.0
    assert not model.training


# What the assignment's Steps 2 to 4 and 8 do with a file of its layout, our model, our vocabulary


@pytest.fixture
def script(course):
    """The model that a nanoGPT script loads, the vocabulary, and the ids of a question."""
    meta = pickle.loads(VOCABULARY_PATH.read_bytes())
    loaded = torch.load(course, map_location="cpu")
    gpt = GPT(GPTConfig(**loaded["model_args"]))
    weights = {name.removeprefix("_orig_mod."): tensor for name, tensor in loaded["model"].items()}
    gpt.load_state_dict(weights)
    gpt.to("cpu").train()
    return gpt, meta, torch.tensor([[meta["stoi"][c] for c in "17+19=?"]])


def test_a_nanogpt_script_gets_logits(script):
    gpt, meta, ids = script
    logits, _ = gpt(ids[:, :-1], full_seq=True)
    assert logits.shape == (1, 6, meta["vocab_size"])


def test_a_nanogpt_script_generates(script):
    gpt, meta, ids = script
    # to the end of the block and beyond it
    y = gpt.eval().generate(ids, 200, temperature=0.8, top_k=200)
    text = "".join(meta["itos"][i] for i in y[0][0].tolist())
    assert text.startswith("17+19=?")
    assert y[0].shape[0] == 1
    assert len(y) == 2


# Our own files


@pytest.fixture(params=[torch.float16, torch.bfloat16, torch.float32], ids=str)
def saved(request, tiny, tmp_path):
    """A file with numbers of this type, and its type."""
    save_checkpoint(tmp_path / "a.pt", tiny, request.param, seed=3)
    return tmp_path / "a.pt", request.param


def test_round_trip_keeps_settings_and_extras(saved):
    checkpoint = load_checkpoint(saved[0])
    assert checkpoint.model_args == TINY
    assert checkpoint.extras == {"seed": 3}


def test_round_trip_is_exact(saved, tiny):
    path, dtype = saved
    rounded = {name: tensor.to(dtype).float() for name, tensor in tiny.state_dict().items()}
    assert same_bits(load_checkpoint(path).state_dict, rounded)


def test_round_trip_gives_float32(saved):
    weights = load_checkpoint(saved[0]).state_dict
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


def test_our_files_load_as_nanogpts(saved):
    plain = GPT(GPTConfig(**load_checkpoint(saved[0]).model_args))
    plain.load_state_dict(torch.load(saved[0], weights_only=True)["model"], strict=True)


@pytest.mark.parametrize("bias", [True, False])
def test_expected_shapes_are_those_of_the_model(bias):
    args = TINY | {"bias": bias, "n_layer": 3, "n_embd": 12, "vocab_size": 20}
    weights = GPT(GPTConfig(**args)).state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    assert expected_shapes(args, most_layers=9) == shapes
    # as many, however many layers are claimed
    assert len(expected_shapes(args | {"n_layer": 10**5}, most_layers=3)) == len(shapes)


def test_a_model_and_its_vocabulary_belong_together(tmp_path):
    save_checkpoint(tmp_path / "other.pt", GPT(GPTConfig(**TINY | {"vocab_size": 75})))
    message = "knows 75 characters, the vocabulary file 74; use the"
    with pytest.raises(CheckpointError, match=message):
        load_model(tmp_path / "other.pt")
