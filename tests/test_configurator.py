import importlib
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from configurator import SettingError, configure, help_text, override, run_program


@dataclass
class Config:
    """A test program."""

    beta: float = 0.1  # how strong
    epochs: int = 1  # how long
    verbose: bool = False  # how loud
    out: str = "here"  # where to


def test_values_and_order(tmp_path):
    file = tmp_path / "settings.py"
    file.write_text('"""A quick run."""\nbeta = 0.3  # more\nepochs = 4\nout = "there"\n')
    config = override(Config(), ["--epochs=2", str(file), "--beta=1", "--verbose", "--out=a=b=c"])
    assert config == Config(beta=1.0, epochs=4, verbose=True, out="a=b=c")
    assert type(config.beta) is float
    assert override(Config(), ["--verbose=false"]) == override(Config(), ["--verbose=False"]) == Config()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bete=1"], "unknown setting 'bete'; did you mean 'beta'?"),
        (["--qqqqqq=1"], "known are beta, epochs, verbose, out"),
        (["--epochs=1.5"], "epochs must be a whole number like 1, not 1.5"),
        (["--epochs=True"], "epochs must be a whole number like 1, not True"),
        (["--beta=much"], "beta must be a number like 0.1, not 'much'"),
        (["--beta=__import__('os')"], "beta must be a number"),
        (["--beta={[]:1}"], "beta must be a number"),
        (["--beta=1" + "0" * 400], "beta must be a number"),
        (["--beta=1e999"], "beta must be a number"),
        (["--verbose=1"], "verbose must be True or False"),
        (["--beta"], "--beta needs a value: --beta=0.1"),
        (["missing.py"], "no settings file 'missing.py'; settings are written --key=value"),
    ],
)
def test_mistakes_are_one_sentence(arguments, message, capsys, monkeypatch):
    with pytest.raises(SettingError) as error:
        override(Config(), arguments)
    assert message in str(error.value)
    monkeypatch.setattr("sys.argv", ["program", *arguments])
    with pytest.raises(SystemExit) as exit_:
        run_program(lambda settings: None, Config())
    assert exit_.value.code == 2
    assert capsys.readouterr().err == f"error: {error.value}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("beta = 0.1\nepochs = 2 * 3\n", "line 2: epochs must be a plain value"),
        ("import os\n", "line 1: not a `name = value` line"),
        ("epoch = 3\n", "line 1: unknown setting 'epoch'; did you mean 'epochs'?"),
        ("beta = = 3\n", "line 1: not a `name = value` line"),
        ("out = open('stolen', 'w')\n", "line 1: out must be a plain value"),
    ],
)
def test_settings_file_is_read_not_executed(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.py").write_text(text)
    with pytest.raises(SettingError, match=message.replace("*", r"\*").replace("?", r"\?")):
        override(Config(), ["s.py"])
    assert [p.name for p in tmp_path.iterdir()] == ["s.py"]


def test_help_lists_every_key_with_default_and_meaning(capsys):
    text = help_text(Config())
    for words in ("--beta=0.1", "how strong", "--epochs=1", "how long", "--verbose=False", "--out=here", "where to"):
        assert words in text
    with pytest.raises(SystemExit) as exit_:
        configure(Config(), ["--help"])
    assert exit_.value.code == 0 and capsys.readouterr().out.strip() == text.strip()


def ends_with(error, monkeypatch, *words):
    """Exit code of a program that raises this."""

    def program(settings):
        if error:
            raise error

    monkeypatch.setattr("sys.argv", ["program", *words])
    try:
        run_program(program, Config())
    except SystemExit as exit_:
        return exit_.code
    return 0


def test_exit_codes(monkeypatch, capsys):
    monkeypatch.setattr("configurator.LISTEN", 0.0)
    assert ends_with(None, monkeypatch) == 0
    for error in (ValueError("wrong"), OSError("full"), FloatingPointError("nan"), MemoryError("much")):
        assert ends_with(error, monkeypatch) == 1 and capsys.readouterr().err == f"error: {error}\n"
    assert ends_with(SettingError("no such grid"), monkeypatch) == 2 and "no such grid" in capsys.readouterr().err
    assert ends_with(None, monkeypatch, "--bta=1") == 2 and "did you mean" in capsys.readouterr().err
    assert ends_with(KeyboardInterrupt(), monkeypatch) == 130
    with pytest.raises(KeyError):  # a defect of ours keeps its traceback
        ends_with(KeyError("x"), monkeypatch)
    monkeypatch.setenv("LOCAL_RANK", "1")  # the second process of a torchrun: the first says what both would say
    assert ends_with(ValueError("wrong"), monkeypatch) == 1 and ends_with(None, monkeypatch, "--bta=1") == 2
    assert not capsys.readouterr().err
    assert ends_with(OSError("full"), monkeypatch) == 1 and capsys.readouterr().err == "error: full\n"


@dataclass
class Listed(Config):
    """A test program for files."""

    files: tuple[str, ...] = ("one.json",)  # which files
    from_: str = ""  # where from


@dataclass
class FromFile(Config):
    """A test program that reads settings files."""

    from_: str = ""  # where from


def test_words_for_a_tuple_a_python_word_and_inherited_help(tmp_path):
    config = override(Listed(), ["a.json", "--from=b", "c.json", "--beta=2"])
    assert config == Listed(beta=2.0, files=("a.json", "c.json"), from_="b")
    assert override(Listed(), []).files == ("one.json",)
    text = help_text(Listed())
    for words in ("FILES ...", "which files; default: one.json", "--from=  ", "where from", "--beta=0.1", "how strong"):
        assert words in text
    (tmp_path / "s.py").write_text('from_ = "x"\n')
    assert override(FromFile(), [str(tmp_path / "s.py")]).from_ == "x"
    for wrong in ("--files=a", "--from_=b"):
        with pytest.raises(SettingError, match="unknown setting"):
            override(Listed(), [wrong])


def test_every_program_explains_every_setting():
    root = Path(__file__).parents[1]
    sources = [path for folder in ("dpo", "sft") for path in (root / folder).glob("*.py")]
    programs = [path for path in sources if "run_program(" in path.read_text(encoding="utf-8")]
    assert len(programs) >= 12
    for name in (f"{path.parent.name}.{path.stem}" for path in programs):
        lines = help_text(importlib.import_module(name).Config()).splitlines()
        settings = [line for line in lines if line.startswith("  ")]
        assert settings and all(len(line[35:].strip()) > 5 for line in settings), name


@pytest.mark.parametrize("words", ["--help", "--files=1"])
def test_a_reader_that_has_gone_is_no_error(words, tmp_path):
    """As in `python -m dpo.pairs --help | head -1`."""
    program = tmp_path / "program.py"
    program.write_text("""
from dataclasses import dataclass
from configurator import run_program
@dataclass
class Config:
    files: int = 0  # how many
run_program(print, Config())
""")
    reading, writing = os.pipe()
    os.close(reading)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    streams = {"stdout": writing, "stderr": subprocess.PIPE, "text": True}
    done = subprocess.run([sys.executable, program, words], env=environment, check=False, **streams)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")
