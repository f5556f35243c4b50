"""Files that a stranger may hand us: how they are made, and what the refusal must say.

A name begins with the number of its row in tests/README.md, where test_readme.py counts them.
"""

import argparse
import collections
import io
import os
import pathlib
import pickle
import struct
import zipfile

import numpy as np
import torch
from conftest import TINY

from model import GPT, GPTConfig
from sft.tokenizer import ALPHABET

SENTINEL = "stolen"  # the file that an executed payload leaves

# What a file is made of


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
        for name, data in {
            **parts,
            **{f"data/{key}": data for key, data in (records or {}).items()},
        }.items():
            file.writestr(f"archive/{name}", data)
    return buffer.getvalue()


def tensor(
    record="0", items=4, offset=0, size=(4,), stride=(1,), kind=torch.FloatStorage, grad=False
):
    hooks = collections.OrderedDict()
    return Call(
        torch._utils._rebuild_tensor_v2,
        Stored(kind, record, items),
        offset,
        size,
        stride,
        grad,
        hooks,
    )


def with_tensor(item, data=b"\0" * 16):
    """A file whose pickle holds this tensor."""
    return archive(
        pickled({"model": {"transformer.wpe.weight": item}, "model_args": TINY}), {"0": data}
    )


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
    return good_with(
        model=good()["model"] | {name.replace("__", "."): value for name, value in tensors.items()}
    )


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
    """A good file with these parts replaced, or left out where None; right checksums."""
    new = members(saved(good())) | {
        f"archive/{name.replace('__', '/')}": data for name, data in parts.items()
    }
    return zipped((name, data) for name, data in new.items() if data is not None)


def flipped(data, at):
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def of_opcodes(*opcodes):
    return archive(b"\x80\x02" + b"".join(opcodes) + b".")


def doubling_tuple(levels):
    """A dict whose key is a tuple of tuples ..., small to write down and endless to hash."""
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
            lambda evil=evil, protocol=protocol: archive(
                pickled({"model": {}, "x": evil}, protocol)
            ),
            REFUSED if protocol != 2 else "asks for '.*nothing was run",
        )
        for name, evil in EVIL.items()
        for protocol in (0, 2, 4, 5)
    },
    "S3 a bare pickle": (
        lambda: pickle.dumps(EVIL["system"]),
        "not a PyTorch .zip. checkpoint but a bare pickle",
    ),
    "S4 an old torch's format, with a payload": (
        lambda: saved({"model": EVIL["system"]}, _use_new_zipfile_serialization=False),
        "not a PyTorch .zip. checkpoint.*save it again",
    ),
    "S4 an old torch's format": (
        lambda: saved(good(), _use_new_zipfile_serialization=False),
        "not a PyTorch .zip. checkpoint.*save it again",
    ),
    "S5 instruction STACK_GLOBAL": (
        lambda: of_opcodes(b"X\2\0\0\0os", b"X\6\0\0\0system", b"\x93"),
        "instruction STACK_GLOBAL",
    ),
    "S5 instruction INST": (lambda: of_opcodes(b"(ios\nsystem\n"), "instruction INST"),
    "S5 instruction OBJ": (lambda: of_opcodes(b"(ccollections\nOrderedDict\no"), "instruction OBJ"),
    "S5 instruction EXT1": (lambda: of_opcodes(b"\x82\1"), "instruction EXT1"),
    "S5 instruction NEWOBJ": (
        lambda: of_opcodes(b"ccollections\nOrderedDict\n)\x81"),
        "instruction NEWOBJ",
    ),
    "S5 BUILD on a tensor": (
        lambda: archive(pickled(tensor())[:-1] + b"}b.", {"0": b"\0" * 16}),
        "sets the inside of an object",
    ),
    "S6 a payload with garbage behind it": (
        lambda: archive(pickled(EVIL["system"]) + b"garbage"),
        "asks for 'posix.system'",
    ),
    "S7 a second pickle": (
        lambda: archive(pickled({"model": {}}) + pickled({})),
        "does not end where it should",
    ),
    "S8 a TorchScript program": (
        lambda: zipped([("net/code/__torch__.py", b"x"), ("net/data.pkl", pickled({}))]),
        "unexpected entry 'net/code/__torch__.py'",
    ),
    "S9 two data.pkl": (lambda: zipped([("archive/data.pkl", pickled({}))] * 2), "some twice"),
    "S9 two roots": (
        lambda: zipped([("a/data.pkl", pickled({})), ("b/data.pkl", pickled({}))]),
        "some twice",
    ),
    **{
        f"S9 entry {name}": (
            lambda name=name: zipped([("archive/data.pkl", pickled({})), (name, b"")]),
            BAD_NAME,
        )
        for name in (
            "../data/0",
            "/data/0",
            "archive\\data\\0",
            "archive/../data/0",
            "archive/data/x",
        )
    },
    "S10 a compressed bomb": (
        lambda: archive(
            pickled({"model": tensor(items=25 * 10**6)}), {"0": bytes(10**8)}, zipfile.ZIP_DEFLATED
        ),
        "is compressed",
    ),
    "S10 a table of contents that lies": (lying_directory, "claims other sizes than it has"),
    "S10 a table of contents of 256 MiB": (with_a_large_directory, "table of contents"),
    "S11 a buffer of 2 GiB": (
        lambda: archive(pickled({"x": Call(bytearray, 2**31)})),
        "asks for '__builtin__.bytearray'",
    ),
    "S11 a tensor of 32 GiB": (
        lambda: archive(pickled({"x": Call(torch.FloatTensor, 2**33)})),
        "asks for 'torch.Float",
    ),
    "S12 a list 200,000 deep": (
        lambda: of_opcodes(b"]" * 200_000 + b"a" * 199_999),
        "more than 200000 pickle instructions",
    ),
    "S12 a key that is endless to hash": (
        lambda: doubling_tuple(60),
        "keys that are no short texts",
    ),
    "S12 record named by an endless tuple": (
        lambda: of_opcodes(
            b")q\x00" + b"".join(b"h%ch%c\x86q%c" % (i, i, i + 1) for i in range(60)),
            b"q\x7f",
            b"(X\7\0\0\0storagectorch\nFloatStorage\nh\x7fX\3\0\0\0cpuK\4tQ",
        ),
        "has not the stated size",
    ),
    "S12 lists of lists of lists": (
        lambda: of_opcodes(
            b"]q\x00" + b"".join(b"]q%c(%se" % (i + 1, b"h%c" % i * 9) for i in range(60))
        ),
        "does not end|no dict",
    ),
    "S12 a size of 60,000 factors": (
        lambda: with_tensor(tensor(size=(2**62,) * 60_000, stride=(1,) * 60_000)),
        "reaches beyond its data",
    ),
    "S12 a number of 2,040 bits": (
        lambda: of_opcodes(b"}X\1\0\0\0a\x8a\xff" + b"\x7f" * 255 + b"s"),
        "more than 64 bits",
    ),
    "S12 keys that collide": (
        lambda: archive(pickled({k * (2**61 - 1): 0 for k in range(1, 4)})),
        "no short texts or small numbers",
    ),
    "S12 a name of 7 MB": (
        lambda: good_with(model=good()["model"] | {"module." * 10**6: torch.ones(1)}),
        "no short texts",
    ),
    "S12 names without tensors": (
        lambda: good_with(
            model=dict.fromkeys(map(str, range(50_000))), model_args=TINY | {"n_layer": 10**5}
        ),
        "is missing",
    ),
    "S5 BUILD on a dict": (
        lambda: of_opcodes(b"ccollections\nOrderedDict\n)R}X\3\0\0\0getK\1sb"),
        "sets the inside of an object",
    ),
    "S17 one record, two types": (
        lambda: archive(
            pickled({"a": tensor(), "b": tensor(items=8, size=(8,), kind=torch.HalfStorage)}),
            {"0": b"\0" * 16},
        ),
        "has not the stated size",
    ),
    "S13 a text of 2 GiB": (
        lambda: of_opcodes(b"X" + struct.pack("<I", 2**31) + b"abc"),
        "download it again",
    ),
    "S13 a far place in the memo": (
        lambda: of_opcodes(b"}r" + struct.pack("<I", 2**31 - 1)),
        "no `model`",
    ),
    "S14 cut to nothing": (lambda: b"", "is empty"),
    "S14 cut to one byte": (lambda: saved(good())[:1], "not a PyTorch"),
    "S14 cut to 50 bytes": (lambda: saved(good())[:50], "cut off; download it again"),
    "S14 cut in half": (
        lambda: saved(good())[: len(saved(good())) // 2],
        "cut off; download it again",
    ),
    "S14 cut to 99.9 %": (
        lambda: saved(good())[: int(0.999 * len(saved(good())))],
        "cut off; download it again",
    ),
    "S14 the last 10 bytes are missing": (
        lambda: saved(good())[:-10],
        "cut off; download it again",
    ),
    "S14 30 bytes more at the end": (
        lambda: saved(good()) + b"\0" * 30,
        "cut off; download it again",
    ),
    "S15 another bit in the data": (
        lambda: flipped(saved(good()), len(saved(good())) // 2),
        "damaged .checksum of .arch",
    ),
    "S15 another bit in data.pkl": (
        lambda: flipped(saved(good()), 900),
        "damaged .*download it again",
    ),
    "S15 another bit in the table of contents": (
        lambda: flipped(saved(good()), saved(good()).rindex(b"archive/data/3")),
        "damaged|unexpected entry|some twice",
    ),
    "S16 a record is missing": (
        lambda: changed(data__3=None),
        "has not the stated size.; download it again",
    ),
    "S16 a record is too short": (
        lambda: changed(data__3=b"\0" * 10),
        "has not the stated size.; download it again",
    ),
    "S16 a record is too long": (
        lambda: changed(data__3=b"\0" * 10**6),
        "has not the stated size.; download it again",
    ),
    "S17 a size beyond the data": (
        lambda: with_tensor(tensor(size=(5,))),
        "reaches beyond its data",
    ),
    "S17 a stride beyond the data": (
        lambda: with_tensor(tensor(size=(2, 2), stride=(4, 1))),
        "reaches beyond its data",
    ),
    "S17 an offset beyond the data": (
        lambda: with_tensor(tensor(offset=1)),
        "reaches beyond its data",
    ),
    "S17 a negative stride": (
        lambda: with_tensor(tensor(size=(2,), stride=(-1,), offset=3)),
        "reaches beyond its data",
    ),
    "S17 one number for 10**12": (
        lambda: with_tensor(tensor(size=(10**12,), stride=(0,))),
        "reaches beyond its data",
    ),
    "S17 size and stride of other lengths": (
        lambda: with_tensor(tensor(size=(4, 1), stride=(1,))),
        "reaches beyond its data",
    ),
    "S17 text for a size": (lambda: with_tensor(tensor(size="4")), "reaches beyond its data"),
    "S17 the same data again and again": (
        lambda: archive(pickled({f"x{i}": tensor() for i in range(3)}), {"0": b"\0" * 16}),
        "larger than all of its data",
    ),
    "S18 a sparse tensor": (
        lambda: good_model_with(lm_head__weight=torch.eye(3).to_sparse()),
        "asks for '",
    ),
    "S18 a tensor of sparse rows": (
        lambda: good_model_with(lm_head__weight=torch.eye(3).to_sparse_csr()),
        "asks for '",
    ),
    "S18 a tensor without data": (
        lambda: good_model_with(lm_head__weight=torch.empty(74, 16, device="meta")),
        "asks for '",
    ),
    "S18 a quantised tensor": (
        lambda: good_model_with(
            lm_head__weight=torch.quantize_per_tensor(torch.ones(74, 16), 0.1, 0, torch.qint8)
        ),
        "asks for '",
    ),
    "S18 complex numbers": (
        lambda: good_model_with(lm_head__weight=torch.ones(74, 16) * 1j),
        "asks for 'torch.ComplexFloat",
    ),
    "S18 whole numbers": (
        lambda: good_model_with(lm_head__weight=torch.ones(74, 16).long()),
        "not a plain tensor",
    ),
    "S18 true and false": (
        lambda: good_model_with(lm_head__weight=torch.ones(74, 16).bool()),
        "not a plain tensor",
    ),
    "S18 a table in place of a tensor": (
        lambda: good_model_with(lm_head__weight={"weight": torch.ones(74, 16)}),
        "not a plain tensor",
    ),
    "S19 NaN": (
        lambda: good_model_with(transformer__ln_f__weight=torch.full((16,), float("nan"))),
        "transformer.ln_f.weight holds NaN",
    ),
    "S19 infinity": (
        lambda: good_model_with(transformer__ln_f__weight=torch.full((16,), float("inf"))),
        "transformer.ln_f.weight holds NaN or inf",
    ),
    "S19 numbers too large for float32": (
        lambda: good_model_with(
            transformer__ln_f__weight=torch.full((16,), 1e300, dtype=torch.float64)
        ),
        "transformer.ln_f.weight holds NaN or inf",
    ),
    "S20 no model_args": (
        lambda: saved({"model": good()["model"]}),
        "no `model` .* with `model_args`",
    ),
    "S20 too few model_args": (
        lambda: good_with(model_args={"n_layer": 2}),
        "model_args must have exactly",
    ),
    "S20 an unknown key": (
        lambda: good_with(model_args=TINY | {"n_experts": 8}),
        "must have exactly.*n_experts",
    ),
    **{
        f"S20 {key} {value!r}": (
            lambda key=key, value=value: good_with(model_args=TINY | {key: value}),
            phrase,
        )
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
    "S21 another shape": (
        lambda: good_with(model_args=TINY | {"block_size": 95}),
        r"wpe.weight has shape \(96, 16\)",
    ),
    "S21 a layer is missing": (
        lambda: good_with(model_args=TINY | {"n_layer": 3}),
        "transformer.h.2.* is missing",
    ),
    "S21 a layer too many": (
        lambda: good_with(model_args=TINY | {"n_layer": 1}),
        "transformer.h.1.* is unknown",
    ),
    "S21 two tensors that are one here": (
        lambda: good_model_with(lm_head__weight=torch.zeros(74, 16)),
        "differ, but this model ties them",
    ),
    "S21 one name with two prefixes": (
        lambda: good_model_with(module__lm_head__weight=torch.zeros(74, 16)),
        "names differ in their prefix only",
    ),
    "S23 a number of numpy's": (
        lambda: good_with(best_val_loss=np.float64(0.3)),
        "asks for 'numpy.*save it again",
    ),
    "S23 a path": (
        lambda: good_with(out=pathlib.PurePosixPath("a")),
        "asks for 'pathlib.*save it again",
    ),
    "S23 a namespace": (
        lambda: good_with(config=argparse.Namespace(a=1)),
        "asks for 'argparse.*save it again",
    ),
    "S23 a whole module": (
        lambda: saved(torch.nn.Linear(1, 1)),
        "asks for 'torch.nn.*save it again",
    ),
    "S25 a web page": (
        lambda: b"\n<!DOCTYPE html><html>Virus scan warning",
        "web page.*download it again",
    ),
    "S25 a pointer of Git LFS": (
        lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:1",
        "git lfs pull",
    ),
}


# Vocabularies


def vocabulary(**changes):
    table = {character: i for i, character in enumerate(ALPHABET)}
    meta = {
        "vocab_size": 74,
        "stoi": table,
        "itos": {i: character for character, i in table.items()},
    }
    return meta | {
        name: {**meta[name], **value} if isinstance(value, dict) else value
        for name, value in changes.items()
    }


def deep(levels):
    """A dict in a dict in a dict ..., as the id of a character."""
    return (
        b"\x80\x04}X\4\0\0\0stoi}X\1\0\0\0a"
        + b"}K\1" * levels
        + b"}"
        + b"s" * levels
        + b"ssX\4\0\0\0itos}s."
    )


BAD_VOCABULARIES = {
    **{
        f"S26 {name}, protocol {protocol}": (
            pickled({"stoi": evil}, protocol),
            "instruction [A-Z_]+ is not allowed",
        )
        for name, evil in EVIL.items()
        for protocol in (0, 2, 4, 5)
    },
    "S26 far memo": (
        b"\x80\x04}r" + struct.pack("<I", 2**30) + b".",
        "instruction LONG_BINPUT is not allowed",
    ),
    "S26 many bytes": (b"\x80\x05\x96" + struct.pack("<Q", 2**34) + b".", "not a plain vocabulary"),
    "S26 10 MB": (b"\x80\x04" + b"}" * 10**7, "too large"),
    "S26 numpy numbers": (pickled(vocabulary(vocab_size=np.int64(74)), 4), "is not allowed"),
    "S26 defaultdict": (pickled({"stoi": collections.defaultdict(int)}, 4), "is not allowed"),
    "S26 a second pickle": (pickled(vocabulary(), 4) * 2, "bytes follow its end"),
    "S26 cut": (pickled(vocabulary(), 4)[:-9], "not a plain vocabulary"),
    "S26 nothing": (b"", "is empty"),
    "S26 a list": (b"\x80\x04}.", "no `stoi` and `itos`"),
    "S27 not inverse": (
        pickled(vocabulary(itos={5: "!"}), 4),
        "the id that stoi gives ',' is not what itos says",
    ),
    "S27 gap": (
        pickled(vocabulary(stoi={"z": 80}, itos={80: "z"}), 4),
        "their ids are not 0 to 73|differs",
    ),
    "S27 one more": (
        pickled(vocabulary(stoi={"!": 74}, itos={74: "!"}, vocab_size=75), 4),
        "id 74 is '!'",
    ),
    "S27 two characters": (
        pickled(vocabulary(stoi={"ab": 74}, itos={74: "ab"}), 4),
        "'ab' in stoi is no single char",
    ),
    "S27 surrogate": (
        b"\x80\x04}(X\4\0\0\0stoi}X\3\0\0\0\xed\xa0\x80K\0sX\4\0\0\0itos}K\0X\3\0\0\0\xed\xa0\x80su.",
        "no single character",
    ),
    "S27 number for a character": (
        pickled(vocabulary(stoi={7: 74}), 4),
        "'7' in stoi is no single character",
    ),
    "S27 other size": (pickled(vocabulary(vocab_size=75), 4), "vocab_size differs"),
    "S27 other alphabet": (
        pickled(vocabulary(stoi={"a": 49, "b": 48}, itos={48: "b", 49: "a"}), 4),
        "id 48 is 'b'",
    ),
    "S27 deep id": (deep(9000), "the id that stoi gives 'a' is not what itos says"),
}


# Pairs

ROW = '{"negative": "8+9=? %s", "positive": "8+9=? The answer is 17."}'
BAD_PAIRS = {  # S28
    "a gigabyte": (None, "1024 MiB and too large"),
    "deep": ("[" * 10**6, "line 1 .*nested too deeply"),
    "a number of 5000 digits": ('[{"negative": ' + "9" * 5000 + "}]", "line 1 .*a number too long"),
    "NaN": ('[\n{"negative": NaN, "positive": "8+9=? 17."}]', "line 2 .*NaN is no text"),
    "a key twice": (
        f'[\n{ROW % "No."[:-1]}, {ROW[:-1]}, "positive": "8"}}]',
        "key 'positive' stands twice",
    ),
    "surrogate": ("[\n" + ROW % "\\ud800" + "]", r"line 2 .*U\+D800 without a name"),
    "control characters": (
        "[\n" + ROW % "\\u001b[31m" + "]",
        r"line 2 .*character '\\x1b' \(U\+001B",
    ),
    "bare control characters": (
        "[\n" + ROW % "\x1b[31m" + "]",
        "line 2 .*a line break or tab inside a text",
    ),
    "a wrapper": (
        '{"pairs": [' + ROW % "No." + "]}",
        "line 1 .*the list stands inside an object, under 'pairs'",
    ),
    "a script": ("[\n" + ROW % "<script>alert(1)</script>" + "]", "line 2 .*character '<'"),
    "mistakes without end": (
        "{\n" * 10**6,
        "100,001 to mend.*after 100,000 mistakes of syntax the rest of the file was not read",
    ),
    "a key without end": ('{"' + "a" * 10**6 + '": 1}', "line 1 .*unknown key 'aaa"),
}
