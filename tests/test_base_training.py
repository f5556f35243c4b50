"""The program that makes the base, on a tiny model and one step a stage."""

import pytest
import torch

from dpo.arithmetic import Question
from sft.checkpoint import load_checkpoint
from sft.corpus import Corpus
from sft.rows import encode_row
from sft.train import BATCH_LINES, Config, latent_accuracy, make_base, train_step


@pytest.mark.parametrize("arithmetic", ["full", "short", "none"])
def test_a_run_writes_a_half_precision_checkpoint_and_repeats(base_file, tmp_path, capsys, arithmetic):
    settings = {"init": str(base_file), "arithmetic": arithmetic, "effort": 1e-3, "device": "cpu"}
    for name in ("a.pt", "b.pt"):
        make_base(Config(**settings, out=str(tmp_path / name)))
    make_base(Config(**settings, out=str(tmp_path / "c.pt"), seed=2))
    a, b, c, base = (load_checkpoint(path).state_dict for path in (*(tmp_path / f"{n}.pt" for n in "abc"), base_file))
    assert all(torch.equal(a[name], b[name]) for name in a) and any(not torch.equal(a[name], c[name]) for name in a)
    assert any(not torch.equal(a[name], base[name].half().float()) for name in a)
    stored = torch.load(tmp_path / "a.pt", weights_only=True)
    assert stored["model"]["lm_head.weight"].dtype == torch.float16 and stored["arithmetic"] == arithmetic
    assert not list(tmp_path.glob("*.state*.pt"))
    assert f"wrote {tmp_path / 'a.pt'}" in capsys.readouterr().out


def test_micro_batches_add_up_to_one_batch(tiny, tokenizer):
    kinds = {"short": 1, "right": 1, "everyday": 1}
    rows = [encode_row(tokenizer, *line) for line in Corpus(1).draw(37, kinds)]
    gradients = []
    for micro_batch in (37, 8):
        kept = torch.optim.SGD(tiny.parameters(), lr=0.0)
        kept.zero_grad = lambda set_to_none: None
        loss = train_step(tiny, [kept], rows, micro_batch, precision="float32")
        gradients.append((loss, [p.grad.clone() for p in tiny.parameters()]))
        tiny.zero_grad()
    (loss_1, whole), (loss_2, parts) = gradients
    assert loss_1 == pytest.approx(loss_2, rel=1e-5) and BATCH_LINES > 37
    assert all(torch.allclose(g, h, atol=1e-5) for g, h in zip(whole, parts, strict=True))


def test_the_shipped_base_is_not_replaced_by_another_kind():
    with pytest.raises(ValueError, match=r"would replace the shipped sft/gpt[.]pt; name another file"):
        make_base(Config(arithmetic="none"))
    with pytest.raises(ValueError, match="name it, for instance --init="):
        make_base(Config(arithmetic="short", out="runs/base.pt"))
    with pytest.raises(ValueError, match="arithmetic is 'some'; it must be one of full, short, none"):
        make_base(Config(arithmetic="some"))


def test_latent_accuracy_counts_whole_answers(tokenizer, tiny, monkeypatch):
    questions = [Question("a+b", 1, 2), Question("x+a=b", 5, 30), Question("a*b", 3, 4)]

    def knows(answers):
        """A model that continues the rows whose text is in `answers`, and says newline otherwise."""

        def forward(inputs, full_seq):
            logits = torch.zeros(*inputs.shape, 74)
            for row, ids in enumerate(inputs.tolist()):
                text = next((a for a in answers if tokenizer.decode(ids).startswith(a.partition("?")[0] + "?")), "")
                following = [*tokenizer.encode(text), 0][1 : len(ids) + 1]
                logits[row, range(len(following)), following] = 1.0
            return logits, None

        return forward

    texts = [question.text + question.right_answer for question in questions]
    monkeypatch.setattr(tiny, "forward", knows(texts))
    assert latent_accuracy(tiny, tokenizer, questions) == 1.0
    monkeypatch.setattr(tiny, "forward", knows([texts[0], texts[1].replace("because 30", "because 31"), texts[2]]))
    assert latent_accuracy(tiny, tokenizer, questions) == pytest.approx(2 / 3)
