"""Settings from the command line and from files, and how a program ends."""

import importlib
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from configurator import SettingError, configure, help_text, override, run_program

ROOT = Path(__file__).parents[2]


@dataclass
class Config:
    """A test program."""

    beta: float = 0.1  # how strong
    epochs: int = 1  # how long
    verbose: bool = False  # how loud
    out: str = "here"  # where to


@dataclass
class Listed(Config):
    """A test program for files."""

    files: tuple[str, ...] = ("one.json",)  # which files
    from_: str = ""  # where from


@dataclass
class FromFile(Config):
    """A test program that reads settings files."""

    from_: str = ""  # where from


# Settings


def test_later_words_win(tmp_path):
    file = tmp_path / "settings.py"
    file.write_text('"""A quick run."""\nbeta = 0.3  # more\nepochs = 4\nout = "there"\n')
    config = override(Config(), ["--epochs=2", str(file), "--beta=1", "--verbose", "--out=a=b=c"])
    assert config == Config(beta=1.0, epochs=4, verbose=True, out="a=b=c")
    assert type(config.beta) is float


@pytest.mark.parametrize("word", ["--verbose=false", "--verbose=False"])
def test_false_may_be_written_small(word):
    assert override(Config(verbose=True), [word]) == Config()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bete=1"], "unknown setting 'bete'; did you mean 'beta'?"),
        (["--qqqqqq=1"], "known are beta, epochs, verbose, out"),
        (["--data=1"], "unknown setting 'data'; known are beta, epochs, verbose, out"),
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
        ("beta = 0.1\nepochs = 2 * 3\n", r"line 2: epochs must be a plain value"),
        ("import os\n", r"line 1: not a `name = value` line"),
        ("epoch = 3\n", r"line 1: unknown setting 'epoch'; did you mean 'epochs'\?"),
        ("beta = = 3\n", r"line 1: not a `name = value` line"),
        ("out = open('stolen', 'w')\n", r"line 1: out must be a plain value"),
    ],
)
def test_settings_file_is_read_not_executed(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.py").write_text(text)
    with pytest.raises(SettingError, match=message):
        override(Config(), ["s.py"])
    assert os.listdir() == ["s.py"]


def test_words_without_dashes_go_into_a_tuple():
    config = override(Listed(), ["a.json", "--from=b", "c.json", "--beta=2"])
    assert config == Listed(beta=2.0, files=("a.json", "c.json"), from_="b")
    assert override(Listed(), []).files == ("one.json",)


@pytest.mark.parametrize("wrong", ["--files=a", "--from_=b"])
def test_names_of_fields_are_not_always_settings(wrong):
    with pytest.raises(SettingError, match="unknown setting"):
        override(Listed(), [wrong])


def test_python_word_may_stand_in_a_settings_file(tmp_path):
    (tmp_path / "s.py").write_text('from_ = "x"\n')
    assert override(FromFile(), [str(tmp_path / "s.py")]).from_ == "x"


def test_settings_file_that_is_no_utf_8_is_refused(tmp_path):
    (tmp_path / "s.py").write_text("beta = 1\n", encoding="utf-16")
    with pytest.raises(SettingError, match=r"s\.py is no text in UTF-8; save it as UTF-8"):
        override(Config(), [str(tmp_path / "s.py")])


# The user's home


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder that is the user's home, on Windows too."""
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(("text", "below"), [("~/run", "run"), ("~/a/~/b", "a/~/b"), ("~", "")])
def test_tilde_at_the_start_is_the_home(home, text, below):
    assert Path(override(Config(), [f"--out={text}"]).out) == home / below


@pytest.mark.parametrize("text", ["runs/~/a", "~me/run", "a~", "~5=?", "", "C:/~/run"])
def test_tilde_elsewhere_is_a_letter(home, text):
    assert override(Config(), [f"--out={text}"]).out == text


def test_tilde_in_a_settings_file_is_the_home(home):
    (home / "s.py").write_text('out = "~/run"\n')
    assert Path(override(Config(), ["~/s.py"]).out) == home / "run"


def test_tilde_in_a_tuple_is_the_home(home):
    files = override(Listed(), ["~/a.json", "b.json"]).files
    assert [Path(file) for file in files] == [home / "a.json", Path("b.json")]


# Help


@pytest.mark.parametrize(
    "words", ["--beta=0.1", "how strong", "--epochs=1", "how long", "--verbose=False"]
)
def test_help_names_settings_and_meanings(words):
    assert words in help_text(Config())


@pytest.mark.parametrize("words", ["--out=here", "where to"])
def test_help_names_texts(words):
    assert words in help_text(Config())


@pytest.mark.parametrize("words", ["FILES ...", "which files; default: one.json"])
def test_help_names_files(words):
    assert words in help_text(Listed())


@pytest.mark.parametrize("words", ["--from=  ", "where from", "--beta=0.1", "how strong"])
def test_help_names_inherited_settings(words):
    assert words in help_text(Listed())


def test_help_is_printed_and_ends_the_program(capsys):
    with pytest.raises(SystemExit) as exit_:
        configure(Config(), ["--help"])
    assert exit_.value.code == 0
    assert capsys.readouterr().out.strip() == help_text(Config()).strip()


def test_comment_behind_a_command_says_nothing():
    assert configure(Config(), ["--out=here", "#", "--out=there", "and", "more"]).out == "here"


SOURCES = [path for folder in ("dpo", "sft") for path in (ROOT / folder).glob("*.py")]
PROGRAMS = sorted(
    f"{path.parent.name}.{path.stem}"
    for path in SOURCES
    if "run_program(" in path.read_text(encoding="utf-8")
)


def test_all_programs_are_found():
    assert len(PROGRAMS) >= 12


@pytest.mark.parametrize("program", PROGRAMS)
def test_program_explains_every_setting(program):
    lines = help_text(importlib.import_module(program).Config()).splitlines()
    settings = [line for line in lines if line.startswith("  ")]
    assert settings
    assert all(len(line[35:].strip()) > 5 for line in settings)


# How a program ends


@pytest.fixture
def end(monkeypatch):
    """A function: the exit code of a program that raises this error."""
    monkeypatch.setattr("configurator.LISTEN", 0.0)

    def ends_with(error, *words):
        def program(settings):
            if error:
                raise error

        monkeypatch.setattr("sys.argv", ["program", *words])
        try:
            run_program(program, Config())
        except SystemExit as exit_:
            return exit_.code
        return 0

    return ends_with


ERRORS = (ValueError("wrong"), OSError("full"), FloatingPointError("nan"), MemoryError("much"))


def test_exit_code_0_without_an_error(end):
    assert end(None) == 0


@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_exit_code_1_after_an_error(end, capsys, error):
    assert end(error) == 1
    assert capsys.readouterr().err == f"error: {error}\n"


def test_exit_code_2_for_an_unusable_setting(end, capsys):
    assert end(SettingError("no such grid")) == 2
    assert "no such grid" in capsys.readouterr().err


def test_exit_code_2_for_an_unknown_setting(end, capsys):
    assert end(None, "--bta=1") == 2
    assert "did you mean" in capsys.readouterr().err


def test_exit_code_130_after_an_interrupt(end):
    assert end(KeyboardInterrupt()) == 130


def test_defect_keeps_its_traceback(end):
    with pytest.raises(KeyError):
        end(KeyError("x"))


@pytest.fixture
def second_process(monkeypatch):
    """The second process of a torchrun: the first says what both would say."""
    monkeypatch.setenv("LOCAL_RANK", "1")


def test_second_process_is_silent_after_an_error(end, second_process, capsys):
    assert end(ValueError("wrong")) == 1
    assert not capsys.readouterr().err


def test_second_process_is_silent_about_settings(end, second_process, capsys):
    assert end(None, "--bta=1") == 2
    assert not capsys.readouterr().err


def test_second_process_says_what_it_alone_meets(end, second_process, capsys):
    assert end(OSError("full")) == 1
    assert capsys.readouterr().err == "error: full\n"


PROGRAM = """
from dataclasses import dataclass
from configurator import run_program
@dataclass
class Config:
    files: int = 0  # how many
run_program(print, Config())
"""


@pytest.mark.parametrize("words", ["--help", "--files=1"])
def test_reader_that_has_gone_is_no_error(words, tmp_path):
    """As in `python -m dpo.pairs --help | head -1`."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    reading, writing = os.pipe()
    os.close(reading)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    streams = {"stdout": writing, "stderr": subprocess.PIPE, "text": True}
    done = subprocess.run([sys.executable, program, words], env=environment, check=False, **streams)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")
