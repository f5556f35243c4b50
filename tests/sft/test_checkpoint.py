import pickle

import pytest
import torch
from conftest import TINY

from model import GPT, GPTConfig
from sft.checkpoint.archive import CheckpointError
from sft.checkpoint.weights import expected_shapes, load_checkpoint, load_model, save_checkpoint
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


@pytest.mark.parametrize(
    "prefix", ["_orig_mod.", "module.", "", "module._orig_mod.", "_orig_mod.module."]
)
@pytest.mark.parametrize("key", ["model", "model_state_dict"])
def test_course_layout_is_accepted(tiny, tmp_path, prefix, key):
    course_file(tmp_path / "gpt.pt", tiny, prefix, key)
    checkpoint = load_checkpoint(tmp_path / "gpt.pt")
    assert checkpoint.state_dict.keys() == tiny.state_dict().keys()
    assert all(
        torch.equal(checkpoint.state_dict[name], tensor)
        for name, tensor in tiny.state_dict().items()
    )
    assert checkpoint.model_args["dropout"] == 0.2
    assert checkpoint.extras["iter_num"] == 5000
    model, tokenizer = load_model(tmp_path / "gpt.pt")
    assert model.config.dropout == 0.0
    assert not model.training


def test_a_nanogpt_script_runs_unchanged(tiny, tmp_path):
    """What the assignment's Steps 2 to 4 and 8 do with a file of its layout, our model and our vocabulary."""
    course_file(tmp_path / "gpt.pt", tiny)
    meta = pickle.loads(VOCABULARY_PATH.read_bytes())
    loaded = torch.load(tmp_path / "gpt.pt", map_location="cpu")
    gpt = GPT(GPTConfig(**loaded["model_args"]))
    gpt.load_state_dict(
        {name.removeprefix("_orig_mod."): tensor for name, tensor in loaded["model"].items()}
    )
    gpt.to("cpu").train()
    ids = torch.tensor([[meta["stoi"][c] for c in "17+19=?"]])
    logits, _ = gpt(ids[:, :-1], full_seq=True)
    assert logits.shape == (1, 6, meta["vocab_size"])
    y = gpt.eval().generate(
        ids, 200, temperature=0.8, top_k=200
    )  # to the end of the block and beyond it
    text = "".join(meta["itos"][i] for i in y[0][0].tolist())
    assert text.startswith("17+19=?")
    assert y[0].shape[0] == 1
    assert len(y) == 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_round_trip_is_exact(tiny, tmp_path, dtype):
    save_checkpoint(tmp_path / "a.pt", tiny, dtype, seed=3)
    checkpoint = load_checkpoint(tmp_path / "a.pt")
    assert checkpoint.model_args == TINY
    assert checkpoint.extras == {"seed": 3}
    for name, tensor in tiny.state_dict().items():
        assert checkpoint.state_dict[name].dtype == torch.float32
        assert torch.equal(checkpoint.state_dict[name], tensor.to(dtype).float())
    plain = GPT(GPTConfig(**checkpoint.model_args))
    plain.load_state_dict(torch.load(tmp_path / "a.pt", weights_only=True)["model"], strict=True)


@pytest.mark.parametrize("bias", [True, False])
def test_expected_shapes_are_those_of_the_model(bias):
    args = TINY | {"bias": bias, "n_layer": 3, "n_embd": 12, "vocab_size": 20}
    shapes = {
        name: tuple(tensor.shape) for name, tensor in GPT(GPTConfig(**args)).state_dict().items()
    }
    assert expected_shapes(args, most_layers=9) == shapes
    assert len(expected_shapes(args | {"n_layer": 10**5}, most_layers=3)) == len(shapes)


def test_a_model_and_its_vocabulary_belong_together(tmp_path):
    model = GPT(GPTConfig(**TINY | {"vocab_size": 75}))
    save_checkpoint(tmp_path / "other.pt", model)
    with pytest.raises(
        CheckpointError, match="knows 75 characters, the vocabulary file 74; use the"
    ):
        load_model(tmp_path / "other.pt")
