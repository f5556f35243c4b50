"""Files that a stranger may hand us (S1 to S30 of the README's table): refused with one sentence, or read exactly.

Every file is opened in a child process with a memory limit and an alarm.
"""

import argparse
import ast
import collections
import io
import json
import os
import pathlib
import pickle
import random
import re
import struct
import zipfile

import numpy as np
import pytest
import torch
from children import in_child
from conftest import TINY
from test_checkpoint import course_file

from dpo.pairs import PairsError, load_pairs
from model import GPT, GPTConfig
from sft.checkpoint import CheckpointError, identify, load_checkpoint, save_checkpoint
from sft.tokenizer import ALPHABET, LOOK_ALIKES, VOCABULARY_PATH, VocabularyError, load_tokenizer

ROOT = pathlib.Path(__file__).parents[1]
FLAT = 60 * 2**20  # bytes that a refusal may cost at most
SENTINEL = "stolen"
MUTANTS = 2000


# What a file is made of ------------------------------------------------------------------------------------------


class Call:
    """Pickles as the call of a function."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


class Stored:
    """Pickles as a reference to a data record."""

    def __init__(self, kind, record, items):
        self.reference = ("storage", kind, record, "cpu", items)


class Pickler(pickle.Pickler):
    def persistent_id(self, obj):
        return obj.reference if isinstance(obj, Stored) else None


def pickled(contents, protocol=2):
    buffer = io.BytesIO()
    Pickler(buffer, protocol).dump(contents)
    return buffer.getvalue()


def archive(data_pkl, records=None, compression=zipfile.ZIP_STORED):
    """The bytes of an archive as torch.save lays it out, with right checksums."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        parts = {"data.pkl": data_pkl, "byteorder": b"little", "version": b"3\n"}
        for name, data in {**parts, **{f"data/{key}": data for key, data in (records or {}).items()}}.items():
            file.writestr(f"archive/{name}", data)
    return buffer.getvalue()


def tensor(record="0", items=4, offset=0, size=(4,), stride=(1,), kind=torch.FloatStorage, grad=False):
    hooks = collections.OrderedDict()
    return Call(torch._utils._rebuild_tensor_v2, Stored(kind, record, items), offset, size, stride, grad, hooks)


def with_tensor(item, data=b"\0" * 16):
    """A file whose pickle holds this tensor."""
    return archive(pickled({"model": {"transformer.wpe.weight": item}, "model_args": TINY}), {"0": data})


def saved(contents, **settings):
    buffer = io.BytesIO()
    torch.save(contents, buffer, **settings)
    return buffer.getvalue()


def good():
    torch.manual_seed(0)
    return {"model": GPT(GPTConfig(**TINY)).state_dict(), "model_args": dict(TINY), "seed": 3}


def good_with(**changes):
    return saved(good() | changes)


def good_model_with(**tensors):
    return good_with(model=good()["model"] | {name.replace("__", "."): value for name, value in tensors.items()})


def members(data):
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        return {name: file.read(name) for name in file.namelist()}


def zipped(parts, compression=zipfile.ZIP_STORED):
    """A zip file of (name, data) in this order, names as they are."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, data in parts:
            file.writestr(zipfile.ZipInfo(name), data, compression)
    return buffer.getvalue()


def changed(**parts):
    """A good file with these parts of the archive replaced, or left out where None; right checksums."""
    new = members(saved(good())) | {f"archive/{name.replace('__', '/')}": data for name, data in parts.items()}
    return zipped((name, data) for name, data in new.items() if data is not None)


def flipped(data, at):
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def of_opcodes(*opcodes):
    return archive(b"\x80\x02" + b"".join(opcodes) + b".")


def doubling_tuple(levels):
    """A dict whose key is a tuple of tuples of tuples ..., small to write down and endless to hash."""
    steps = b"".join(b"h%ch%c\x86q%c" % (i, i, i + 1) for i in range(levels))
    return of_opcodes(b"})q\x00", steps, b"K\x01s")


def lying_directory():
    """A zip whose table of contents says that data/0 has 3 GB."""
    data = bytearray(archive(pickled({"model": {}}), {"0": b"\0" * 16}))
    at = data.rindex(b"archive/data/0") - 46
    data[at + 20 : at + 28] = struct.pack("<II", 3 * 10**9, 3 * 10**9)
    return bytes(data)


def with_a_large_directory():
    data = archive(pickled({}))
    return data[:-10] + struct.pack("<I", 2**28) + data[-6:]


EVIL = {
    "system": Call(os.system, f"touch {SENTINEL}"),
    "eval": Call(eval, f"open('{SENTINEL}', 'w')"),
    "exec": Call(exec, f"open('{SENTINEL}', 'w')"),
    "getattr": Call(getattr, "text", "upper"),
    "import": Call(__import__, "antigravity"),
}
BAD_NAME = "unexpected entry|some twice"
REFUSED = r"asks for '|pickle instruction|pickle of protocol"

# name -> (bytes of the file, what the message must say)
BAD_FILES = {
    **{
        f"S1 S2 {name}, protocol {protocol}": (
            lambda evil=evil, protocol=protocol: archive(pickled({"model": {}, "x": evil}, protocol)),
            REFUSED if protocol != 2 else "asks for '.*nothing was run",
        )
        for name, evil in EVIL.items()
        for protocol in (0, 2, 4, 5)
    },
    "S3 bare pickle": (lambda: pickle.dumps(EVIL["system"]), "not a PyTorch .zip. checkpoint but a bare pickle"),
    "S4 old format, evil": (
        lambda: saved({"model": EVIL["system"]}, _use_new_zipfile_serialization=False),
        "not a PyTorch .zip. checkpoint.*save it again",
    ),
    "S4 old format": (
        lambda: saved(good(), _use_new_zipfile_serialization=False),
        "not a PyTorch .zip. checkpoint.*save it again",
    ),
    "S5 STACK_GLOBAL": (lambda: of_opcodes(b"X\2\0\0\0os", b"X\6\0\0\0system", b"\x93"), "instruction STACK_GLOBAL"),
    "S5 INST": (lambda: of_opcodes(b"(ios\nsystem\n"), "instruction INST"),
    "S5 OBJ": (lambda: of_opcodes(b"(ccollections\nOrderedDict\no"), "instruction OBJ"),
    "S5 EXT1": (lambda: of_opcodes(b"\x82\1"), "instruction EXT1"),
    "S5 NEWOBJ": (lambda: of_opcodes(b"ccollections\nOrderedDict\n)\x81"), "instruction NEWOBJ"),
    "S5 BUILD on a tensor": (
        lambda: archive(pickled(tensor())[:-1] + b"}b.", {"0": b"\0" * 16}),
        "sets the inside of an object",
    ),
    "S6 payload, then garbage": (lambda: archive(pickled(EVIL["system"]) + b"garbage"), "asks for 'posix.system'"),
    "S7 a second pickle": (lambda: archive(pickled({"model": {}}) + pickled({})), "does not end where it should"),
    "S8 TorchScript": (
        lambda: zipped([("net/code/__torch__.py", b"x"), ("net/data.pkl", pickled({}))]),
        "unexpected entry 'net/code/__torch__.py'",
    ),
    "S9 two data.pkl": (lambda: zipped([("archive/data.pkl", pickled({}))] * 2), "some twice"),
    "S9 two roots": (lambda: zipped([("a/data.pkl", pickled({})), ("b/data.pkl", pickled({}))]), "some twice"),
    **{
        f"S9 entry {name}": (lambda name=name: zipped([("archive/data.pkl", pickled({})), (name, b"")]), BAD_NAME)
        for name in ("../data/0", "/data/0", "archive\\data\\0", "archive/../data/0", "archive/data/x")
    },
    "S10 bomb": (
        lambda: archive(pickled({"model": tensor(items=25 * 10**6)}), {"0": bytes(10**8)}, zipfile.ZIP_DEFLATED),
        "is compressed",
    ),
    "S10 lying directory": (lying_directory, "claims other sizes than it has"),
    "S10 large directory": (with_a_large_directory, "table of contents"),
    "S11 bytearray": (lambda: archive(pickled({"x": Call(bytearray, 2**31)})), "asks for '__builtin__.bytearray'"),
    "S11 FloatTensor": (lambda: archive(pickled({"x": Call(torch.FloatTensor, 2**33)})), "asks for 'torch.Float"),
    "S12 deep list": (lambda: of_opcodes(b"]" * 200_000 + b"a" * 199_999), "more than 200000 pickle instructions"),
    "S12 endless hash": (lambda: doubling_tuple(60), "keys that are no short texts"),
    "S12 record named by an endless tuple": (
        lambda: of_opcodes(b")q\x00" + b"".join(b"h%ch%c\x86q%c" % (i, i, i + 1) for i in range(60)), b"q\x7f",
                           b"(X\7\0\0\0storagectorch\nFloatStorage\nh\x7fX\3\0\0\0cpuK\4tQ"),
        "has not the stated size",
    ),
    "S12 memo bomb": (
        lambda: of_opcodes(b"]q\x00" + b"".join(b"]q%c(%se" % (i + 1, b"h%c" % i * 9) for i in range(60))),
        "does not end|no dict",
    ),
    "S12 endless product": (
        lambda: with_tensor(tensor(size=(2**62,) * 60_000, stride=(1,) * 60_000)), "reaches beyond its data"
    ),
    "S12 long number": (lambda: of_opcodes(b"}X\1\0\0\0a\x8a\xff" + b"\x7f" * 255 + b"s"), "more than 64 bits"),
    "S12 keys that collide": (
        lambda: archive(pickled({k * (2**61 - 1): 0 for k in range(1, 4)})), "no short texts or small numbers"
    ),
    "S12 prefix without end": (
        lambda: good_with(model=good()["model"] | {"module." * 10**6: torch.ones(1)}), "no short texts"
    ),
    "S12 names without tensors": (
        lambda: good_with(model=dict.fromkeys(map(str, range(50_000))), model_args=TINY | {"n_layer": 10**5}),
        "is missing",
    ),
    "S5 BUILD on a dict": (
        lambda: of_opcodes(b"ccollections\nOrderedDict\n)R}X\3\0\0\0getK\1sb"), "sets the inside of an object"
    ),
    "S17 one record, two types": (
        lambda: archive(
            pickled({"a": tensor(), "b": tensor(items=8, size=(8,), kind=torch.HalfStorage)}), {"0": b"\0" * 16}
        ),
        "has not the stated size",
    ),
    "S13 long text": (lambda: of_opcodes(b"X" + struct.pack("<I", 2**31) + b"abc"), "download it again"),
    "S13 far memo": (lambda: of_opcodes(b"}r" + struct.pack("<I", 2**31 - 1)), "no `model`"),
    "S14 empty": (lambda: b"", "is empty"),
    "S14 one byte": (lambda: saved(good())[:1], "not a PyTorch"),
    "S14 50 bytes": (lambda: saved(good())[:50], "cut off; download it again"),
    "S14 half": (lambda: saved(good())[: len(saved(good())) // 2], "cut off; download it again"),
    "S14 99.9 %": (lambda: saved(good())[: int(0.999 * len(saved(good())))], "cut off; download it again"),
    "S14 last 10 bytes missing": (lambda: saved(good())[:-10], "cut off; download it again"),
    "S14 comment at the end": (lambda: saved(good()) + b"\0" * 30, "cut off; download it again"),
    "S15 bit in the data": (lambda: flipped(saved(good()), len(saved(good())) // 2), "damaged .checksum of .arch"),
    "S15 bit in data.pkl": (lambda: flipped(saved(good()), 900), "damaged .*download it again"),
    "S15 bit in the directory": (
        lambda: flipped(saved(good()), saved(good()).rindex(b"archive/data/3")),
        "damaged|unexpected entry|some twice",
    ),
    "S16 record missing": (lambda: changed(data__3=None), "has not the stated size.; download it again"),
    "S16 record short": (lambda: changed(data__3=b"\0" * 10), "has not the stated size.; download it again"),
    "S16 record long": (lambda: changed(data__3=b"\0" * 10**6), "has not the stated size.; download it again"),
    "S17 size": (lambda: with_tensor(tensor(size=(5,))), "reaches beyond its data"),
    "S17 stride": (lambda: with_tensor(tensor(size=(2, 2), stride=(4, 1))), "reaches beyond its data"),
    "S17 offset": (lambda: with_tensor(tensor(offset=1)), "reaches beyond its data"),
    "S17 negative": (lambda: with_tensor(tensor(size=(2,), stride=(-1,), offset=3)), "reaches beyond its data"),
    "S17 stride 0": (lambda: with_tensor(tensor(size=(10**12,), stride=(0,))), "reaches beyond its data"),
    "S17 ranks differ": (lambda: with_tensor(tensor(size=(4, 1), stride=(1,))), "reaches beyond its data"),
    "S17 text for a size": (lambda: with_tensor(tensor(size="4")), "reaches beyond its data"),
    "S17 the same data again and again": (
        lambda: archive(pickled({f"x{i}": tensor() for i in range(3)}), {"0": b"\0" * 16}),
        "larger than all of its data",
    ),
    "S18 sparse": (lambda: good_model_with(lm_head__weight=torch.eye(3).to_sparse()), "asks for '"),
    "S18 sparse rows": (lambda: good_model_with(lm_head__weight=torch.eye(3).to_sparse_csr()), "asks for '"),
    "S18 meta": (lambda: good_model_with(lm_head__weight=torch.empty(74, 16, device="meta")), "asks for '"),
    "S18 quantised": (
        lambda: good_model_with(lm_head__weight=torch.quantize_per_tensor(torch.ones(74, 16), 0.1, 0, torch.qint8)),
        "asks for '",
    ),
    "S18 complex": (lambda: good_model_with(lm_head__weight=torch.ones(74, 16) * 1j), "asks for 'torch.ComplexFloat"),
    "S18 int64": (lambda: good_model_with(lm_head__weight=torch.ones(74, 16).long()), "not a plain tensor"),
    "S18 bool": (lambda: good_model_with(lm_head__weight=torch.ones(74, 16).bool()), "not a plain tensor"),
    "S18 nested": (lambda: good_model_with(lm_head__weight={"weight": torch.ones(74, 16)}), "not a plain tensor"),
    "S19 NaN": (
        lambda: good_model_with(transformer__ln_f__weight=torch.full((16,), float("nan"))),
        "transformer.ln_f.weight holds NaN",
    ),
    "S19 infinite": (
        lambda: good_model_with(transformer__ln_f__weight=torch.full((16,), float("inf"))),
        "transformer.ln_f.weight holds NaN or inf",
    ),
    "S19 too large for float32": (
        lambda: good_model_with(transformer__ln_f__weight=torch.full((16,), 1e300, dtype=torch.float64)),
        "transformer.ln_f.weight holds NaN or inf",
    ),
    "S20 none": (lambda: saved({"model": good()["model"]}), "no `model` .* with `model_args`"),
    "S20 missing": (lambda: good_with(model_args={"n_layer": 2}), "model_args must have exactly"),
    "S20 unknown key": (lambda: good_with(model_args=TINY | {"n_experts": 8}), "must have exactly.*n_experts"),
    **{
        f"S20 {key} {value!r}": (lambda key=key, value=value: good_with(model_args=TINY | {key: value}), phrase)
        for key, value, phrase in (
            ("n_layer", "2", "n_layer is '2'"),
            ("n_layer", [[[]]], "n_layer is a list"),
            ("n_embd", True, "n_embd is True"),
            ("n_embd", 0, "n_embd is 0"),
            ("n_head", -2, "n_head is -2"),
            ("n_embd", 10**9, "n_embd is 1000000000"),
            ("n_layer", 100_000, "is missing"),
            ("n_embd", 100_000, "has shape"),
            ("block_size", 100_000, "has shape"),
            ("n_head", 3, "not divisible"),
            ("dropout", 1.5, "dropout from 0 to below 1; they are False and 1.5"),
            ("dropout", float("nan"), "dropout from 0 to below 1"),
            ("bias", 1, "bias must be true or false"),
        )
    },
    "S21 other shape": (lambda: good_with(model_args=TINY | {"block_size": 95}), r"wpe.weight has shape \(96, 16\)"),
    "S21 layer missing": (lambda: good_with(model_args=TINY | {"n_layer": 3}), "transformer.h.2.* is missing"),
    "S21 layer too many": (lambda: good_with(model_args=TINY | {"n_layer": 1}), "transformer.h.1.* is unknown"),
    "S21 untied": (lambda: good_model_with(lm_head__weight=torch.zeros(74, 16)), "differ, but this model ties them"),
    "S21 two prefixes": (
        lambda: good_model_with(module__lm_head__weight=torch.zeros(74, 16)), "names differ in their prefix only"
    ),
    "S23 numpy scalar": (lambda: good_with(best_val_loss=np.float64(0.3)), "asks for 'numpy.*save it again"),
    "S23 path": (lambda: good_with(out=pathlib.PurePosixPath("a")), "asks for 'pathlib.*save it again"),
    "S23 namespace": (lambda: good_with(config=argparse.Namespace(a=1)), "asks for 'argparse.*save it again"),
    "S23 whole module": (lambda: saved(torch.nn.Linear(1, 1)), "asks for 'torch.nn.*save it again"),
    "S25 web page": (lambda: b"\n<!DOCTYPE html><html>Virus scan warning", "web page.*download it again"),
    "S25 LFS pointer": (lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "git lfs pull"),
}  # fmt: skip


def load(path):
    """What a child does: load, and say what was loaded."""
    os.chdir(pathlib.Path(path).parent)
    checkpoint = load_checkpoint(path)
    return sorted(checkpoint.state_dict)


def assert_refused(outcome, error, phrase, folder, names):
    assert outcome.exit_code == 0, "ended by a signal"
    assert outcome.error == error, outcome
    assert re.search(phrase, outcome.message), outcome.message
    assert "\n" not in outcome.message and len(outcome.message) < 600
    assert outcome.grown < FLAT, f"{outcome.grown / 2**20:.0f} MiB"
    assert sorted(p.name for p in folder.iterdir()) == sorted(names), "something of the file was executed"


def run_the_payload(data, folder):
    os.chdir(folder)
    pickle.loads(data)


@pytest.mark.parametrize("name", ["system", "eval", "exec"])
def test_the_payloads_would_work(tmp_path, name):
    """Else their absence would prove nothing."""
    in_child(run_the_payload, pickled(EVIL[name]), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [SENTINEL]


@pytest.mark.filterwarnings("ignore:Duplicate name", "ignore:Sparse CSR", "ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize("name", BAD_FILES)
def test_checkpoint_is_refused(tmp_path, name):
    make, phrase = BAD_FILES[name]
    (tmp_path / "gpt.pt").write_bytes(make())
    outcome = in_child(load, str(tmp_path / "gpt.pt"), seconds=20)
    assert_refused(outcome, "CheckpointError", phrase, tmp_path, ["gpt.pt"])


def load_although_told_to_trust(path):
    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
    return load(path)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_no_environment_variable_switches_the_protection_off(tmp_path, protocol):  # S24
    (tmp_path / "gpt.pt").write_bytes(archive(pickled({"model": {}, "x": EVIL["eval"]}, protocol)))
    outcome = in_child(load_although_told_to_trust, str(tmp_path / "gpt.pt"))
    assert_refused(outcome, "CheckpointError", REFUSED, tmp_path, ["gpt.pt"])


PLACES = {  # S25
    "missing": (lambda path: None, "no such file; .*sft[.]t"),
    "folder": (lambda path: path.mkdir(), "is a folder; "),
    "link loop": (lambda path: path.symlink_to(path.name), "cannot be opened .*symbolic links"),
    "pipe": (os.mkfifo, "is no regular file; "),
}


@pytest.mark.parametrize("name", PLACES)
def test_places_that_are_no_file_are_named(tmp_path, name):
    make, phrase = PLACES[name]
    make(tmp_path / "file")
    for loader, error in ((load_checkpoint, "CheckpointError"), (load_tokenizer, "VocabularyError")):
        outcome = in_child(loader, tmp_path / "file", seconds=20)
        assert (outcome.exit_code, outcome.error) == (0, error) and re.search(phrase, outcome.message), outcome


def test_a_file_that_may_not_be_read(
    tmp_path, monkeypatch, tokenizer
):  # root may read all: the system's refusal is played
    (tmp_path / "file").write_bytes(b"x")
    monkeypatch.setattr(
        pathlib.Path, "open", lambda *_: (_ for _ in ()).throw(PermissionError(13, "Permission denied"))
    )
    for loader, error in ((load_checkpoint, CheckpointError), (load_tokenizer, VocabularyError)):
        with pytest.raises(error, match="file may not be read by this user; change its permissions"):
            loader(tmp_path / "file")
    with pytest.raises(PairsError, match="may not be read by this user"):
        load_pairs(tmp_path / "file", tokenizer)


# Good files ------------------------------------------------------------------------------------------------------


def test_the_course_layout_is_accepted(tiny, tmp_path):  # S22, more of it in test_checkpoint.py
    for prefix, key in (("_orig_mod.", "model"), ("module.", "model_state_dict")):
        course_file(tmp_path / "gpt.pt", tiny, prefix, key)
        outcome = in_child(load, str(tmp_path / "gpt.pt"))
        assert not outcome.raised and outcome.value == sorted(tiny.state_dict()), outcome
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        weights = {name: value.to(dtype) for name, value in good()["model"].items()}
        (tmp_path / "gpt.pt").write_bytes(good_with(model=weights))
        loaded = load_checkpoint(tmp_path / "gpt.pt").state_dict
        assert all(torch.equal(loaded[name], value.float()) for name, value in weights.items())
    parameters = {name: torch.nn.Parameter(value) for name, value in good()["model"].items()}
    (tmp_path / "gpt.pt").write_bytes(good_with(model=parameters, model_args=TINY | {"dropout": 0.2}))
    assert not in_child(load, str(tmp_path / "gpt.pt")).raised


def test_what_we_write_is_accepted_bit_by_bit(tiny, tmp_path):  # S29
    save_checkpoint(tmp_path / "dpo.pt", tiny, config={"beta": 0.1, "out": "dpo"}, note="a", rates=[1e-3, 2], none=None)
    checkpoint = load_checkpoint(tmp_path / "dpo.pt")
    assert checkpoint.extras == {"config": {"beta": 0.1, "out": "dpo"}, "note": "a", "rates": [1e-3, 2], "none": None}
    assert all(torch.equal(checkpoint.state_dict[name], value) for name, value in tiny.state_dict().items())
    shipped = load_checkpoint(ROOT / "sft/gpt.pt")
    stored = torch.load(ROOT / "sft/gpt.pt", weights_only=True)["model"]
    assert all(torch.equal(shipped.state_dict[name], value.float()) for name, value in stored.items())


def test_a_file_says_who_made_it(tmp_path, monkeypatch):
    assert identify(ROOT / "sft/gpt.pt").endswith("17.7 MB, SHA-256 d1b1b6c2..., the base of this repository")
    (tmp_path / "x.pt").write_bytes(b"x" * 10**5)
    assert identify(tmp_path / "x.pt").endswith("x.pt: 0.1 MB, SHA-256 d69e6898..., unknown to this repository")
    of_the_course = "7fa3d597e629bdf45ebf0136e310e4bec05682f3c024a78fe402903fbb3bc050"
    monkeypatch.setattr("sft.checkpoint.sha256", lambda _: of_the_course)  # its file is not at hand
    assert identify(tmp_path / "x.pt").endswith("SHA-256 7fa3d597..., the course's own base")


# Vocabularies ----------------------------------------------------------------------------------------------------


def vocabulary(**changes):
    table = {character: i for i, character in enumerate(ALPHABET)}
    meta = {"vocab_size": 74, "stoi": table, "itos": {i: character for character, i in table.items()}}
    return meta | {
        name: {**meta[name], **value} if isinstance(value, dict) else value for name, value in changes.items()
    }


def deep(levels):
    """A dict in a dict in a dict ..., as the id of a character."""
    return b"\x80\x04}X\4\0\0\0stoi}X\1\0\0\0a" + b"}K\1" * levels + b"}" + b"s" * levels + b"ssX\4\0\0\0itos}s."


BAD_VOCABULARIES = {
    **{
        f"S26 {name}, protocol {protocol}": (pickled({"stoi": evil}, protocol), "instruction [A-Z_]+ is not allowed")
        for name, evil in EVIL.items()
        for protocol in (0, 2, 4, 5)
    },
    "S26 far memo": (b"\x80\x04}r" + struct.pack("<I", 2**30) + b".", "instruction LONG_BINPUT is not allowed"),
    "S26 many bytes": (b"\x80\x05\x96" + struct.pack("<Q", 2**34) + b".", "not a plain vocabulary"),
    "S26 10 MB": (b"\x80\x04" + b"}" * 10**7, "too large"),
    "S26 numpy numbers": (pickled(vocabulary(vocab_size=np.int64(74)), 4), "is not allowed"),
    "S26 defaultdict": (pickled({"stoi": collections.defaultdict(int)}, 4), "is not allowed"),
    "S26 a second pickle": (pickled(vocabulary(), 4) * 2, "bytes follow its end"),
    "S26 cut": (pickled(vocabulary(), 4)[:-9], "not a plain vocabulary"),
    "S26 nothing": (b"", "is empty"),
    "S26 a list": (b"\x80\x04}.", "no `stoi` and `itos`"),
    "S27 not inverse": (pickled(vocabulary(itos={5: "!"}), 4), "the id that stoi gives ',' is not what itos says"),
    "S27 gap": (pickled(vocabulary(stoi={"z": 80}, itos={80: "z"}), 4), "their ids are not 0 to 73|differs"),
    "S27 one more": (pickled(vocabulary(stoi={"!": 74}, itos={74: "!"}, vocab_size=75), 4), "id 74 is '!'"),
    "S27 two characters": (pickled(vocabulary(stoi={"ab": 74}, itos={74: "ab"}), 4), "'ab' in stoi is no single char"),
    "S27 surrogate": (
        b"\x80\x04}(X\4\0\0\0stoi}X\3\0\0\0\xed\xa0\x80K\0sX\4\0\0\0itos}K\0X\3\0\0\0\xed\xa0\x80su.",
        "no single character",
    ),
    "S27 number for a character": (pickled(vocabulary(stoi={7: 74}), 4), "'7' in stoi is no single character"),
    "S27 other size": (pickled(vocabulary(vocab_size=75), 4), "vocab_size differs"),
    "S27 other alphabet": (pickled(vocabulary(stoi={"a": 49, "b": 48}, itos={48: "b", 49: "a"}), 4), "id 48 is 'b'"),
    "S27 deep id": (deep(9000), "the id that stoi gives 'a' is not what itos says"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_VOCABULARIES)
def test_vocabulary_is_refused(tmp_path, name):
    data, phrase = BAD_VOCABULARIES[name]
    (tmp_path / "meta.pkl").write_bytes(data)
    outcome = in_child(load_vocabulary, str(tmp_path / "meta.pkl"), seconds=20)
    assert_refused(outcome, "VocabularyError", phrase, tmp_path, ["meta.pkl"])


def load_vocabulary(path):
    os.chdir(pathlib.Path(path).parent)
    return load_tokenizer(path).stoi


# Pairs -----------------------------------------------------------------------------------------------------------

ROW = '{"negative": "8+9=? %s", "positive": "8+9=? The answer is 17."}'
BAD_PAIRS = {  # S28
    "a gigabyte": (None, "1024 MiB and too large"),
    "deep": ("[" * 10**6, "line 1 .*nested too deeply"),
    "a number of 5000 digits": ('[{"negative": ' + "9" * 5000 + "}]", "line 1 .*a number too long"),
    "NaN": ('[\n{"negative": NaN, "positive": "8+9=? 17."}]', "line 2 .*NaN is no text"),
    "a key twice": (f'[\n{ROW % "No."[:-1]}, {ROW[:-1]}, "positive": "8"}}]', "key 'positive' stands twice"),
    "surrogate": ("[\n" + ROW % "\\ud800" + "]", r"line 2 .*U\+D800 without a name"),
    "control characters": ("[\n" + ROW % "\\u001b[31m" + "]", r"line 2 .*character '\\x1b' \(U\+001B"),
    "bare control characters": ("[\n" + ROW % "\x1b[31m" + "]", "line 2 .*a line break or tab inside a text"),
    "a wrapper": ('{"pairs": [' + ROW % "No." + "]}", "line 1 .*the list stands inside an object, under 'pairs'"),
    "a script": ("[\n" + ROW % "<script>alert(1)</script>" + "]", "line 2 .*character '<'"),
    "mistakes without end": (
        "{\n" * 10**6,
        "the 100th mistake of its kind; the rest of the file was not read|and 81 more",
    ),
    "a key without end": ('{"' + "a" * 10**6 + '": 1}', "line 1 .*unknown key 'aaa"),
}


@pytest.mark.parametrize("name", BAD_PAIRS)
def test_pairs_are_refused(tmp_path, name):
    text, phrase = BAD_PAIRS[name]
    path = tmp_path / "pairs.json"
    if text is None:
        with path.open("wb") as file:
            file.truncate(2**30)
    else:
        path.write_text(text, encoding="utf-8")
    outcome = in_child(read_pairs, str(path), seconds=20)
    assert (outcome.exit_code, outcome.error) == (0, "PairsError"), outcome
    assert re.search(phrase, outcome.message, re.DOTALL), outcome.message[:2000]
    assert "\x1b" not in outcome.message and len(outcome.message) < 10_000
    assert outcome.grown < FLAT


def read_pairs(path):
    return [[pair.prompt, pair.chosen, pair.rejected] for pair in load_pairs(path, load_tokenizer()).pairs]


# Mutants (S30) ---------------------------------------------------------------------------------------------------


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


def small_checkpoint():
    torch.manual_seed(0)
    args = {"block_size": 8, "vocab_size": 12, "n_layer": 1, "n_head": 2, "n_embd": 4, "dropout": 0.0, "bias": True}
    return saved(
        {"model": GPT(GPTConfig(**args)).state_dict(), "model_args": args, "seed": 3, "config": {"a": [1, 0.5]}}
    )


def same(one, other):
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return one == other


def count_mutant_checkpoints(folder, repacked):
    """How many are refused and accepted; with `repacked`, their checksums are right, so any content may come of it."""
    path, data = pathlib.Path(folder) / "x.pt", small_checkpoint()
    path.write_bytes(data)
    good_one, parts = load_checkpoint(path), members(data)
    counts = collections.Counter()
    for mutant in mutants(parts["archive/data.pkl"] if repacked else data, MUTANTS, seed=30):
        path.write_bytes(zipped({**parts, "archive/data.pkl": mutant}.items()) if repacked else mutant)
        try:
            loaded = load_checkpoint(path)
        except CheckpointError:
            counts["refused"] += 1
            continue
        counts["accepted"] += 1
        assert repacked or same(vars(loaded), vars(good_one)), "other content was accepted"
    return dict(counts)


def count_mutant_vocabularies(folder):
    path, data, counts = pathlib.Path(folder) / "meta.pkl", VOCABULARY_PATH.read_bytes(), collections.Counter()
    for mutant in mutants(data, MUTANTS, seed=31):
        path.write_bytes(mutant)
        try:
            assert "".join(load_tokenizer(path).stoi) == ALPHABET, "another alphabet was accepted"
            counts["accepted"] += 1
        except VocabularyError:
            counts["refused"] += 1
    return dict(counts)


def as_json_says(text):
    """Prompts and answers by the standard library's reader alone."""
    rows = (
        json.loads(text)
        if text.lstrip().startswith("[")
        else [json.loads(line) for line in text.splitlines() if line.strip()]
    )
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


def count_mutant_pairs(folder):
    path, counts = pathlib.Path(folder) / "pairs.json", collections.Counter()
    lines = (ROOT / "dpo/pos_neg_pairs.json").read_text(encoding="utf-8").splitlines()[1:9]
    data = ("[\n" + "\n".join(lines).rstrip(",") + "\n]\n").encode()
    for mutant in mutants(data, MUTANTS, seed=32):
        path.write_bytes(mutant)
        try:
            assert read_pairs(path) == as_json_says(mutant.decode("utf-8-sig")), "not what the file says"
            counts["accepted"] += 1
        except PairsError:
            counts["refused"] += 1
    return dict(counts)


@pytest.mark.parametrize(
    ("count", "arguments", "fewest"),
    [
        (count_mutant_checkpoints, (False,), {"refused": 1500, "accepted": 1}),
        (count_mutant_checkpoints, (True,), {"refused": 1000, "accepted": 1}),
        (count_mutant_vocabularies, (), {"refused": 1500}),
        (count_mutant_pairs, (), {"refused": 800, "accepted": 100}),
    ],
)
def test_mutants_are_read_exactly_or_refused(tmp_path, count, arguments, fewest):
    outcome = in_child(count, str(tmp_path), *arguments, seconds=120)
    assert outcome.exit_code == 0 and not outcome.raised, outcome
    assert sum(outcome.value.values()) == MUTANTS
    assert all(outcome.value.get(kind, 0) >= least for kind, least in fewest.items()), outcome.value
    assert outcome.grown < 2 * FLAT


def test_the_code_opens_no_other_door():
    calls = re.compile(
        r"pickle\.loads?\(|from pickle|weights_only\s*=\s*False|add_safe_globals|(?<!literal_)\beval\(|\bexec\("
        r"|shell=True|os\.system"
    )
    sources = [
        ROOT / "model.py",
        ROOT / "configurator.py",
        *ROOT.glob("sft/*.py"),
        *ROOT.glob("dpo/*.py"),
        *ROOT.glob("bench/*.py"),
    ]
    code = {path: re.sub(r"\.eval\(\)", "", path.read_text(encoding="utf-8")) for path in sources}
    notebook = json.loads((ROOT / "dpo/dpo.ipynb").read_text(encoding="utf-8"))
    code |= {
        f"cell {i}": "".join(cell["source"]) for i, cell in enumerate(notebook["cells"]) if cell["cell_type"] == "code"
    }
    found = {str(place): calls.findall(text) for place, text in code.items() if calls.search(text)}
    assert not found and calls.search("eval(x)") and len(sources) > 30
    loads = [str(place) for place, text in code.items() if "torch.load(" in text]
    assert loads == [str(ROOT / "sft/archive.py"), str(ROOT / "bench/loading.py")], "the second one measures it"
    tree = ast.parse((ROOT / "sft/archive.py").read_text(encoding="utf-8"))
    [call] = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and ast.unparse(n.func) == "torch.load"]
    assert {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords} == {
        "map_location": "'cpu'", "weights_only": "True", "mmap": "False"
    }  # fmt: skip


def test_what_could_not_be_read_again_is_not_written(tiny, tmp_path):
    with pytest.raises(CheckpointError, match=r"asks for 'torch.torch_version.TorchVersion'"):
        save_checkpoint(tmp_path / "x.pt", tiny, version=torch.__version__)
    assert not os.listdir(tmp_path)
