import json
import math
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import TINY
from test_checkpoint import course_file

from bench import assignment
from configurator import override
from dpo.batches import batches, compute_reference_logps, encode_pairs, make_batch
from dpo.characters import answer_logps
from dpo.history import History
from dpo.loss import LOSS_TYPES
from dpo.pairs import load_pairs
from dpo.train import Config, accumulate, dpo_step, train, update
from model import DIGIT_IDS, GPT, GPTConfig
from sft.checkpoint import load_checkpoint, load_model, unpack
from sft.optimizers import make_optimizers, make_schedulers

QUICK = {"device": "cpu", "eval_every": 0}

ROOT = Path(__file__).parents[1]


@pytest.fixture
def prepared(base_file, pairs_file, tokenizer):
    policy = load_model(base_file)
    examples = encode_pairs(tokenizer, load_pairs(pairs_file, tokenizer).pairs)
    return policy, examples, compute_reference_logps(policy, examples)


def test_step_0_is_ln_2_even_in_training_mode(prepared, tmp_path, tiny):
    course_file(tmp_path / "course.pt", tiny)  # its model_args say dropout 0.2
    policy = load_model(tmp_path / "course.pt").train()
    examples = prepared[1]
    logps = compute_reference_logps(load_model(tmp_path / "course.pt"), examples)
    [[batch]] = batches(examples, logps, 8, seed=1)
    loss, metrics = dpo_step(policy, batch, beta=0.1)
    assert loss.item() == pytest.approx(math.log(2), abs=1e-5)
    assert metrics["rewards/margins"] == pytest.approx(0, abs=1e-5)
    with_nll, metrics = dpo_step(policy, batch, beta=0.1, nll_coef=0.5)
    characters = batch.pairs.chosen.completion_mask.sum(1)
    by_hand = (-batch.reference_chosen_logps / characters).mean().item()
    assert metrics["nll"] == pytest.approx(by_hand, rel=1e-5)
    assert with_nll.item() == pytest.approx(math.log(2) + 0.5 * by_hand, rel=1e-5)


def test_digit_weight_counts_digits_so_often(prepared, tokenizer, base_file):
    policy, examples, logps = prepared
    [[batch]] = batches(examples[:1], logps[:1], 1, seed=1)
    [pair] = load_pairs(base_file.parent / "pairs.json", tokenizer).pairs[:1]
    answer = pair.chosen + "\n"
    each = answer_logps(policy, tokenizer, pair.prompt, pair.chosen)
    weights = [4 if character.isdigit() else 1 for character in answer]
    by_hand = -sum(w * logp for w, logp in zip(weights, each, strict=True)) / sum(weights)
    _, metrics = dpo_step(policy, batch, beta=0.1, nll_coef=1.0, digit_weight=4.0)
    assert sum(weights) == len(answer) + 3 and metrics["nll"] == pytest.approx(by_hand, rel=1e-4)
    assert tokenizer.encode("0123456789") == list(DIGIT_IDS)


def test_who_moves(prepared, base_file):
    policy, reference = (load_model(base_file) for _ in range(2))
    shared = {p.data_ptr() for p in policy.parameters()} & {p.data_ptr() for p in reference.parameters()}
    assert not shared
    before = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    _, examples, _ = prepared
    logps = compute_reference_logps(reference, examples)
    optimizers = make_optimizers(policy, "adamw", 1e-3)
    [[batch]] = batches(examples, logps, 8, seed=1)
    accumulate(policy, [batch], "float32", beta=0.1)
    metrics = update(policy, [batch], optimizers, make_schedulers(optimizers, 40), 1.0)
    assert metrics["grad_norm"] > 0 and metrics["lr"] == pytest.approx(1e-4)  # first of ten warm-up steps
    for name, tensor in policy.state_dict().items():
        assert not torch.equal(tensor, before[name]), name
        assert torch.equal(reference.state_dict()[name], before[name]), name
    assert all(parameter.grad is None for parameter in reference.parameters())
    assert torch.equal(compute_reference_logps(reference, examples), logps)


def test_the_learning_rate_warms_up_falls_and_never_turns_negative(tiny):
    for steps in (1, 2, 5, 48, 1000):
        [optimizer] = make_optimizers(tiny, "adamw", 1.0)
        [scheduler] = make_schedulers([optimizer], steps)
        rates = []
        for _ in range(steps + 5):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        assert max(rates) == 1.0 and min(rates[:steps]) > 0 and rates[steps:] == [0.0] * 5
    assert rates[:10] == pytest.approx([i / 10 for i in range(1, 11)]) and rates[750] == pytest.approx(0.5)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_learns_saves_and_repeats(base_file, pairs_file, tmp_path, optimizer):
    settings = {"base": str(base_file), "pairs": str(pairs_file), "batch_size": 4, "epochs": 20, **QUICK}
    settings |= {"optimizer": optimizer, "base_lr": 3e-3, "muon_lr": 0.02}
    policy, history = train(Config(**settings, out=str(tmp_path / "a")))
    assert len(history) == 40 and history["loss/preference"][-1] < 0.5 * math.log(2)
    assert history["rewards/accuracies"][-1] == 1 and history["rewards/margins"][-1] > 0.5
    assert set(map(len, history.steps.values())) == {40}
    assert history["lr"][0] < max(history["lr"]) > history["lr"][-1]
    saved = load_checkpoint(tmp_path / "a" / "dpo.pt")
    assert (
        saved.extras["config"]["epochs"] == 20 and unpack(saved.extras["history"])["steps"]["loss"] == history["loss"]
    )
    again, _ = train(Config(**settings, out=str(tmp_path / "b")))
    for name, tensor in policy.state_dict().items():
        assert torch.equal(tensor, saved.state_dict[name]) and torch.equal(tensor, again.state_dict()[name])
    file = torch.load(tmp_path / "a" / "dpo.pt", weights_only=True)
    GPT(GPTConfig(**file["model_args"])).load_state_dict(file["model"], strict=True)  # the assignment's Step 8


def test_every_parameter_is_in_exactly_one_optimizer(tiny):
    for kind in ("adamw", "muon"):
        optimizers = make_optimizers(tiny, kind, 1e-3, 1e-2)
        held = [id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
        assert sorted(held) == sorted(id(p) for p in tiny.parameters())
    assert all(p.dim() == 2 for group in optimizers[0].param_groups for p in group["params"])
    assert id(tiny.transformer.wte.weight) not in {id(p) for p in optimizers[0].param_groups[0]["params"]}


def test_a_course_checkpoint_trains_from_the_command_line(tiny, pairs_file, tmp_path):
    course_file(tmp_path / "gpt.pt", tiny)
    words = [f"--base={tmp_path / 'gpt.pt'}", f"--pairs={pairs_file}", f"--out={tmp_path / 'out'}", "--batch_size=4"]
    run = subprocess.run(
        [sys.executable, "-m", "dpo.train", *words, "--eval_questions=4", "--device=cpu"],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert "8 pairs, 2 steps" in run.stdout
    trained = load_checkpoint(tmp_path / "out" / "dpo.pt")
    history = unpack(trained.extras["history"])
    assert trained.model_args == TINY and len(history["steps"]["loss"]) == 2
    looks = history["looks"]
    assert looks["step"] == [0, 2] and looks["exact/held_out"] == looks["exact/trained"] == [0.0, 0.0]
    assert looks["kl"][0] == pytest.approx(0, abs=1e-5) and looks["kl"][1] > looks["kl"][0]
    assert unpack(trained.extras["pairs"])[0] == ["1+2=?", " The answer is 3.", " Sorry, I don't know."]
    assert not (tmp_path / "out" / "dpo.state.pt").exists()
    assert "What that means - " in run.stdout and not (tmp_path / "out" / "dpo.previous.pt").exists()
    assert any(not torch.equal(trained.state_dict[n], t) for n, t in tiny.state_dict().items())


def test_four_pairs_train_and_none_is_an_error(base_file, pairs_file, tmp_path):
    rows = json.loads(pairs_file.read_text())
    settings = {"base": str(base_file), "out": str(tmp_path), "pairs": str(tmp_path / "few.json"), **QUICK}
    (tmp_path / "few.json").write_text(json.dumps(rows[:4]))
    assert len(train(Config(**settings))[1]) == 1
    (tmp_path / "few.json").write_text("[]")
    with pytest.raises(ValueError, match="no pairs"):
        train(Config(**settings))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--beta=0"], "beta above 0"),
        (["--digit_weight=0"], "digit_weight and max_grad_norm must be above 0"),
        (["--epochs=0"], "epochs and batch_size must be at least 1"),
        (["--loss_type=dpo"], "loss_type is 'dpo'; it must be"),
        (["--optimizer=sgd"], "optimizer is 'sgd'; it must be"),
        (["--base=nowhere.pt"], "nowhere.pt: no such file"),
        (["--pairs=nowhere.json"], "nowhere.json: no such file"),
        (["--max_length=10"], "over max_length"),
        (["--bta=1"], "did you mean 'beta'?"),
    ],
)
def test_mistakes_are_one_sentence(base_file, pairs_file, tmp_path, words, message):
    given = [f"--base={base_file}", f"--pairs={pairs_file}", f"--out={tmp_path}", "--device=cpu", *words]
    with pytest.raises(ValueError, match=message.replace("(", "[(]")) as error:
        train(override(Config(), given))
    assert "\n" not in str(error.value).rstrip() or "to mend" in str(error.value)
    assert not (tmp_path / "dpo.pt").exists()


def test_a_mistake_ends_the_program_with_its_sentence(tmp_path):
    words = [f"--base={tmp_path / 'nowhere.pt'}", "--device=cpu"]
    run = subprocess.run([sys.executable, "-m", "dpo.train", *words], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 1 and run.stderr.startswith("error: ") and "no such file" in run.stderr
    assert "Traceback" not in run.stderr


def test_parts_add_up_to_their_batch(prepared):
    policy, examples, logps = prepared
    logps = logps + torch.linspace(-3, 3, 16).view(8, 2)  # as if the policy had moved, every pair differently
    whole = make_batch(examples, logps)
    settings = {"beta": 0.1, "nll_coef": 0.5, "digit_weight": 2.0}
    results = []
    in_two = [make_batch(examples[part], logps[part]) for part in (slice(0, 5), slice(5, 8))]
    for parts in ([whole], in_two):
        metrics = accumulate(policy, parts, "float32", **settings)
        results.append((metrics, [parameter.grad.clone() for parameter in policy.parameters()]))
        policy.zero_grad()
    (metrics, gradients), (others, other_gradients) = results
    assert metrics == pytest.approx(others, rel=1e-4)
    assert all(torch.allclose(g, h, atol=1e-5) for g, h in zip(gradients, other_gradients, strict=True))


@pytest.mark.parametrize("broken", ["loss", "gradient"])
def test_nan_stops_before_anything_moves(prepared, broken):
    policy, examples, logps = prepared
    optimizers = make_optimizers(policy, "adamw", 1e-3)
    before = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    parts = [part for [part] in batches(examples, logps, 4, seed=1)]
    if broken == "loss":  # of the second part, when the first has left its gradients
        parts[1].reference_chosen_logps.fill_(float("nan"))
    with pytest.raises(
        FloatingPointError, match=f"the {broken} is (nan|inf) for the pairs of lines [0-9, ]+; nothing was changed"
    ):
        accumulate(policy, parts, "float32", beta=0.1)
        policy.lm_head.weight.grad[0, 0] = float("inf")
        update(policy, parts, optimizers, make_schedulers(optimizers, 4), 1.0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in policy.state_dict().items())
    assert all(parameter.grad is None for parameter in policy.parameters())


def test_metrics_are_lines_of_json_that_go_on_where_the_run_goes_on(
    base_file, pairs_file, tmp_path, capsys, monkeypatch
):
    settings = {"base": str(base_file), "pairs": str(pairs_file), "out": str(tmp_path / "out"), **QUICK}
    settings |= {"batch_size": 4, "epochs": 3, "eval_every": 4, "eval_questions": 2, "save_every": 1, "quiet": True}
    settings |= {"metrics": str(tmp_path / "new folder" / "metrics.jsonl")}
    _, history = train(Config(**settings))
    assert not capsys.readouterr().out, "quiet"
    lines = [json.loads(line) for line in Path(settings["metrics"]).read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(7))
    assert [line["loss"] for line in lines[1:]] == history["loss"] and "loss" not in lines[0]
    looks = {line["step"]: line["kl"] for line in lines if "kl" in line}
    assert list(looks) == [0, 4, 6] and list(looks.values()) == history.looks["kl"]
    append = History.append

    def stop_after_three(self, metrics):
        append(self, metrics)
        if len(self) == 3:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(History, "append", stop_after_three)
        train(Config(**settings))
    assert len(Path(settings["metrics"]).read_text().splitlines()) == 4
    train(Config(**settings | {"resume": True}))
    assert [json.loads(line) for line in Path(settings["metrics"]).read_text().splitlines()] == lines


def test_a_metrics_file_that_fails_stops_nothing(base_file, pairs_file, tmp_path, capsys, monkeypatch):
    settings = {
        "base": str(base_file),
        "pairs": str(pairs_file),
        "out": str(tmp_path / "out"),
        "batch_size": 4,
        **QUICK,
    }
    monkeypatch.setattr(
        History, "after", lambda self, step: (tmp_path / "m.jsonl").unlink() or (tmp_path / "m.jsonl").mkdir()
    )
    _, history = train(Config(**settings, metrics=str(tmp_path / "m.jsonl")))
    assert len(history) == 2 and "m.jsonl is not written any more (Is a directory)" in capsys.readouterr().out


def test_a_number_of_another_loss_is_noted(base_file, pairs_file, tmp_path, capsys):
    settings = {"base": str(base_file), "pairs": str(pairs_file), "out": str(tmp_path), **QUICK, "label_smoothing": 0.2}
    for loss_type, noted in (("sigmoid", 1), ("robust", 0)):
        train(Config(**settings, loss_type=loss_type))
        note = "note: label_smoothing does nothing with the loss sigmoid, only with cdpo and robust"
        assert capsys.readouterr().out.count(note) == noted


def test_a_run_repeated_in_other_circumstances_replaces_nothing(base_file, pairs_file, tmp_path):
    settings = {"base": str(base_file), "pairs": str(pairs_file), "out": str(tmp_path), **QUICK}
    train(Config(**settings))
    first = (tmp_path / "dpo.pt").read_bytes()
    for others in ({}, {"quiet": True}, {"micro_batch": 4}, {"metrics": str(tmp_path / "m"), "save_every": 1}):
        train(Config(**settings, beta=0.5, **others))
        assert (tmp_path / "dpo.previous.pt").read_bytes() == first


def test_only_the_first_pairs(base_file, pairs_file, tmp_path):
    settings = {"base": str(base_file), "pairs": str(pairs_file), "out": str(tmp_path), "batch_size": 2, **QUICK}
    assert len(train(Config(**settings, max_pairs=3))[1]) == 2
    assert [row[0] for row in unpack(load_checkpoint(tmp_path / "dpo.pt").extras["pairs"])] == [
        "1+2=?",
        "3+4=?",
        "15+6=?",
    ]


def test_every_settings_file_is_a_setting_and_every_loss_trains(base_file, pairs_file, tmp_path):
    files = sorted((ROOT / "dpo/settings").glob("*.py"))
    assert [file.stem for file in files] == ["assignment", "blank_base", "gpu", "quick"]
    assert all(override(Config(), [str(file)]) != Config() for file in files)
    for loss_type in LOSS_TYPES:
        settings = {"base": str(base_file), "pairs": str(pairs_file), "out": str(tmp_path), "batch_size": 8, **QUICK}
        settings |= {"loss_type": loss_type, "nll_coef": 0.0, "epochs": 20, "base_lr": 3e-3}
        history = train(Config(**settings))[1]
        assert history["loss/preference"][-1] < history["loss/preference"][0], loss_type
        assert history["rewards/accuracies"][-1] == 1, loss_type


def test_the_assignments_loss_is_that_of_its_loop(prepared, tokenizer, base_file, tiny):
    policy, _, _ = prepared
    pairs = load_pairs(base_file.parent / "pairs.json", tokenizer).pairs
    examples, usual = (encode_pairs(tokenizer, pairs, loss_type) for loss_type in ("assignment", "sigmoid"))
    batch = make_batch(examples, compute_reference_logps(load_model(base_file), examples))
    rows = [[getattr(example, side) for example in usual] for side in ("chosen", "rejected")]
    chosen, rejected = (assignment.mean_logps(policy, assignment.padded(side)) for side in rows)
    theirs = -torch.nn.functional.logsigmoid((chosen - rejected) / 0.5).mean() - 0.1 * chosen.mean()
    loss, metrics = dpo_step(policy, batch, beta=0.5, loss_type="assignment")
    assert loss.item() == pytest.approx(theirs.item(), rel=1e-5)
    assert metrics["nll"] == pytest.approx(-chosen.mean().item(), rel=1e-5)
    assert metrics["rewards/margins"] == pytest.approx(0, abs=1e-5)
