"""The model: nanoGPT's names and calls, and a generation that equals the textbook loop."""

import pytest
import torch
from torch.nn import functional as F

from model import GPT, NEWLINE_ID, PERIOD_ID, GPTConfig


def prompts_of(*lengths):
    """Random prompts without newline and full stop, right-padded, and their lengths."""
    generator = torch.Generator().manual_seed(3)
    rows = [torch.randint(8, 74, (n,), generator=generator) for n in lengths]
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=0)
    return padded, torch.tensor(lengths)


# Names and sizes


@pytest.fixture(scope="module")
def full_size():
    sizes = {"block_size": 256, "vocab_size": 74, "n_layer": 6, "n_head": 6, "n_embd": 348}
    return GPT(GPTConfig(**sizes, dropout=0.2, bias=False))


def test_full_size_has_the_assignments_parameters(full_size):
    assert full_size.get_num_params(non_embedding=False) == 8_838_852


def test_position_embeddings_are_not_counted(full_size):
    assert full_size.get_num_params() == 8_838_852 - 256 * 348


def test_tensors_have_nanogpts_names(full_size):
    parts = ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")
    blocks = {f"transformer.h.{layer}.{part}.weight" for layer in range(6) for part in parts}
    ends = {f"transformer.{part}.weight" for part in ("wte", "wpe", "ln_f")}
    assert set(full_size.state_dict()) == blocks | ends | {"lm_head.weight"}


def test_head_and_embedding_are_one_tensor(full_size):
    assert full_size.lm_head.weight is full_size.transformer.wte.weight


def test_bias_adds_the_usual_names():
    names = set(GPT(GPTConfig(n_layer=1, n_embd=12, n_head=2, bias=True)).state_dict())
    usual = ("ln_f", "h.0.attn.c_attn", "h.0.ln_1")
    assert names >= {f"transformer.{part}.bias" for part in usual}
    assert "lm_head.bias" not in names


# Calls


@pytest.fixture
def idx():
    return torch.randint(1, 74, (3, 11), generator=torch.Generator().manual_seed(1))


def test_a_call_gives_the_last_logits(tiny, idx):
    logits, loss = tiny(idx)
    assert logits.shape == (3, 1, 74)
    assert loss is None


def test_a_full_call_gives_all_logits(tiny, idx):
    logits, loss = tiny(idx, full_seq=True)
    assert logits.shape == (3, 11, 74)
    assert loss is None


def test_last_logits_are_the_last_of_all(tiny, idx):
    # not to the bit: the last digits depend on the shape of the product
    torch.testing.assert_close(tiny(idx, full_seq=True)[0][:, -1:], tiny(idx)[0])


@pytest.fixture
def targets():
    """Random ids; the first four of the first row do not count."""
    targets = torch.randint(0, 74, (3, 11), generator=torch.Generator().manual_seed(2))
    targets[0, :4] = -1
    return targets


def test_a_call_with_targets_gives_the_mean_loss(tiny, idx, targets):
    logits, loss = tiny(idx, targets)
    kept = targets.flatten() >= 0
    expected = F.cross_entropy(logits.flatten(0, 1)[kept], targets.flatten()[kept])
    assert loss.item() == pytest.approx(expected.item())


def test_a_call_gives_hidden_states_if_asked(tiny, idx, targets):
    logits, _, hidden = tiny(idx, targets, return_hidden_states=True)
    assert logits.shape == (3, 11, 74)
    assert hidden.shape == (3, 11, 16)


@pytest.fixture
def before_and_after(tiny):
    """Logits of twelve characters, and of the same with the last four changed."""
    idx = torch.randint(1, 74, (1, 12), generator=torch.Generator().manual_seed(1))
    changed = idx.clone()
    changed[0, 8:] = (changed[0, 8:] + 5) % 74
    return tiny(idx, full_seq=True)[0], tiny(changed, full_seq=True)[0]


def test_what_follows_changes_nothing(before_and_after):
    before, after = before_and_after
    assert torch.allclose(before[:, :8], after[:, :8], atol=1e-5)


def test_what_stands_before_changes_something(before_and_after):
    before, after = before_and_after
    assert not torch.allclose(before[:, 8:], after[:, 8:], atol=1e-2)


# Generation


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


# with a block of 20, rows outgrow it while they are written
blocks = pytest.mark.parametrize(("block_size", "longest"), [(96, 30), (20, 26)])


@pytest.fixture
def generated(tiny, block_size, longest):
    """Five prompts, their greedy texts together, and each by the textbook loop."""
    tiny.crop_block_size(block_size)
    idx, lengths = prompts_of(3, 17, 1, 9, longest)
    out, hidden = tiny.generate(idx, 24, temperature=0.0, lengths=lengths)
    assert hidden.shape == (5, 16)
    alone = [greedy_without_cache(tiny, row[:n], 24) for row, n in zip(idx, lengths, strict=True)]
    return lengths.tolist(), out, alone


@blocks
def test_generate_equals_the_textbook_loop(generated):
    _, out, alone = generated
    for row, expected in zip(out, alone, strict=True):
        assert row[: len(expected)].tolist() == expected.tolist()


@blocks
def test_shorter_rows_are_filled_with_newlines(generated):
    _, out, alone = generated
    assert not any(row[len(text) :].any() for row, text in zip(out, alone, strict=True))


@blocks
def test_rows_stop_on_their_own(generated):
    lengths, _, alone = generated
    assert len({len(text) - n for text, n in zip(alone, lengths, strict=True)}) > 1


@pytest.mark.parametrize("top_k", [None, 5])
def test_a_sampled_batch_equals_its_rows_one_by_one(tiny, top_k):
    idx, lengths = prompts_of(4, 13, 8, 2, 6)
    together, _ = tiny.generate(idx, 20, 0.9, top_k, lengths, torch.Generator().manual_seed(5))
    generator = torch.Generator().manual_seed(5)
    for row, prompt, n in zip(together, idx, lengths, strict=True):
        alone, _ = tiny.generate(prompt[None, :n], 20, 0.9, top_k, generator=generator)
        assert row[: alone.shape[1]].tolist() == alone[0].tolist()


@pytest.fixture
def likelihoods(tiny):
    """Of every character after the character 30, (74,)."""
    return tiny(torch.tensor([[30]]))[0][0, -1].softmax(-1)


def draw(model, **settings):
    """4000 characters after the character 30; 0, the newline, where nothing was written."""
    generator = torch.Generator().manual_seed(0)
    out, _ = model.generate(torch.full((4000, 1), 30), 1, 1.0, generator=generator, **settings)
    return out[:, 1] if out.shape[1] > 1 else torch.zeros(4000, dtype=torch.long)


def test_sampling_follows_the_distribution(tiny, likelihoods):
    drawn = torch.bincount(draw(tiny), minlength=74) / 4000
    assert (drawn - likelihoods).abs().max() < 0.03


def test_top_k_draws_the_likeliest_only(tiny, likelihoods):
    assert set(draw(tiny, top_k=3).tolist()) <= set(likelihoods.topk(3).indices.tolist())


@pytest.fixture
def writes_one(tiny):
    """`writes_one(character)`: the text that a model writes after 20, 21 which knows no other."""

    def write(character):
        weight, idx = tiny.lm_head.weight, torch.tensor([[20, 21]])
        with torch.no_grad():
            weight.zero_()
            tiny.transformer.ln_f.weight.fill_(1.0)
            weight[PERIOD_ID] = 0.001  # tied: the input embedding of the full stop, too
            hidden = tiny(idx, return_hidden_states=True)[2][0, -1]
            weight[PERIOD_ID] = 0
            weight[character] = hidden
        return tiny.generate(idx, 9, 0.0)[0].tolist()

    return write


def test_generation_stops_after_a_full_stop(writes_one):
    assert writes_one(PERIOD_ID) == [[20, 21, PERIOD_ID]]


def test_generation_stops_before_a_newline(writes_one):
    assert writes_one(NEWLINE_ID) == [[20, 21]]


# Mistakes


def test_a_negative_temperature_is_refused(tiny):
    with pytest.raises(ValueError, match="temperature is -1"):
        tiny.generate(torch.ones(1, 2, dtype=torch.long), 3, temperature=-1)


def test_an_empty_prompt_is_refused(tiny):
    with pytest.raises(ValueError, match="at least one character"):
        tiny.generate(torch.ones(1, 2, dtype=torch.long), 3, lengths=torch.tensor([0]))


def test_a_text_beyond_the_block_is_refused(tiny):
    with pytest.raises(ValueError, match="97 characters do not fit into the block of 96"):
        tiny(torch.ones(1, 97, dtype=torch.long))


# The optimizer of nanoGPT


@pytest.fixture
def decays(tiny):
    """The weight decay of every parameter, by its id."""
    groups = tiny.configure_optimizers(0.1, 1e-3, (0.9, 0.95), "cpu").param_groups
    return {id(p): group["weight_decay"] for group in groups for p in group["params"]}


def test_optimizer_has_every_parameter(tiny, decays):
    assert set(decays) == set(map(id, tiny.parameters()))


def test_optimizer_decays_matrices_only(tiny, decays):
    for parameter in tiny.parameters():
        assert decays[id(parameter)] == (0.1 if parameter.dim() == 2 else 0.0)
