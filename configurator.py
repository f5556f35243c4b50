"""Settings from the command line: `python -m dpo.train settings.py --beta=0.2 --epochs=3`.

The settings of a program, with their defaults, are the fields of a dataclass. A settings file holds
lines `name = value` with plain values; nothing in it is executed. Where a setting is given twice,
the later word wins. If the dataclass has a tuple, words without `--` go into it and are no settings
files. A field `from_` is written `--from`, since `from` is a word of Python's. A text that
begins with `~/` is a path below the user's home: no shell sees to that in `--out=~/run`.

Importing this file does nothing: the command line is read only when a program asks for it.
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

LISTEN = 10.0  # seconds that the other processes of a machine leave the first one to speak
# Raised by ast.literal_eval for anything but a plain value, and by float() for too large a number.
LITERAL_ERRORS = (ValueError, SyntaxError, TypeError, OverflowError, MemoryError, RecursionError)


class SettingError(ValueError):
    """A word of the command line, or a line of a settings file, that cannot be used."""


def run_program(program: Callable, default) -> None:
    """Call `program` with the settings of the command line, and exit if it fails.

    Exit codes: 0 if all went well; 1 after an error, which is one sentence on standard error; 2 for
    a setting that is unknown or of the wrong kind; 130 after Ctrl-C, as a shell reports it.
    """
    try:
        program(configure(default, sys.argv[1:]))
        sys.stdout.flush()  # so that a reader who has gone is noticed here
    except BrokenPipeError:  # `| head` has seen enough: the rest goes nowhere, without a traceback
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except SettingError as error:
        _leave(error, 2)
    except (ValueError, OSError, FloatingPointError, MemoryError) as error:
        _leave(error, 1)
    except KeyboardInterrupt:
        sys.exit(130)


def _leave(error: Exception, code: int) -> None:
    """Say what is wrong and exit; of several processes on a machine, the first one says it for all.

    A ValueError, as settings and files raise it, is the same in all processes. Another error may
    be one process's own, which therefore speaks for itself.
    """
    if isinstance(error, ValueError) and os.environ.get("LOCAL_RANK", "0") != "0":
        time.sleep(LISTEN)  # torchrun ends all as soon as one ends: let the first one speak
    else:
        print(f"error: {error}", file=sys.stderr)
    sys.exit(code)


def configure(default, arguments: list[str]):
    """The settings after `arguments` (`sys.argv[1:]` in a script); exits after `--help`."""
    for stream in (sys.stdout, sys.stderr):
        # A character that the terminal cannot show is printed as its code and stops no program.
        stream.reconfigure(errors="backslashreplace")
    if "#" in arguments:  # a comment behind a command: the shell of Windows hands it on
        arguments = arguments[: arguments.index("#")]
    if {"-h", "--help"} & set(arguments):
        print(help_text(default), flush=True)
        sys.exit(0)
    return override(default, arguments)


def override(default, arguments: list[str]):
    """A copy of the dataclass `default`, changed by each of the arguments in turn.

    An argument is `--key=value`, a bare `--flag` or the name of a settings file.
    """
    values, words = {}, tuple(word for word in arguments if not word.startswith("--"))
    names = [field.name for field in fields(default)]
    tuples = [name for name in names if isinstance(getattr(default, name), tuple)]
    if tuples and words:  # then a word is no settings file, but an entry of the tuple
        values[tuples[0]] = words
    for word in arguments:
        if word in words:
            values |= {} if tuples else _read_file(default, Path(_from_home(word)))
            continue
        written, equals, text = word[2:].partition("=")
        key = _key(default, written)
        if equals:
            values[key] = _value(default, key, text)
        elif isinstance(getattr(default, key), bool):
            values[key] = True
        else:
            raise SettingError(f"--{written} needs a value: --{written}={getattr(default, key)}")
    return replace(default, **{key: _from_home(value) for key, value in values.items()})


def _from_home(value):
    """The value, and of a text that begins with `~/` or is `~`, or of a tuple of such, the path."""
    if isinstance(value, tuple):
        return tuple(map(_from_home, value))
    is_path = isinstance(value, str) and re.match(r"~([/\\]|$)", value)
    return os.path.expanduser(value) if is_path else value


def help_text(default) -> str:
    """Every key with its default and the comment that stands behind it, on the same line."""
    cls = type(default)
    # Fields may be inherited. Parents come first, so that a child's own comment wins.
    source = "".join(inspect.getsource(parent) for parent in reversed(cls.__mro__[:-1]))
    comments = dict(re.findall(r"^ +(\w+): .*?# (.*)$", source, re.MULTILINE))
    words, settings = [], []
    for field in fields(cls):
        value = getattr(default, field.name)
        if isinstance(value, tuple):
            name, given = f"{field.name.upper()} ...", " ".join(value)
            words.append(f"  {name:34} {comments[field.name]}; default: {given}")
        else:
            settings.append(f"  --{f'{_written(field.name)}={value}':32} {comments[field.name]}")
    parts = [
        (inspect.getdoc(cls) or "").strip(),
        "",
        *words,
        "settings (with their defaults):",
        *settings,
    ]
    return "\n".join(parts)


def _written(name: str) -> str:
    """The name of a field on the command line: `from_` is written `from`."""
    return name.removesuffix("_")


def _key(default, written: str) -> str:
    """The field that is meant by `--written`; a tuple cannot be given in this way."""
    names = [
        field.name
        for field in fields(default)
        if not isinstance(getattr(default, field.name), tuple)
    ]
    known = {_written(name): name for name in names}
    if written not in known:
        near = difflib.get_close_matches(written, known, n=1, cutoff=0.6)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
        raise SettingError(f"unknown setting {written!r}; {hint}")
    return known[written]


def _value(default, key: str, text: str):
    """The text of `--key=text` as a value of the default's type."""
    if isinstance(getattr(default, key), str):
        return text  # needs no quotes on the command line
    literal = text.strip()
    if literal in ("true", "false"):  # as other tools write it
        literal = literal.capitalize()
    try:
        return _checked(default, key, ast.literal_eval(literal))
    except SettingError:  # is a ValueError, but says already what is wrong
        raise
    except LITERAL_ERRORS:
        raise SettingError(f"{key} must be {_kind(default, key)}, not {text!r}") from None


def _checked(default, key: str, value):
    """The value, if it is of the default's type and finite; `--beta=1` is a number, too."""
    wanted = type(getattr(default, key))
    # type() and not isinstance(): True is an int, too, and would pass for 1.
    if wanted is float and type(value) is int:
        value = float(value)
    if type(value) is not wanted or (wanted is float and not math.isfinite(value)):
        raise SettingError(f"{key} must be {_kind(default, key)}, not {value!r}")
    return value


def _kind(default, key: str) -> str:
    names = {bool: "True or False", int: "a whole number", float: "a number", str: "a text"}
    return f"{names[type(getattr(default, key))]} like {getattr(default, key)!r}"


def _read_file(default, path: Path) -> dict:
    """The settings in a file of `name = value` lines, which is parsed as Python and never run."""
    try:
        lines = ast.parse(path.read_text(encoding="utf-8-sig")).body
    except OSError:
        message = f"no settings file {str(path)!r}; settings are written --key=value"
        raise SettingError(message) from None
    except (SyntaxError, ValueError) as error:
        number = getattr(error, "lineno", None)
        if number is None:  # bytes that are no text, as Windows PowerShell's `>` writes them
            raise SettingError(f"{path} is no text in UTF-8; save it as UTF-8") from None
        raise SettingError(f"{path} line {number}: not a `name = value` line") from None
    values = {}
    for line in lines:
        if isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant):
            continue  # a text that explains the file
        targets = line.targets if isinstance(line, ast.Assign) else []
        if [type(target) for target in targets] != [ast.Name]:  # `a = b = 1`, `a, b = 1, 2`, ...
            raise SettingError(f"{path} line {line.lineno}: not a `name = value` line")
        key = targets[0].id
        try:
            key = _key(default, _written(key))
            values[key] = _checked(default, key, ast.literal_eval(line.value))
        except SettingError as error:
            raise SettingError(f"{path} line {line.lineno}: {error}") from None
        except LITERAL_ERRORS:
            reason = f"{key} must be a plain value; nothing is computed in a settings file"
            raise SettingError(f"{path} line {line.lineno}: {reason}") from None
    return values
