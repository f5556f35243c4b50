"""Settings from the command line, over a flat dataclass: `python -m dpo.train settings.py --beta=0.2 --epochs=3`.

A settings file holds `name = value` lines with literal values; nothing in it is executed. Later words win.
Where the dataclass has a tuple, words without `--` go into it instead. A field `from_` is written `--from`.
Nothing is read from the process by itself, so importing this file in a notebook is safe.
"""

import ast
import difflib
import inspect
import math
import os
import re
import sys
import time
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

LISTEN = 10.0  # seconds in which the first process of a machine can speak
# what ast.literal_eval raises for something that is no plain value, and float() for a number beyond all floats
LITERAL_ERRORS = (ValueError, SyntaxError, TypeError, OverflowError, MemoryError, RecursionError)


class SettingError(ValueError):
    """A word of the command line, or a line of a settings file, that cannot be used."""


def run_program(program: Callable, default) -> None:
    """`program(settings)`, with the settings of the command line.

    Exit codes: 0; 1 after an error, which is one sentence on standard error; 2 for a setting that is unknown or of
    another kind; 130 after Ctrl-C, as a shell reports it.
    """
    try:
        program(configure(default, sys.argv[1:]))
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read this has gone, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except SettingError as error:
        _leave(error, 2)
    except (ValueError, OSError, FloatingPointError, MemoryError) as error:
        _leave(error, 1)
    except KeyboardInterrupt:
        sys.exit(130)


def _leave(error: Exception, code: int) -> None:
    """Say what is wrong and exit. Of several processes on a machine, the first one says what is wrong for all."""
    if isinstance(error, ValueError) and os.environ.get("LOCAL_RANK", "0") != "0":
        time.sleep(LISTEN)  # torchrun ends all when one has ended
    else:
        print(f"error: {error}", file=sys.stderr)
    sys.exit(code)


def configure(default, arguments: list[str]):
    """The settings after `arguments` (`sys.argv[1:]` in a script); exits after `--help`."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # a terminal that lacks a character never ends a program
    if {"-h", "--help"} & set(arguments):
        print(help_text(default), flush=True)
        sys.exit(0)
    return override(default, arguments)


def override(default, arguments: list[str]):
    """A copy of the dataclass `default` with `--key=value`, bare `--flag` and settings files applied in order."""
    values, words = {}, tuple(word for word in arguments if not word.startswith("--"))
    listed = next((field.name for field in fields(default) if isinstance(getattr(default, field.name), tuple)), None)
    if listed and words:
        values[listed] = words
    for word in arguments:
        if word in words:
            values |= {} if listed else _read_file(default, Path(word))
            continue
        written, equals, text = word[2:].partition("=")
        key = _key(default, written)
        if equals:
            values[key] = _value(default, key, text)
        elif isinstance(getattr(default, key), bool):
            values[key] = True
        else:
            raise SettingError(f"--{written} needs a value: --{written}={getattr(default, key)}")
    return replace(default, **values)


def help_text(default) -> str:
    """Every key with its default and the comment that stands behind it in the source."""
    cls = type(default)
    source = "".join(inspect.getsource(parent) for parent in reversed(cls.__mro__[:-1]))
    comments = dict(re.findall(r"^ +(\w+): .*?# (.*)$", source, re.MULTILINE))
    words, settings = [], []
    for field in fields(cls):
        value = getattr(default, field.name)
        if isinstance(value, tuple):
            words.append(f"  {field.name.upper() + ' ...':34} {comments[field.name]}; default: {' '.join(value)}")
        else:
            settings.append(f"  --{f'{_written(field.name)}={value}':32} {comments[field.name]}")
    parts = [(inspect.getdoc(cls) or "").strip(), "", *words, "settings (with their defaults):", *settings]
    return "\n".join(parts)


def _written(name: str) -> str:
    """How the field is written on the command line: without the underscore that keeps it from being a Python word."""
    return name.removesuffix("_")


def _key(default, written: str) -> str:
    """The field that is meant; a tuple's cannot be given by name."""
    names = [field.name for field in fields(default) if not isinstance(getattr(default, field.name), tuple)]
    known = {_written(name): name for name in names}
    if written not in known:
        near = difflib.get_close_matches(written, known, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
        raise SettingError(f"unknown setting {written!r}; {hint}")
    return known[written]


def _value(default, key: str, text: str):
    """The text as a value of the default's type: texts need no quotes."""
    if isinstance(getattr(default, key), str):
        return text
    try:
        return _checked(
            default,
            key,
            ast.literal_eval(text.strip().capitalize() if text.strip() in ("true", "false") else text.strip()),
        )
    except SettingError:
        raise
    except LITERAL_ERRORS:
        raise SettingError(f"{key} must be {_kind(default, key)}, not {text!r}") from None


def _checked(default, key: str, value):
    wanted = type(getattr(default, key))
    if wanted is float and type(value) is int:
        value = float(value)
    if type(value) is not wanted or (wanted is float and not math.isfinite(value)):
        raise SettingError(f"{key} must be {_kind(default, key)}, not {value!r}")
    return value


def _kind(default, key: str) -> str:
    names = {bool: "True or False", int: "a whole number", float: "a number", str: "a text"}
    return f"{names[type(getattr(default, key))]} like {getattr(default, key)!r}"


def _read_file(default, path: Path) -> dict:
    try:
        lines = ast.parse(path.read_text(encoding="utf-8-sig")).body
    except OSError:
        raise SettingError(f"no settings file {str(path)!r}; settings are written --key=value") from None
    except (SyntaxError, ValueError) as error:
        raise SettingError(f"{path} line {getattr(error, 'lineno', '?')}: not a `name = value` line") from None
    values = {}
    for line in lines:
        if isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant):  # a text that explains the file
            continue
        if not isinstance(line, ast.Assign) or len(line.targets) != 1 or not isinstance(line.targets[0], ast.Name):
            raise SettingError(f"{path} line {line.lineno}: not a `name = value` line")
        key = line.targets[0].id
        try:
            key = _key(default, _written(key))
            values[key] = _checked(default, key, ast.literal_eval(line.value))
        except SettingError as error:
            raise SettingError(f"{path} line {line.lineno}: {error}") from None
        except LITERAL_ERRORS:
            reason = f"{key} must be a plain value; nothing is computed in a settings file"
            raise SettingError(f"{path} line {line.lineno}: {reason}") from None
    return values
