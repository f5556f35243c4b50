import pytest
import torch
from torch.nn import functional as F

from model import GPT, NEWLINE_ID, PERIOD_ID, GPTConfig


def prompts_of(*lengths):
    """Random prompts without newline and full stop, right-padded, and their lengths."""
    generator = torch.Generator().manual_seed(3)
    rows = [torch.randint(8, 74, (n,), generator=generator) for n in lengths]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=0), torch.tensor(
        lengths
    )


def test_full_size_has_the_assignments_parameters():
    model = GPT(
        GPTConfig(
            block_size=256, vocab_size=74, n_layer=6, n_head=6, n_embd=348, dropout=0.2, bias=False
        )
    )
    names = set(model.state_dict())
    assert model.get_num_params(non_embedding=False) == 8_838_852
    assert model.get_num_params() == 8_838_852 - 256 * 348
    parts = ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")
    blocks = {f"transformer.h.{layer}.{part}.weight" for layer in range(6) for part in parts}
    ends = {
        "transformer.wte.weight",
        "transformer.wpe.weight",
        "transformer.ln_f.weight",
        "lm_head.weight",
    }
    assert names == blocks | ends
    assert model.lm_head.weight is model.transformer.wte.weight


def test_bias_adds_the_usual_names():
    names = set(GPT(GPTConfig(n_layer=1, n_embd=12, n_head=2, bias=True)).state_dict())
    assert {
        "transformer.ln_f.bias",
        "transformer.h.0.attn.c_attn.bias",
        "transformer.h.0.ln_1.bias",
    } <= names
    assert "lm_head.bias" not in names


def test_call_signatures(tiny):
    idx = torch.randint(1, 74, (3, 11))
    logits, loss = tiny(idx)
    assert logits.shape == (3, 1, 74)
    assert loss is None
    full, loss = tiny(idx, full_seq=True)
    assert full.shape == (3, 11, 74)
    assert loss is None
    torch.testing.assert_close(
        full[:, -1:], logits
    )  # the last digits depend on the shape of the product
    targets = torch.randint(0, 74, (3, 11))
    targets[0, :4] = -1
    scored, loss, hidden = tiny(idx, targets, return_hidden_states=True)
    assert scored.shape == (3, 11, 74)
    assert hidden.shape == (3, 11, 16)
    kept = targets.flatten() >= 0
    assert loss.item() == pytest.approx(
        F.cross_entropy(scored.flatten(0, 1)[kept], targets.flatten()[kept]).item()
    )


def test_causal(tiny):
    idx = torch.randint(1, 74, (1, 12))
    changed = idx.clone()
    changed[0, 8:] = (changed[0, 8:] + 5) % 74
    before, after = tiny(idx, full_seq=True)[0], tiny(changed, full_seq=True)[0]
    assert torch.allclose(before[:, :8], after[:, :8], atol=1e-5)
    assert not torch.allclose(before[:, 8:], after[:, 8:], atol=1e-2)


def greedy_without_cache(model, row, new):
    """The textbook loop: one row, everything computed again for every character."""
    for _ in range(new):
        logits, _ = model(row[None, -model.config.block_size :])
        chosen = int(logits[0, -1].argmax())
        if chosen == NEWLINE_ID:
            break
        row = torch.cat([row, torch.tensor([chosen])])
        if chosen == PERIOD_ID:
            break
    return row


@pytest.mark.parametrize(
    "block_size", [96, 20]
)  # 20: rows outgrow the block while they are written
def test_generate_equals_the_textbook_loop(tiny, block_size):
    tiny.crop_block_size(block_size)
    idx, lengths = prompts_of(3, 17, 1, 9, 30 if block_size == 96 else 26)
    out, hidden = tiny.generate(idx, 24, temperature=0.0, lengths=lengths)
    assert hidden.shape == (5, 16)
    written = set()
    for row, prompt, n in zip(out, idx, lengths, strict=True):
        expected = greedy_without_cache(tiny, prompt[:n], 24)
        assert row[: len(expected)].tolist() == expected.tolist()
        assert not row[len(expected) :].any(), "shorter rows are filled with newlines"
        written.add(len(expected) - int(n))
    assert len(written) > 1, "rows stop on their own"


@pytest.mark.parametrize("top_k", [None, 5])
def test_a_sampled_batch_equals_its_rows_one_by_one(tiny, top_k):
    idx, lengths = prompts_of(4, 13, 8, 2, 6)
    together, _ = tiny.generate(idx, 20, 0.9, top_k, lengths, torch.Generator().manual_seed(5))
    generator = torch.Generator().manual_seed(5)
    for row, prompt, n in zip(together, idx, lengths, strict=True):
        alone, _ = tiny.generate(prompt[None, :n], 20, 0.9, top_k, generator=generator)
        assert row[: alone.shape[1]].tolist() == alone[0].tolist()


def test_sampling_follows_the_distribution(tiny):
    idx = torch.full((4000, 1), 30)
    out, _ = tiny.generate(idx, 1, 1.0, generator=torch.Generator().manual_seed(0))
    column = out[:, 1] if out.shape[1] > 1 else torch.zeros(4000, dtype=torch.long)
    drawn = torch.bincount(column, minlength=74) / 4000
    expected = tiny(idx[:1])[0][0, -1].softmax(-1)
    assert (drawn - expected).abs().max() < 0.03
    top, _ = tiny.generate(idx, 1, 1.0, top_k=3, generator=torch.Generator().manual_seed(0))
    assert set(top[:, 1].tolist()) <= set(expected.topk(3).indices.tolist())


def test_stops_after_a_full_stop_and_before_a_newline(tiny):
    with torch.no_grad():
        tiny.lm_head.weight.zero_()
        tiny.transformer.ln_f.weight.fill_(1.0)
        tiny.lm_head.weight[PERIOD_ID] = 0.001  # tied: the input embedding of the full stop, too
    idx = torch.tensor([[20, 21]])
    hidden = tiny(idx, return_hidden_states=True)[2][0, -1]
    with torch.no_grad():
        tiny.lm_head.weight[PERIOD_ID] = hidden
    assert tiny.generate(idx, 9, 0.0)[0].tolist() == [[20, 21, PERIOD_ID]]
    with torch.no_grad():
        tiny.lm_head.weight[PERIOD_ID] = 0
        tiny.lm_head.weight[NEWLINE_ID] = hidden
    assert tiny.generate(idx, 9, 0.0)[0].tolist() == [[20, 21]]


def test_generate_refuses_nonsense(tiny):
    with pytest.raises(ValueError, match="temperature is -1"):
        tiny.generate(torch.ones(1, 2, dtype=torch.long), 3, temperature=-1)
    with pytest.raises(ValueError, match="at least one character"):
        tiny.generate(torch.ones(1, 2, dtype=torch.long), 3, lengths=torch.tensor([0]))
    with pytest.raises(ValueError, match="97 characters do not fit into the block of 96"):
        tiny(torch.ones(1, 97, dtype=torch.long))


def test_configure_optimizers_decays_matrices_only(tiny):
    optimizer = tiny.configure_optimizers(0.1, 1e-3, (0.9, 0.95), "cpu")
    decays = {
        id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]
    }
    assert len(decays) == len(list(tiny.parameters()))
    assert all(decays[id(p)] == (0.1 if p.dim() == 2 else 0.0) for p in tiny.parameters())
