"""What transformers loads computes and answers as ours; what comes back is the same, or refused."""

import json
import logging
import re
import shutil
import stat
import sys
from pathlib import Path

import pytest
import torch
from children import in_child
from conftest import TINY, make_tiny, same_bits, teach
from hypothesis import given, settings
from hypothesis import strategies as st

from dpo import export as module
from dpo.export import Config, ExportError, main, read_folder, write_folder
from model import GPT, GPTConfig
from sft.arithmetic import STEP_8
from sft.checkpoint import archive
from sft.checkpoint.weights import save_checkpoint
from sft.files import SaveError
from sft.generation import generate_answers
from sft.tokenizer import ALPHABET, LOOK_ALIKES

FILES = {
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
}
MUTANTS = 400
FLAT = 60 * 2**20  # bytes that a refusal may cost at most


@pytest.fixture
def transformers(monkeypatch, caplog):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    module = pytest.importorskip(
        "transformers", reason="transformers is missing: requirements-dev.txt has it"
    )
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    yield module
    assert not [record.getMessage() for record in caplog.records], "transformers warned"


@pytest.fixture
def safetensors():
    return pytest.importorskip(
        "safetensors.torch", reason="safetensors is missing: requirements-dev.txt has it"
    )


@pytest.fixture(scope="module")
def written(tokenizer, tmp_path_factory):
    """The tiny model as a folder; read-only, each test has a copy."""
    pytest.importorskip("safetensors.torch")
    folder = tmp_path_factory.mktemp("hf")
    write_folder(folder, make_tiny(), tokenizer)
    return folder


@pytest.fixture
def folder(written, tmp_path, safetensors):
    return Path(shutil.copytree(written, tmp_path / "hf"))


def without_biases(model):
    return model


def with_biases(model):
    """A model with the same matrices, and random biases everywhere."""
    new = GPT(GPTConfig(**TINY | {"bias": True})).eval()
    new.load_state_dict(model.state_dict(), strict=False)
    for name, parameter in new.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.3)
    return new


both_kinds = pytest.mark.parametrize("change", [without_biases, with_biases])


def loaded(transformers, folder):
    """Model and tokenizer as a user gets them, with nothing missing, unexpected or made up."""
    twin, notes = transformers.AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True
    )
    assert not any(notes.values()), notes
    return twin, transformers.AutoTokenizer.from_pretrained(folder)


def continued(twin, characters, prompts):
    """What the README tells a user to do: prompts, one or many at once, with their answers."""
    out = twin.generate(**characters(prompts, return_tensors="pt", padding=True), max_new_tokens=80)
    return [characters.decode(ids, skip_special_tokens=True) for ids in out]


# To transformers


@pytest.mark.parametrize(
    "scale", [1.0, 0.01], ids=["usual", "so small that the norms' epsilon counts"]
)
@both_kinds
def test_logits_are_those_of_transformers(
    tiny, tokenizer, tmp_path, transformers, safetensors, change, scale
):
    with torch.no_grad():
        for name in ("wte", "wpe"):
            tiny.transformer[name].weight *= scale
    model = change(tiny)
    write_folder(tmp_path, model, tokenizer)
    twin, _ = loaded(transformers, tmp_path)
    ids = torch.randint(74, (5, 96), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = model(ids, full_seq=True)[0]
        torch.testing.assert_close(twin(ids).logits, ours, rtol=0, atol=1e-5)
        twin.train()  # dropout is off there, too
        torch.testing.assert_close(twin(ids).logits, ours, rtol=0, atol=1e-5)


@pytest.fixture
def characters(written, transformers, safetensors):
    """The tokenizer as transformers loads it."""
    return transformers.AutoTokenizer.from_pretrained(written)


def test_every_character_has_our_id(characters):
    ids = [characters(character)["input_ids"] for character in ALPHABET]
    assert ids == [[i] for i in range(74)]
    assert len(characters) == 74


def test_ids_come_with_a_mask_only(characters):
    assert characters(ALPHABET).keys() == {"input_ids", "attention_mask"}


def test_tokenizer_knows_the_block_size(characters):
    assert characters.model_max_length == 96


def test_ids_are_ours_for_every_text(characters, tokenizer):
    @settings(max_examples=100, deadline=None)
    @given(st.text(ALPHABET) | st.text(" \n.?'s"))  # the latter are what tokenizers like to tidy up
    def check(text):
        assert characters(text)["input_ids"] == tokenizer.encode(text)
        assert characters.decode(tokenizer.encode(text)) == text

    check()


@pytest.mark.parametrize(
    "character", [*LOOK_ALIKES, "é", "e\u0301", "\x00", "\r", "\U0001f600", "#"]
)
def test_an_unknown_character_is_an_error(characters, character):
    with pytest.raises(Exception, match=r"Missing \[UNK\] token from the vocabulary"):
        characters(f"1{character}2=?")


@pytest.fixture(scope="module", params=[without_biases, with_biases])
def taught(request, tokenizer):
    """A model and its greedy texts: ended by a full stop, by a newline, at once, and not at all."""
    prompts, answers = (
        ["1+2=?", "x+1=7,x=?", "Hi", "Again?"],
        [" 3. And more.", " Six", "", "a" * 80],
    )
    model = request.param(make_tiny())
    teach(model.train(), tokenizer, prompts, answers)
    texts = [p + a for p, a in zip(prompts, [" 3.", *answers[1:]], strict=True)]
    return model.eval(), prompts, texts


def test_our_greedy_texts_are_as_taught(taught, tokenizer):
    model, prompts, texts = taught
    answers = generate_answers(model, tokenizer, prompts)
    assert [p + a for p, a in zip(prompts, answers, strict=True)] == texts


@pytest.mark.parametrize("together", [False, True], ids=["alone", "in a batch of many lengths"])
def test_greedy_texts_are_ours(taught, tokenizer, tmp_path, transformers, safetensors, together):
    model, prompts, texts = taught
    write_folder(tmp_path, model, tokenizer)
    twin, characters = loaded(transformers, tmp_path)
    asked = [prompts] if together else [[prompt] for prompt in prompts]
    assert [text for some in asked for text in continued(twin, characters, some)] == texts


def test_the_shipped_base_answers_as_ours(
    shipped_base, tokenizer, tmp_path, transformers, safetensors
):
    write_folder(tmp_path, shipped_base, tokenizer)
    answers = generate_answers(shipped_base, tokenizer, STEP_8)
    ours = [prompt + answer for prompt, answer in zip(STEP_8, answers, strict=True)]
    assert continued(*loaded(transformers, tmp_path), STEP_8) == ours


# What is in a folder


def test_a_folder_has_five_files(folder):
    assert {path.name for path in folder.iterdir()} == FILES


def test_a_folder_has_nothing_to_execute(folder):
    execute = stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH
    assert not any(path.stat().st_mode & execute for path in folder.iterdir())


def test_a_folders_json_names_no_code(folder):
    for path in folder.glob("*.json"):
        assert isinstance(json.loads(path.read_bytes()), dict)
        assert "auto_map" not in path.read_text()


@pytest.fixture
def contents(folder):
    """The tensors' entries in the table of contents, its format, and the bytes behind it."""
    data = (folder / "model.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    return header.pop("__metadata__"), header.values(), len(data) - 8 - length


def test_tensors_are_float32(contents):
    format, entries, _ = contents
    assert format == {"format": "pt"}
    assert {entry["dtype"] for entry in entries} == {"F32"}


def test_nothing_lies_between_or_behind_tensors(contents):
    _, entries, length = contents
    spans = sorted(entry["data_offsets"] for entry in entries)
    assert [start for start, _ in spans] == [0, *(end for _, end in spans[:-1])]
    assert spans[-1][1] == length


def test_a_folder_loads_only_when_complete(tiny, tokenizer, tmp_path, monkeypatch, safetensors):
    def full(*_):
        raise SaveError("no room")

    monkeypatch.setattr("dpo.export.write_atomically", full)
    with pytest.raises(SaveError, match="no room"):
        write_folder(tmp_path, tiny, tokenizer)
    assert not (tmp_path / "config.json").exists()


# And back


@pytest.fixture
def there_and_back(tiny, tmp_path, safetensors, capsys, change):
    """The folder of the round trip, and what was said on the way there and on the way back."""
    save_checkpoint(tmp_path / "a.pt", change(tiny))
    main(Config(str(tmp_path / "a.pt"), "hf", str(tmp_path / "hf")))
    main(Config(str(tmp_path / "hf"), "nanogpt", str(tmp_path / "b.pt")))
    return tmp_path, *capsys.readouterr().out.split("wrote ")[1:]


@both_kinds
def test_there_and_back_is_bitwise_the_same(there_and_back):
    folder, _, _ = there_and_back
    assert (folder / "a.pt").read_bytes() == (folder / "b.pt").read_bytes()


@both_kinds
def test_program_says_how_to_go_on(there_and_back):
    folder, there, back = there_and_back
    assert f'AutoModelForCausalLM.from_pretrained("{folder}/hf")' in there
    assert f"--checkpoint={folder}/b.pt" in back


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_what_transformers_saved_comes_back(tiny, tokenizer, folder, tmp_path, transformers, dtype):
    twin, characters = loaded(transformers, folder)
    twin.to(dtype).save_pretrained(tmp_path / "again")
    characters.save_pretrained(tmp_path / "again")
    back = read_folder(tmp_path / "again", tokenizer)
    rounded = {name: tensor.to(dtype).float() for name, tensor in tiny.state_dict().items()}
    assert same_bits(back, rounded)
    assert not back.config.bias


def test_one_bias_is_enough_to_keep_all(tokenizer, folder):
    change_weights(folder, lambda w: w["transformer.h.1.mlp.c_proj.bias"].__setitem__(3, 1e-30))
    back = read_folder(folder, tokenizer)
    assert back.config.bias
    assert back.transformer.h[1].mlp.c_proj.bias[3].item() == pytest.approx(1e-30)
    assert not back.transformer.ln_f.bias.any()


# What is refused


def change_table(folder, name, **changes):
    table = json.loads((folder / name).read_text()) | changes
    kept = {key: value for key, value in table.items() if value is not ...}
    (folder / name).write_text(json.dumps(kept))


def settings_with(**changes):
    return lambda folder: change_table(folder, "config.json", **changes)


def change_weights(folder, change):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def weights_with(**tensors):
    return lambda folder: change_weights(
        folder,
        lambda weights: weights.update({name.replace("__", "."): t for name, t in tensors.items()}),
    )


def vocabulary_with(change):
    def apply(folder):
        model = json.loads((folder / "tokenizer.json").read_text())["model"]
        change(model)
        change_table(folder, "tokenizer.json", model=model)

    return apply


def replaced(name, data):
    return lambda folder: (folder / name).write_bytes(data)


def renamed(name):
    return lambda folder: (folder / "model.safetensors").rename(folder / name)


def cut(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])


def swapped(model):
    model["vocab"]["1"], model["vocab"]["2"] = model["vocab"]["2"], model["vocab"]["1"]


LN_F = "transformer.ln_f.weight"
ONLY = r"config\.json: {} is {}; our model computes {} only".format
REFUSED = {
    "another model": (settings_with(model_type="llama"), ONLY("model_type", "'llama'", "'gpt2'")),
    "GPT-2's own GELU": (
        settings_with(activation_function="gelu_new"),
        ONLY("activation_function", "'gelu_new'", "'gelu'"),
    ),
    "GELU not named, so GPT-2's own": (
        settings_with(activation_function=...),
        ONLY("activation_function", "'gelu_new'", "'gelu'"),
    ),
    "epsilon": (
        settings_with(layer_norm_epsilon=1e-6),
        ONLY("layer_norm_epsilon", "1e-06", "1e-05"),
    ),
    "epsilon NaN": (
        settings_with(layer_norm_epsilon=float("nan")),
        ONLY("layer_norm_epsilon", "nan", "1e-05"),
    ),
    "attention not scaled": (
        settings_with(scale_attn_weights=False),
        ONLY("scale_attn_weights", "False", "True"),
    ),
    "attention scaled by layer": (
        settings_with(scale_attn_by_inverse_layer_idx=True),
        ONLY("scale_attn_by_inverse_layer_idx", "True", "False"),
    ),
    "cross-attention": (
        settings_with(add_cross_attention=True),
        ONLY("add_cross_attention", "True", "False"),
    ),
    "head not tied": (
        settings_with(tie_word_embeddings=False),
        ONLY("tie_word_embeddings", "False", "True"),
    ),
    "a list": (
        settings_with(activation_function=["gelu"]),
        ONLY("activation_function", "a list", "'gelu'"),
    ),
    "inner width": (
        settings_with(n_inner=32),
        "n_inner is 32; in our model it is 64, 4 times n_embd",
    ),
    "vocabulary size": (
        settings_with(vocab_size=80),
        "vocab_size is 80; our vocabulary has 74 characters",
    ),
    "heads": (settings_with(n_head=3), "n_embd is 16; it is not divisible by n_head 3"),
    **{
        f"n_layer {value!r}": (
            settings_with(n_layer=value),
            rf"n_layer is {shown}; it must be a whole number from 1",
        )
        for value, shown in (
            (..., "None"),
            (0, "0"),
            (2.0, "2.0"),
            (True, "True"),
            ([], "a list"),
            (10**9, "10+"),
        )
    },
    "a layer more": (
        settings_with(n_layer=3),
        "tensor 'transformer.h.2.attn.c_attn.bias' is missing .12 such",
    ),
    "layers without end": (
        settings_with(n_layer=100_000),
        "tensor 'transformer.h.2.attn.c_attn.bias' is missing",
    ),
    "a layer less": (
        settings_with(n_layer=1),
        "tensor 'transformer.h.1.attn.c_attn.bias' is unknown .12 such",
    ),
    "other width": (settings_with(n_embd=32), r"has shape \(.*\), its config.json says \("),
    "absurd width": (settings_with(n_embd=100_000), r"has shape \(.*\), its config.json says \("),
    "other length": (
        settings_with(n_positions=97),
        r"wpe.weight has shape \(96, 16\), its config.json says \(97, ",
    ),
    "no table": (
        replaced("config.json", b"[]"),
        r"config\.json is not a JSON table; name a folder that model.save_",
    ),
    "no JSON": (replaced("config.json", b"\x80\x02}."), r"config\.json is not a JSON table"),
    "deep JSON": (replaced("config.json", b"[" * 10**6), r"config\.json is not a JSON table"),
    "empty": (replaced("config.json", b""), r"config\.json is empty; name a folder"),
    "large JSON": (
        replaced("config.json", b" " * 3 * 2**20),
        r"config\.json is 3 MiB and too large",
    ),
    "no config": (
        lambda f: (f / "config.json").unlink(),
        r"config\.json: no such file; name a folder that model",
    ),
    "no tokenizer": (
        lambda f: (f / "tokenizer.json").unlink(),
        r"no such file; tokenizer.save_pretrained.* writes it",
    ),
    "two characters swapped": (
        vocabulary_with(swapped),
        "does not give the 74 characters of sft/meta.pkl one token",
    ),
    "a word more": (
        vocabulary_with(lambda m: m["vocab"].update({"17": 74})),
        "does not give the 74 characters",
    ),
    "other kind of tokens": (
        vocabulary_with(lambda m: m.update(type="BPE", merges=[])),
        "does not give the 74 charac",
    ),
    "no model of tokens": (
        lambda f: change_table(f, "tokenizer.json", model=None),
        "does not give the 74 characters",
    ),
    "small letters only": (
        lambda f: change_table(f, "tokenizer.json", normalizer={"type": "Lowercase"}),
        "does not give the 74 characters",
    ),
    "old format": (
        renamed("pytorch_model.bin"),
        r"model\.safetensors: no such file; parts and .bin files are not",
    ),
    "in parts": (
        renamed("model-00001-of-00002.safetensors"),
        r"no such file; .* write this one by model.save_pretrai",
    ),
    "missing": (
        lambda f: change_weights(f, lambda w: w.pop(LN_F)),
        f"tensor '{LN_F}' is missing .1 such",
    ),
    "unknown": (
        weights_with(score__weight=torch.ones(2)),
        "tensor 'score.weight' is unknown .1 such",
    ),
    "shape": (
        weights_with(transformer__ln_f__weight=torch.ones(17)),
        rf"{LN_F} has shape \(17,\), .* says \(16,\)",
    ),
    "dimensions": (
        weights_with(transformer__ln_f__weight=torch.ones(4, 4)),
        rf"{LN_F} has shape \(4, 4\)",
    ),
    "not transposed": (
        weights_with(transformer__h__0__mlp__c_fc__weight=torch.ones(64, 16)),
        r"shape \(64, 16\), .* says \(16, 64\)",
    ),
    "NaN": (
        weights_with(transformer__ln_f__weight=torch.full((16,), torch.nan)),
        "ln_f.weight holds NaN or infinite",
    ),
    "infinite": (
        weights_with(transformer__ln_f__bias=torch.full((16,), torch.inf)),
        "ln_f.bias holds NaN or infinite",
    ),
    "a head of its own": (
        weights_with(lm_head__weight=torch.ones(74, 16)),
        "lm_head.weight and .* but our model ties",
    ),
    **{
        kind: (
            weights_with(transformer__ln_f__weight=torch.ones(16).to(dtype)),
            f"holds numbers of type {kind}; save",
        )
        for kind, dtype in (
            ("F64", torch.double),
            ("I64", torch.long),
            ("F8_E4M3", torch.float8_e4m3fn),
        )
    },
    "cut off": (cut, r"model\.safetensors is damaged .*; download it again"),
    "LFS pointer": (
        replaced("model.safetensors", b"version https://git-lfs"),
        "no safetensors file; if it is a Git",
    ),
    "pickle": (
        replaced("model.safetensors", b"\x80\x02}q\0." + b"\0" * 9),
        "no safetensors file|is damaged",
    ),
    "few bytes": (replaced("model.safetensors", b"\x01\0\0"), "is damaged"),
    "long table of contents": (
        replaced("model.safetensors", (3 * 2**20).to_bytes(8, "little") + b" " * 2**22),
        "is no safetensors file",
    ),
}


@pytest.fixture
def refusal(name, folder, tokenizer):
    """What is said of the folder after a change, and what should be said."""
    change, sentence = REFUSED[name]
    change(folder)
    with pytest.raises(ExportError) as error:
        read_folder(folder, tokenizer)
    return str(error.value), sentence


@pytest.mark.parametrize("name", REFUSED)
def test_what_ours_cannot_compute_is_refused(refusal, folder):
    said, sentence = refusal
    assert re.search(sentence, said)
    assert str(folder) in said


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_is_one_short_sentence(refusal):
    assert "\n" not in refusal[0]
    assert len(refusal[0]) < 400


@pytest.mark.parametrize(
    "name", ["absurd width", "layers without end", "long table of contents", "deep JSON"]
)
def test_a_refusal_costs_no_memory(name, folder, tokenizer):
    REFUSED[name][0](folder)
    outcome = in_child(read_folder, folder, tokenizer)
    assert outcome.error == "ExportError"
    assert outcome.grown < FLAT


def test_changed_contents_are_refused_or_the_same(tiny, tokenizer, folder):
    path = folder / "model.safetensors"
    good = path.read_bytes()
    end = 8 + int.from_bytes(good[:8], "little")
    generator = torch.Generator().manual_seed(1)
    refused = 0
    for _ in range(MUTANTS):
        place, byte = (int(torch.randint(most, (), generator=generator)) for most in (end, 256))
        path.write_bytes(good[:place] + bytes([byte]) + good[place + 1 :])
        try:
            weights = read_folder(folder, tokenizer).state_dict()
        except ExportError:
            refused += 1
        else:
            assert all(torch.equal(weights[name], t) for name, t in tiny.state_dict().items())
    assert MUTANTS / 2 < refused < MUTANTS


# The program


def test_missing_safetensors_is_one_sentence(tiny, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    message = r"^safetensors is missing: python -m pip install safetensors$"
    with pytest.raises(ExportError, match=message):
        write_folder(tmp_path / "hf", tiny, tokenizer)
    assert not (tmp_path / "hf").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--format=onnx"], "format is 'onnx'; it must be one of hf, nanogpt"),
        (
            ["--format=nanogpt"],
            "out is 'runs/hf'; with --format=nanogpt name a file that ends in .pt: --out=runs/b",
        ),
        (["--out=conftest.py/x"], "cannot write into conftest.py/x"),
        (
            ["--format=nanogpt", "--out=x.pt", "--checkpoint=base.pt"],
            "base.pt/config.json cannot be opened",
        ),
    ],
)
def test_mistakes_of_a_user_are_one_sentence(
    run_program, words, sentence, base_file, tmp_path, monkeypatch, safetensors
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conftest.py").touch()
    ended = run_program("dpo.export", f"--checkpoint={base_file}", *words)
    assert ended.code == 1
    assert ended.err.startswith(f"error: {sentence}")
    assert ended.err.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"base.pt", "conftest.py"}


def test_export_takes_as_large_files_as_we_do():
    assert module.LARGEST_FILE == archive.LARGEST_FILE
