import os
import pickle

import pytest
import torch
from conftest import TINY

from model import GPT, GPTConfig
from sft.checkpoint import CheckpointError, load_checkpoint, load_model, save_checkpoint, write_atomically
from sft.tokenizer import VOCABULARY_PATH


def course_file(path, model, prefix="_orig_mod.", key="model"):
    """The layout of the assignment's gpt.pt: prefixed float32 names, optimizer state and counters beside them."""
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


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "", "module._orig_mod.", "_orig_mod.module."])
@pytest.mark.parametrize("key", ["model", "model_state_dict"])
def test_course_layout_is_accepted(tiny, tmp_path, prefix, key):
    course_file(tmp_path / "gpt.pt", tiny, prefix, key)
    checkpoint = load_checkpoint(tmp_path / "gpt.pt")
    assert checkpoint.state_dict.keys() == tiny.state_dict().keys()
    assert all(torch.equal(checkpoint.state_dict[name], tensor) for name, tensor in tiny.state_dict().items())
    assert checkpoint.model_args["dropout"] == 0.2 and checkpoint.extras["iter_num"] == 5000
    model = load_model(tmp_path / "gpt.pt", vocab_size=74)
    assert model.config.dropout == 0.0 and not model.training


def test_a_nanogpt_script_runs_unchanged(tiny, tmp_path):
    """What the assignment's Steps 2 to 4 and 8 do with a file of its layout, our model and our vocabulary."""
    course_file(tmp_path / "gpt.pt", tiny)
    meta = pickle.loads(VOCABULARY_PATH.read_bytes())
    loaded = torch.load(tmp_path / "gpt.pt", map_location="cpu")
    gpt = GPT(GPTConfig(**loaded["model_args"]))
    gpt.load_state_dict({name.removeprefix("_orig_mod."): tensor for name, tensor in loaded["model"].items()})
    gpt.to("cpu").train()
    ids = torch.tensor([[meta["stoi"][c] for c in "17+19=?"]])
    logits, _ = gpt(ids[:, :-1], full_seq=True)
    assert logits.shape == (1, 6, meta["vocab_size"])
    y = gpt.eval().generate(ids, 200, temperature=0.8, top_k=200)  # to the end of the block and beyond it
    text = "".join(meta["itos"][i] for i in y[0][0].tolist())
    assert text.startswith("17+19=?") and y[0].shape[0] == 1 and len(y) == 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_round_trip_is_exact(tiny, tmp_path, dtype):
    save_checkpoint(tmp_path / "a.pt", tiny, dtype, seed=3)
    checkpoint = load_checkpoint(tmp_path / "a.pt")
    assert checkpoint.model_args == TINY and checkpoint.extras == {"seed": 3}
    for name, tensor in tiny.state_dict().items():
        assert checkpoint.state_dict[name].dtype == torch.float32
        assert torch.equal(checkpoint.state_dict[name], tensor.to(dtype).float())
    plain = GPT(GPTConfig(**checkpoint.model_args))
    plain.load_state_dict(torch.load(tmp_path / "a.pt", weights_only=True)["model"], strict=True)


class Evil:
    def __reduce__(self):
        return (open, ("stolen", "w"))


def change(contents, **changes):
    return contents | changes


def with_tensor(contents, name, tensor):
    return contents | {"model": contents["model"] | {name: tensor}}


WPE = "transformer.wpe.weight"
BAD = {
    "plain tensors and numbers": lambda c: change(c, extra=Evil()),
    "no `model`": lambda c: {"weights": c["model"]},
    "model_args must have exactly": lambda c: change(c, model_args={"n_layer": 2}),
    "n_embd is True": lambda c: change(c, model_args=TINY | {"n_embd": True}),
    "n_layer is 1000000000": lambda c: change(c, model_args=TINY | {"n_layer": 10**9}),
    "not divisible": lambda c: change(c, model_args=TINY | {"n_head": 3}),
    "dropout from 0": lambda c: change(c, model_args=TINY | {"dropout": 1.5}),
    r"has shape \(96, 16\), its model_args say \(95, 16\)": lambda c: change(c, model_args=TINY | {"block_size": 95}),
    "transformer.h.1.* is unknown": lambda c: change(c, model_args=TINY | {"n_layer": 1}),
    "transformer.h.2.* is missing": lambda c: change(c, model_args=TINY | {"n_layer": 3}),
    "NaN": lambda c: with_tensor(c, WPE, torch.full((96, 16), float("nan"))),
    "not a plain tensor": lambda c: with_tensor(c, WPE, torch.zeros(96, 16, dtype=torch.long)),
    "not a plain tensor ": lambda c: with_tensor(c, WPE, torch.zeros(96, 16).to_sparse()),
    "differ, but this model ties them": lambda c: with_tensor(c, "lm_head.weight", torch.zeros(74, 16)),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_contents_are_refused(tiny, tmp_path, monkeypatch, message):
    monkeypatch.chdir(tmp_path)
    torch.save(BAD[message]({"model": tiny.state_dict(), "model_args": TINY}), "bad.pt")
    with pytest.raises(CheckpointError, match=message.strip()):
        load_checkpoint("bad.pt")
    assert os.listdir() == ["bad.pt"], "nothing in the file was executed"


def test_bad_files_are_refused(base_file, tmp_path):
    good = base_file.read_bytes()
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 1
    cases = {
        "cut off or not a PyTorch": good[: len(good) // 2],
        "is damaged": bytes(flipped),
        "web page": b"\n<!DOCTYPE html><html>Virus scan warning",
        "LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:1",
        "cut off or not": b"",
    }
    for message, data in cases.items():
        (tmp_path / "x.pt").write_bytes(data)
        with pytest.raises(CheckpointError, match=message):
            load_checkpoint(tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="no such file"):
        load_checkpoint(tmp_path / "nowhere.pt")
    with pytest.raises(CheckpointError, match="knows 74 characters, the vocabulary file 75"):
        load_model(base_file, vocab_size=75)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    target = tmp_path / "dpo.pt"
    write_atomically(target, b"old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        write_atomically(target, b"new and longer")
    assert target.read_bytes() == b"old" and os.listdir(tmp_path) == ["dpo.pt"]
