"""Files of strangers (S1 to S30 of tests/README.md): refused with one sentence, or read exactly.

Every file is opened in a child process with a memory limit and an alarm.
"""

import ast
import collections
import json
import os
import pathlib
import pickle
import random
import re

import pytest
import torch
from children import in_child, outcome_of, start_child
from conftest import TINY, course_file
from hostile_files import (
    BAD_FILES,
    BAD_PAIRS,
    BAD_VOCABULARIES,
    EVIL,
    REFUSED,
    SENTINEL,
    archive,
    good,
    good_with,
    members,
    pickled,
    saved,
    zipped,
)

from dpo.data.pair import PairsError
from dpo.data.pair_file import load_pairs
from model import GPT, GPTConfig
from sft.checkpoint.archive import CheckpointError
from sft.checkpoint.weights import identify, load_checkpoint, save_checkpoint
from sft.tokenizer import ALPHABET, LOOK_ALIKES, VOCABULARY_PATH, VocabularyError, load_tokenizer

ROOT = pathlib.Path(__file__).parents[2]
FLAT = 60 * 2**20  # bytes that a refusal may cost at most
MUTANTS = 2000
OF_THE_COURSE = "7fa3d597e629bdf45ebf0136e310e4bec05682f3c024a78fe402903fbb3bc050"


# What a child does, and what is asserted of it


def load(path):
    """The names of what was loaded."""
    os.chdir(pathlib.Path(path).parent)
    return sorted(load_checkpoint(path).state_dict)


def load_although_told_to_trust(path):
    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
    return load(path)


def load_vocabulary(path):
    os.chdir(pathlib.Path(path).parent)
    return load_tokenizer(path).stoi


def read_pairs(path):
    pairs = load_pairs(path, load_tokenizer()).pairs
    return [[pair.prompt, pair.chosen, pair.rejected] for pair in pairs]


def run_the_payload(data, folder):
    os.chdir(folder)
    pickle.loads(data)


def assert_refused(outcome, error, phrase, path):
    assert outcome.exit_code == 0, "ended by a signal"
    assert outcome.error == error, outcome
    assert re.search(phrase, outcome.message), outcome.message
    assert "\n" not in outcome.message
    assert len(outcome.message) < 600
    assert outcome.grown < FLAT, f"{outcome.grown / 2**20:.0f} MiB"
    assert os.listdir(path.parent) == [path.name], "something of the file was executed"


def assert_loads(path):
    outcome = in_child(load, str(path))
    assert not outcome.raised, outcome
    assert outcome.value == sorted(good()["model"])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "gpt.pt"


# Checkpoints that are refused


@pytest.mark.parametrize("name", ["system", "eval", "exec"])
def test_payloads_would_work(tmp_path, name):
    """Else their absence would prove nothing."""
    in_child(run_the_payload, pickled(EVIL[name]), tmp_path)
    assert os.listdir(tmp_path) == [SENTINEL]


@pytest.mark.filterwarnings(
    "ignore:Duplicate name", "ignore:Sparse CSR", "ignore:torch.quantize_per_tensor"
)
@pytest.mark.parametrize("name", BAD_FILES)
def test_checkpoint_is_refused(path, name):
    make, phrase = BAD_FILES[name]
    path.write_bytes(make())
    assert_refused(in_child(load, str(path), seconds=20), "CheckpointError", phrase, path)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5], ids="S24 protocol {}".format)
def test_no_variable_switches_the_protection_off(path, protocol):
    path.write_bytes(archive(pickled({"model": {}, "x": EVIL["eval"]}, protocol)))
    outcome = in_child(load_although_told_to_trust, str(path))
    assert_refused(outcome, "CheckpointError", REFUSED, path)


# Places that are no file

PLACES = {
    "S25 nothing": (lambda path: None, "no such file; .*sft[.]t"),
    "S25 a folder": (lambda path: path.mkdir(), "is a folder; "),
    "S25 an endless link": (
        lambda path: path.symlink_to(path.name),
        "cannot be opened .*symbolic links",
    ),
    "S25 a pipe": (os.mkfifo, "is no regular file; "),
}


@pytest.mark.parametrize(
    ("loader", "error"),
    [
        pytest.param(load_checkpoint, "CheckpointError", id="checkpoint"),
        pytest.param(load_tokenizer, "VocabularyError", id="vocabulary"),
    ],
)
@pytest.mark.parametrize("name", PLACES)
def test_place_that_is_no_file_is_named(path, name, loader, error):
    make, phrase = PLACES[name]
    make(path)
    outcome = in_child(loader, path, seconds=20)
    assert outcome.exit_code == 0
    assert outcome.error == error, outcome
    assert re.search(phrase, outcome.message), outcome.message


@pytest.mark.parametrize(
    ("loader", "error"),
    [
        pytest.param(load_checkpoint, CheckpointError, id="S25 a checkpoint"),
        pytest.param(load_tokenizer, VocabularyError, id="S25 a vocabulary"),
        pytest.param(read_pairs, PairsError, id="S25 pairs"),
    ],
)
def test_file_that_may_not_be_read_is_named(tmp_path, monkeypatch, loader, error):
    """Root may read all: the system's refusal is played."""
    (tmp_path / "file").write_bytes(b"x")
    real_open = pathlib.Path.open

    def refuse(path, *words, **settings):
        if path == tmp_path / "file":
            raise PermissionError(13, "Permission denied")
        return real_open(path, *words, **settings)

    monkeypatch.setattr(pathlib.Path, "open", refuse)
    message = "file may not be read by this user; change its permissions"
    with pytest.raises(error, match=message):
        loader(tmp_path / "file")


# Checkpoints that are accepted (more of them in tests/sft/test_checkpoint.py)


@pytest.mark.parametrize(
    ("prefix", "key"),
    [
        pytest.param("_orig_mod.", "model", id="S22 compiled"),
        pytest.param("module.", "model_state_dict", id="S22 of several processes"),
    ],
)
def test_course_layout_is_accepted_in_a_child(tiny, path, prefix, key):
    course_file(path, tiny, prefix, key)
    assert_loads(path)


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float64], ids="S22 {}".format
)
def test_other_precisions_are_accepted(path, dtype):
    weights = {name: value.to(dtype) for name, value in good()["model"].items()}
    path.write_bytes(good_with(model=weights))
    loaded = load_checkpoint(path).state_dict
    assert all(torch.equal(loaded[name], value.float()) for name, value in weights.items())


def test_parameters_are_accepted(path):
    """S22: tensors that ask for gradients."""
    parameters = {name: torch.nn.Parameter(value) for name, value in good()["model"].items()}
    path.write_bytes(good_with(model=parameters, model_args=TINY | {"dropout": 0.2}))
    assert_loads(path)


def test_our_own_file_is_accepted_bit_by_bit(tiny, path):
    """S29"""
    extras = {"config": {"beta": 0.1, "out": "dpo"}, "note": "a", "rates": [1e-3, 2], "none": None}
    save_checkpoint(path, tiny, **extras)
    checkpoint = load_checkpoint(path)
    assert checkpoint.extras == extras
    for name, value in tiny.state_dict().items():
        assert torch.equal(checkpoint.state_dict[name], value), name


def test_shipped_base_is_accepted_bit_by_bit():
    """S29"""
    shipped = load_checkpoint(ROOT / "sft/gpt.pt")
    stored = torch.load(ROOT / "sft/gpt.pt", weights_only=True)["model"]
    for name, value in stored.items():
        assert torch.equal(shipped.state_dict[name], value.float()), name


def test_what_could_not_be_read_again_is_not_written(tiny, path):
    with pytest.raises(CheckpointError, match=r"asks for 'torch.torch_version.TorchVersion'"):
        save_checkpoint(path, tiny, version=torch.__version__)
    assert not os.listdir(path.parent)


def test_shipped_base_is_identified():
    name = identify(ROOT / "sft/gpt.pt")
    assert name.endswith("17.7 MB, SHA-256 10e1319b..., the base of this repository")


def test_unknown_file_is_called_unknown(path):
    path.write_bytes(b"x" * 10**5)
    message = "gpt.pt: 0.1 MB, SHA-256 d69e6898..., not shipped with this repository"
    assert identify(path).endswith(message)


def test_course_base_is_identified(path, monkeypatch):
    path.write_bytes(b"x")
    monkeypatch.setattr("sft.checkpoint.weights.sha256", lambda _: OF_THE_COURSE)  # not at hand
    assert identify(path).endswith("SHA-256 7fa3d597..., the course's own base")


# Vocabularies and pairs


@pytest.mark.parametrize("name", BAD_VOCABULARIES)
def test_vocabulary_is_refused(path, name):
    data, phrase = BAD_VOCABULARIES[name]
    path.write_bytes(data)
    outcome = in_child(load_vocabulary, str(path), seconds=20)
    assert_refused(outcome, "VocabularyError", phrase, path)


@pytest.mark.parametrize("name", BAD_PAIRS, ids="S28 {}".format)
def test_pairs_are_refused(path, name):
    text, phrase = BAD_PAIRS[name]
    if text is None:
        with path.open("wb") as file:
            file.truncate(2**30)
    else:
        path.write_text(text, encoding="utf-8")
    outcome = in_child(read_pairs, str(path), seconds=20)
    assert outcome.exit_code == 0
    assert outcome.error == "PairsError", outcome
    assert re.search(phrase, outcome.message, re.DOTALL), outcome.message[:2000]
    assert "\x1b" not in outcome.message
    assert len(outcome.message) < 10_000
    assert outcome.grown < FLAT


# Damaged copies of good files (S30)


def mutants(data, count, seed):
    """So many damaged copies: bits, bytes, cuts, insertions, doublings, swaps."""
    rng = random.Random(seed)
    for _ in range(count):
        new, at = bytearray(data), rng.randrange(len(data))
        length = rng.choice((1, 1, 2, 4, 16, 200))
        match rng.randrange(7):
            case 0:
                new[at] ^= 1 << rng.randrange(8)
            case 1:
                new[at : at + length] = rng.randbytes(length)
            case 2:
                del new[at : at + length]
            case 3:
                new[at:at] = rng.randbytes(length)
            case 4:
                new[at:at] = new[at : at + length]
            case 5:
                del new[at:]
            case 6:
                other = rng.randrange(len(data))
                new[at], new[other] = new[other], new[at]
        yield bytes(new)


def count_accepted(path, copies, is_read, error):
    """How many are refused with that error, and accepted, which `is_read` asserts to be right."""
    counts = collections.Counter()
    for copy in copies:
        path.write_bytes(copy)
        try:
            is_read(copy)
            counts["accepted"] += 1
        except error:
            counts["refused"] += 1
    return dict(counts)


def small_checkpoint():
    torch.manual_seed(0)
    sizes = {"block_size": 8, "vocab_size": 12, "n_layer": 1, "n_head": 2, "n_embd": 4}
    args = sizes | {"dropout": 0.0, "bias": True}
    weights = GPT(GPTConfig(**args)).state_dict()
    return saved({"model": weights, "model_args": args, "seed": 3, "config": {"a": [1, 0.5]}})


def same(one, other):
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        if not isinstance(other, dict) or one.keys() != other.keys():
            return False
        return all(same(one[key], other[key]) for key in one)
    return one == other


def count_mutant_checkpoints(path):
    data = small_checkpoint()
    path.write_bytes(data)
    good_one = vars(load_checkpoint(path))

    def is_read(_):
        assert same(vars(load_checkpoint(path)), good_one), "other content was accepted"

    return count_accepted(path, mutants(data, MUTANTS, seed=30), is_read, CheckpointError)


def count_mutant_pickles(path):
    """Their checksums are right, so that any content may come of them."""
    parts = members(small_checkpoint())
    copies = (
        zipped({**parts, "archive/data.pkl": mutant}.items())
        for mutant in mutants(parts["archive/data.pkl"], MUTANTS, seed=30)
    )
    return count_accepted(path, copies, lambda _: load_checkpoint(path), CheckpointError)


def count_mutant_vocabularies(path):
    def is_read(_):
        assert "".join(load_tokenizer(path).stoi) == ALPHABET, "another alphabet was accepted"

    copies = mutants(VOCABULARY_PATH.read_bytes(), MUTANTS, seed=31)
    return count_accepted(path, copies, is_read, VocabularyError)


def as_json_says(text):
    """Prompts and answers by the standard library's reader alone."""
    if text.lstrip().startswith("["):
        rows = json.loads(text)
    else:
        rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    for old, new in LOOK_ALIKES.items():
        rows = [{key: value.replace(old, new) for key, value in row.items()} for row in rows]
    found = []
    for row in rows:
        if "prompt" in row:
            found.append([row["prompt"], row["chosen"], row["rejected"]])
        else:
            cut = row["positive"].index("?") + 1
            found.append([row["positive"][:cut], row["positive"][cut:], row["negative"][cut:]])
    return found


def count_mutant_pairs(path):
    def is_read(copy):
        assert read_pairs(path) == as_json_says(copy.decode("utf-8-sig")), "not what the file says"

    lines = (ROOT / "dpo/pos_neg_pairs.json").read_text(encoding="utf-8").splitlines()[1:9]
    data = ("[\n" + "\n".join(lines).rstrip(",") + "\n]\n").encode()
    return count_accepted(path, mutants(data, MUTANTS, seed=32), is_read, PairsError)


COUNTS = {  # who counts, and how many are at least refused and accepted
    "S30 checkpoints": (count_mutant_checkpoints, 1500, 1),
    "S30 checkpoints with right checksums": (count_mutant_pickles, 1000, 1),
    "S30 vocabularies": (count_mutant_vocabularies, 1500, 0),
    "S30 pairs": (count_mutant_pairs, 800, 100),
}


@pytest.fixture(scope="module")
def counters(tmp_path_factory):
    """The children that try all damaged copies, side by side."""
    folder = tmp_path_factory.mktemp("mutants")
    return {
        name: start_child(count, folder / name, seconds=240) for name, (count, *_) in COUNTS.items()
    }


@pytest.mark.parametrize("name", COUNTS)
def test_damaged_copies_are_read_exactly_or_refused(counters, name):
    outcome, (_, refused, accepted) = outcome_of(counters[name]), COUNTS[name]
    assert outcome.exit_code == 0, outcome
    assert not outcome.raised, outcome
    assert sum(outcome.value.values()) == MUTANTS
    assert outcome.value.get("refused", 0) >= refused, outcome.value
    assert outcome.value.get("accepted", 0) >= accepted, outcome.value
    assert outcome.grown < 2 * FLAT


# The code itself


def source_of_cells(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


@pytest.fixture(scope="module")
def code():
    """The source of the whole library and of the notebooks' cells, by path."""
    paths = [ROOT / "model.py", ROOT / "configurator.py"]
    paths += [path for folder in ("sft", "dpo", "bench") for path in ROOT.glob(f"{folder}/**/*.py")]
    code = {path: path.read_text(encoding="utf-8") for path in paths}
    code |= {path: source_of_cells(path) for path in ROOT.glob("dpo/*.ipynb")}
    return {path.relative_to(ROOT).as_posix(): text for path, text in code.items()}


DOORS = re.compile(
    r"pickle\.loads?\(|from pickle|weights_only\s*=\s*False|add_safe_globals|shell=True|os\.system"
    r"|(?<!literal_)\beval\(|\bexec\("
)


def test_code_opens_no_other_door(code):
    # A model's eval, and the notebook's own call of git with an address that its reader typed.
    known = r"\.eval\(\)|os\.system\(f.{1,2}git clone"
    texts = {place: re.sub(known, "", text) for place, text in code.items()}
    assert not {place: DOORS.findall(text) for place, text in texts.items() if DOORS.search(text)}
    assert DOORS.search("eval(x)")
    assert len(code) > 50


def test_one_place_loads_with_torch(code):
    """And bench/loading.py, which measures it."""
    loads = sorted(place for place, text in code.items() if "torch.load(" in text)
    assert loads == ["bench/loading.py", "sft/checkpoint/archive.py"]
    nodes = ast.walk(ast.parse(code["sft/checkpoint/archive.py"]))
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    [call] = [node for node in calls if ast.unparse(node.func) == "torch.load"]
    settings = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    assert settings == {"map_location": "'cpu'", "weights_only": "True", "mmap": "False"}
