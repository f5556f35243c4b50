"""Settings from the command line, over a flat dataclass: `python -m dpo.train settings.py --beta=0.2 --epochs=3`.

A settings file holds `name = value` lines with literal values; nothing in it is executed. Later words win.
Nothing is read from the process by itself, so importing this file in a notebook is safe.
"""

import ast
import difflib
import inspect
import math
import re
import sys
from dataclasses import fields, replace
from pathlib import Path

# what ast.literal_eval raises for something that is no plain value, and float() for a number beyond all floats
LITERAL_ERRORS = (ValueError, SyntaxError, TypeError, OverflowError, MemoryError, RecursionError)


class SettingError(ValueError):
    """A word of the command line, or a line of a settings file, that cannot be used."""


def configure(default, arguments: list[str]):
    """The settings after `arguments` (`sys.argv[1:]` in a script); exits after `--help` or one sentence of error."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # a terminal that lacks a character never ends a program
    if {"-h", "--help"} & set(arguments):
        print(help_text(default))
        sys.exit(0)
    try:
        return override(default, arguments)
    except SettingError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def override(default, arguments: list[str]):
    """A copy of the dataclass `default` with `--key=value`, bare `--flag` and settings files applied in order."""
    values = {}
    for word in arguments:
        if not word.startswith("--"):
            values |= _read_file(default, Path(word))
            continue
        key, equals, text = word[2:].partition("=")
        _check_key(default, key)
        if equals:
            values[key] = _value(default, key, text)
        elif isinstance(getattr(default, key), bool):
            values[key] = True
        else:
            raise SettingError(f"--{key} needs a value: --{key}={getattr(default, key)}")
    return replace(default, **values)


def help_text(default) -> str:
    """Every key with its default and the comment that stands behind it in the source."""
    cls = type(default)
    comments = dict(re.findall(r"^ +(\w+): .*?# (.*)$", inspect.getsource(cls), re.MULTILINE))
    lines = [
        f"  --{f'{field.name}={getattr(default, field.name)}':32} {comments.get(field.name, '')}"
        for field in fields(cls)
    ]
    return "\n".join([(inspect.getdoc(cls) or "").strip(), "", "settings (with their defaults):", *lines])


def _check_key(default, key: str) -> None:
    known = [field.name for field in fields(default)]
    if key not in known:
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
        raise SettingError(
            f"unknown setting {key!r}; " + (f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}")
        )


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
            _check_key(default, key)
            values[key] = _checked(default, key, ast.literal_eval(line.value))
        except SettingError as error:
            raise SettingError(f"{path} line {line.lineno}: {error}") from None
        except LITERAL_ERRORS:
            reason = f"{key} must be a plain value; nothing is computed in a settings file"
            raise SettingError(f"{path} line {line.lineno}: {reason}") from None
    return values
