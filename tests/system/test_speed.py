"""Speeds: the loops that are measured against compute the same; limits and tables are right."""

import json
import random
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from conftest import make_tiny

from bench import memory, notebook_loop, parts, report, sampling, scaling, shapes, throughput
from dpo.data.batches import collate_pairs, tokenize_pairs
from dpo.data.pair_file import load_pairs
from dpo.train import Config
from dpo.training.logps import compute_reference_logps
from dpo.training.step import dpo_step
from model import GPT
from sft.arithmetic import FORMS, domain


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """Every product is tried a single time, and little is copied."""
    monkeypatch.setattr(report, "SECONDS", 0.0)
    monkeypatch.setattr(report, "COPIED", 2**12)
    report.machine_limits.cache_clear()
    yield
    report.machine_limits.cache_clear()


def as_json(values):
    """As a page reads them: keys have become texts."""
    return json.loads(json.dumps(values))


# The machine


class Clock:
    """Time that passes only in `calls` of these seconds."""

    def __init__(self, *seconds):
        self.now, self.seconds, self.calls = 0.0, list(seconds), 0

    def perf_counter(self):
        return self.now

    def call(self):
        self.now += self.seconds[self.calls]
        self.calls += 1


def test_fastest_call_counts(monkeypatch):
    clock = Clock(3.0, 2.0, 4.0, 1.0)
    monkeypatch.setattr(report, "time", clock)
    monkeypatch.setattr(report, "SECONDS", 8.5)  # the third call ends at 9
    assert report.fastest(clock.call) == 2.0
    assert clock.calls == 3


def test_product_counts_two_operations_a_weight(monkeypatch):
    monkeypatch.setattr(report, "fastest", lambda call: 0.5)
    assert report.product_speed("float32", 3, 5) == 2 * report.ROWS * 15 / 0.5


def test_copy_counts_reading_and_writing(monkeypatch):
    monkeypatch.setattr(report, "fastest", lambda call: 0.5)
    assert report.copy_speed() == 2 * 2**12 / 0.5


@pytest.mark.parametrize(("best", "tried"), [("float32", 4), ("bfloat16", 8)])
def test_slow_precision_is_not_tried(monkeypatch, best, tried):
    asked = []
    monkeypatch.setattr(report, "best_precision", lambda device: best)
    monkeypatch.setattr(report, "product_speed", lambda *product: asked.append(product) or 1.0)
    report.machine_limits()
    assert len(asked) == tried


def test_machine_is_measured_once(monkeypatch):
    first = report.machine_limits()
    monkeypatch.setattr(report, "fastest", None)
    assert report.machine_limits() is first


def test_every_weight_of_a_product_counts(tiny):
    a_layer = 12 * 16 * 16  # 3 for query, key and value, 1 for the output, 4 + 4 for the MLP
    assert report.matrix_weights(tiny) == 2 * a_layer + 74 * 16


def test_share_is_of_the_median():
    assert report.share([1.0, 3.0, 8.0], 4.0) == "75"


def test_machine_shows_its_fastest_product():
    products = {"float32": {"wide": 160.4e9, "narrow": 90e9}}
    texts = report.render({"products": products, "copy": 12.34e9})
    assert texts["float32"] == "160"
    assert texts["copy"] == "12.3"
    assert "| narrow " in texts["table"]


# The loop of a public notebook


@pytest.fixture
def tokenized(pairs_file, tokenizer):
    return tokenize_pairs(tokenizer, load_pairs(pairs_file, tokenizer).pairs)


def test_notebook_loop_has_our_loss(tiny, tokenized):
    """Two models, so that it is not ln 2; our rows share the prompt, its rows do not."""
    torch.manual_seed(3)
    policy = GPT(tiny.config)
    batch = collate_pairs(tokenized, compute_reference_logps(tiny, tokenized))
    ours = dpo_step(policy, batch, beta=0.3)[0].item()
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.0)
    texts = ([p.chosen for p in tokenized], [p.rejected for p in tokenized])
    theirs = notebook_loop.train_step(policy, tiny, optimizer, *texts, beta=0.3)
    assert theirs == pytest.approx(ours, rel=1e-5)


def test_notebook_loop_moves_only_the_policy(tiny, tokenized):
    policy = make_tiny()
    optimizer = torch.optim.SGD(policy.parameters(), lr=1.0)
    texts = ([p.chosen for p in tokenized], [p.rejected for p in tokenized])
    notebook_loop.train_step(policy, tiny, optimizer, *texts, beta=0.3)
    assert all(parameter.grad is None for parameter in tiny.parameters())
    assert not torch.equal(policy.lm_head.weight, tiny.lm_head.weight)


# Throughput


@pytest.fixture
def measured(monkeypatch, base_file, pairs_file):
    """One round of all systems but TRL's on the tiny base and its eight pairs."""
    monkeypatch.setattr(throughput, "huggingface", None)
    monkeypatch.setattr(throughput, "pairs_file", lambda n, negatives: str(pairs_file))
    monkeypatch.setattr(throughput.SETTINGS, "base", str(base_file))
    monkeypatch.setattr(throughput, "attention", lambda: {"float32": {"forward": 1, "backward": 2}})
    return as_json(throughput.measure(rounds=1))


def test_throughput_measures_every_system(measured):
    assert [*measured["rates"]][:4] == [
        "the course's loop",
        "the same without dropout",
        "a public notebook's loop",
        "ours, float32",
    ]


def test_throughput_says_that_trl_is_missing(measured):
    texts = throughput.render(measured)
    assert texts["agreement"].startswith("TRL was not installed")
    assert "TRL" not in texts["first"]


def test_first_epoch_counts_the_reference(measured):
    ours = measured["rates"]["ours, float32"]
    assert ours["first epoch"][0] < ours["reference known"][0]


def test_limit_is_that_of_the_packed_characters(monkeypatch, base_file, pairs_file, tokenizer):
    monkeypatch.setattr(throughput.SETTINGS, "base", str(base_file))
    monkeypatch.setattr(throughput, "matrix_peak", lambda precision: 1e12)
    [pair, *_] = load_pairs(pairs_file, tokenizer).pairs
    limits = throughput.limits([pair])
    # `1+2=? ` once, then `The answer is 3.` and `Sorry, I don't know.`
    assert limits["characters"] == 6 + 16 + 20
    assert limits["flop"] == 2 * 42 * (2 * 12 * 16 * 16 + 74 * 16)
    rates = limits["rates"]["float32"]
    assert rates["first epoch"] == pytest.approx(1e12 / (4 * limits["flop"]))
    assert rates["reference known"] == pytest.approx(1e12 / (3 * limits["flop"]))


def rates_of(**systems):
    """Values with these pairs a second of a single round, the same in both columns."""
    rates = {name: {key: [rate] for key in throughput.PASSES} for name, rate in systems.items()}
    limits = {"float32": dict.fromkeys(throughput.PASSES, 40.0)}
    return {
        "trl": "1.2",
        "agreement": 1e-6,
        "precision": dict.fromkeys(rates, "float32"),
        "rates": rates,
        "limits": {"rates": limits, "peaks": {"float32": 1e9}},
        "attention": {},
    }


@pytest.fixture
def four_systems():
    names = {throughput.COURSE: 10.0, throughput.NOTEBOOK: 8.0, "ours, float32": 30.0}
    return rates_of(**names, **{"TRL as it comes, float32": 12.0, "TRL, tuned, float32": 15.0})


def test_rates_are_compared_with_trls_best(four_systems):
    texts = throughput.render(four_systems)
    [row] = [line for line in texts["first"].splitlines() if line.startswith("| ours")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == ["ours, float32", "30.0 (30.0 to 30.0)", "3.00", "3.75", "2.00", "75 %"]


def test_prose_gets_the_ratios(four_systems):
    texts = throughput.render(four_systems)
    assert texts["known_share"] == "75"
    assert texts["known_to_course"] == "3.00"
    assert texts["known_to_trl"] == "2.00"
    assert texts["agreement"].startswith("Ours and TRL 1.2 agree")


# Sampling


def test_sampling_measures_every_system(monkeypatch, tiny, tokenizer):
    monkeypatch.setattr(sampling, "find_or_train", lambda config: "runs/default/dpo.pt")
    monkeypatch.setattr(sampling, "load_model", lambda path: (tiny, tokenizer))
    values = as_json(sampling.measure(rounds=1, most=2))
    assert list(values["rates"]) == [
        "the course's generate",
        "ours",
        "ours, right answers as drafts",
    ]
    assert len(sampling.render(values)["table"].splitlines()) == 2 + 3


def test_sampling_counts_questions_and_answers(monkeypatch, tiny, tokenizer):
    questions = [question for form in FORMS for question in domain(form)]
    asked = [q for seed in (0, 1) for q in random.Random(seed).sample(questions, 3)]
    systems = dict.fromkeys(("ours", sampling.SLOWEST), lambda texts, drafts: [" 12345."] * 3)
    monkeypatch.setattr(sampling, "find_or_train", lambda config: "runs/default/dpo.pt")
    monkeypatch.setattr(sampling, "load_model", lambda path: (tiny, tokenizer))
    monkeypatch.setattr(sampling, "systems_of", lambda model, tokenizer: systems)
    limit = sampling.measure(rounds=2, most=3)["limit"]
    assert limit["characters"] == sum(len(q.text) + 7 for q in asked) / 6


def test_sampling_refuses_different_answers(monkeypatch, tiny, tokenizer):
    monkeypatch.setattr(sampling, "find_or_train", lambda config: "runs/default/dpo.pt")
    monkeypatch.setattr(sampling, "load_model", lambda path: (tiny, tokenizer))
    systems = {name: lambda texts, drafts, name=name: [name] for name in ("ours", sampling.SLOWEST)}
    monkeypatch.setattr(sampling, "systems_of", lambda model, tokenizer: systems)
    with pytest.raises(AssertionError, match="answer differently"):
        sampling.measure(rounds=1, most=1)


def test_sampling_limit_counts_every_character_once(monkeypatch, tiny):
    monkeypatch.setattr(sampling, "matrix_peak", lambda precision: 1e9)
    flop = 2 * 30 * (2 * 12 * 16 * 16 + 74 * 16)
    assert sampling.limit(tiny, 30.0)["questions"] == pytest.approx(1e9 / flop)


# Scaling and memory


def test_exponent_is_that_of_the_largest_sizes():
    assert scaling.exponent([1, 10, 100], [7.0, 2.0, 200.0]) == "2.0"


def test_no_exponent_where_nothing_grew():
    assert scaling.exponent([1, 10], [0.0, 5.0]) == "-"


def test_first_steps_score_only_the_pairs_they_use(monkeypatch, base_file, pairs_file):
    scored = []

    def compute(reference, pairs):
        scored.extend(pairs)
        return compute_reference_logps(reference, pairs)

    monkeypatch.setattr(scaling, "STEPS", 1)
    monkeypatch.setattr(scaling, "compute_reference_logps", compute)
    monkeypatch.setattr(scaling, "Config", partial(Config, base=str(base_file)))
    cost = scaling.first_steps(str(pairs_file))
    assert len(scored) == 4
    assert min(cost.values()) > 0


def cost(peak, reading):
    return {"file": 2**20, "reading": reading, "tokenizing": 1, "training": 5, "peak": peak * 2**20}


def test_pairs_table_has_exponents_and_what_is_beyond():
    values = {"64": cost(500, 0.1), "1000": cost(600, 1.0), "10000": cost(1500, 10.0)}
    lines = scaling.pairs_table(as_json(values)).splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert rows[-2] == ["10,000", "1.0", "10.00", "1.00", "5.00", "1,500", "1,000"]
    assert rows[-1] == ["exponent at the end", "0.0", "1.0", "0.0", "0.0", "0.4", "1.0"]


def test_what_is_refused_is_said():
    values = {"64": cost(500, 0.1), "1000": cost(600, 1.0) | {"refused": "too large"}}
    assert scaling.refusals(values) == "1,000 pairs are refused: too large."


def test_too_large_a_file_is_measured_with_the_limit_lifted(monkeypatch, base_file, pairs_file):
    monkeypatch.setattr(scaling, "STEPS", 1)
    monkeypatch.setattr(scaling, "Config", partial(Config, base=str(base_file)))
    monkeypatch.setattr(scaling, "pairs_file", lambda *_: str(pairs_file))
    monkeypatch.setattr(scaling, "in_new_process", lambda work, *arguments: work(*arguments))
    monkeypatch.setattr(scaling.text_reader, "LARGEST_FILE", 100)
    [result] = scaling.measure_pairs((64,)).values()
    assert "and too large" in result["refused"]
    assert result["reading"] > 0


def test_operations_fall_into_their_groups():
    groups = {
        "aten::mm": "products of the weights",
        "aten::bmm": "attention",
        "aten::_scaled_dot_product_flash_attention_for_cpu_backward": "attention",
        "aten::gelu_backward": "GELU",
        "aten::add_": "copies, and sums of the residual stream",
        "aten::embedding": parts.REST,
        "aten::native_layer_norm_backward": "layer norm",
        "aten::addcmul": parts.REST,
    }
    assert {name: parts.group_of(name) for name in groups} == groups


def test_parts_of_a_step_add_up_to_it():
    events = [
        SimpleNamespace(key="aten::mm", self_cpu_time_total=2e6),  # microseconds
        SimpleNamespace(key="aten::gelu", self_cpu_time_total=5e5),
        SimpleNamespace(key="aten::embedding", self_cpu_time_total=1e5),
    ]
    seconds = parts.seconds_by_group(events, total=3.0)
    assert seconds["products of the weights"] == 2.0
    assert seconds[parts.REST] == pytest.approx(0.5)  # what no operation took is in it
    assert sum(seconds.values()) == pytest.approx(3.0)


def test_shapes_are_measured_in_turns(monkeypatch):
    monkeypatch.setattr(shapes, "WIDTHS", (12, 24))
    monkeypatch.setattr(shapes, "LETTERS", (5, 9))
    monkeypatch.setattr(shapes, "USUAL_WIDTH", 12)
    values = shapes.measure()
    assert [result["width"] for result in values["widths"]] == [12, 24]
    # the seven characters of 17+19=?, a space that both share, and 2 x 4 or 2 x 8 letters
    assert [result["size"] for result in values["lengths"]] == [7 + 1 + 8, 7 + 1 + 16]
    assert [len(result["seconds"]) for result in values["lengths"]] == [shapes.ROUNDS] * 2


def test_growth_table_has_an_exponent():
    made_up = [{"width": w, "size": w * w, "seconds": [w / 100, w / 50]} for w in (10, 20)]
    lines = shapes.growth_table(made_up, "width", "parameters").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert rows[2] == ["10", "100", "0.15 (0.10 to 0.20)"]
    assert rows[-1] == ["exponent at the end", "", "0.5"]


def test_peak_does_not_count_the_parents():
    ballast = bytearray(2**29)
    for start in range(0, len(ballast), 4096):
        ballast[start] = 1
    assert memory.in_new_process(memory.own_peak) < 2**29


def test_peak_of_a_run_is_that_of_its_settings(monkeypatch, tmp_path, base_file, pairs_file):
    monkeypatch.chdir(tmp_path)
    before = memory.own_peak()
    files = [f"--base={base_file}", f"--pairs={pairs_file}"]
    assert memory.peak_of_run([*files, "--steps=1", "--eval_every=0"]) >= before
    assert (tmp_path / "runs/memory/dpo.pt").exists()
