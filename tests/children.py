"""Runs a function or a command of this project in a child process, and tells what became of it.

The children are forks of one server that has everything loaded, so that each costs hundredths of a
second. Those of `in_child` have a memory limit and an alarm.
"""

import io
import multiprocessing
import os
import resource
import runpy
import signal
import sys
from dataclasses import dataclass
from functools import cache
from multiprocessing import forkserver
from pathlib import Path
from unittest.mock import patch

ROOT = Path(__file__).parents[1]
_context = multiprocessing.get_context("forkserver")  # its server has no threads that a fork breaks

MEMORY = 4 * 2**30  # bytes of address space beyond what the child starts with
SECONDS = 60


@cache
def start_server() -> None:
    """With `preloaded.py` in memory; of itself it does not know where modules lie."""
    _context.set_forkserver_preload(["preloaded"])
    with patch.dict(os.environ, {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}):
        forkserver.ensure_running()


@dataclass
class Outcome:
    exit_code: int  # negative: the signal that ended the child
    value: object = None  # what the function returned
    error: str = ""  # name of what it raised
    message: str = ""
    grown: int = 0  # bytes by which the peak of resident memory rose

    def __post_init__(self):
        self.raised = bool(self.error)


def in_child(function, *arguments, seconds: int = SECONDS) -> Outcome:
    """The outcome of the call in a fresh process; torch uses one thread there."""
    return outcome_of(start_child(function, *arguments, seconds=seconds))


def start_child(function, *arguments, seconds: int = SECONDS) -> multiprocessing.Process:
    """The same without waiting."""
    start_server()
    receiver, sender = _context.Pipe(duplex=False)
    process = _context.Process(target=_run, args=(sender, seconds, function, arguments))
    process.start()
    sender.close()
    process.receiver = receiver  # open as long as the child may speak
    return process


def outcome_of(process: multiprocessing.Process) -> Outcome:
    """Wait for a child; what became of it."""
    try:
        told = process.receiver.recv()
    except EOFError:
        told = {}
    process.join()
    return Outcome(process.exitcode, **told)


def _run(sender, seconds: int, function, arguments: tuple) -> None:
    import torch

    torch.set_num_threads(1)
    signal.alarm(seconds)
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    told = {}
    try:
        told["value"] = function(*arguments)
    except BaseException as error:
        told |= {"error": type(error).__name__, "message": str(error)}
    told["grown"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    sender.send(told)
    os._exit(0)


class Program:
    """A child without limits, in the root of the repository, that is waited for later."""

    def __init__(self, folder: Path, function, *arguments):
        """What it prints goes into two files in `folder`."""
        start_server()
        folder.mkdir(exist_ok=True)
        self._paths = [folder / "stdout", folder / "stderr"]
        given = (self._paths, function, arguments)
        self.process = _context.Process(target=_run_program, args=given)
        self.process.start()
        self.pid = self.process.pid

    def wait(self, seconds: int = SECONDS) -> tuple[int, str, str]:
        """Exit code, and what was printed and said as errors, once it has ended."""
        self.process.join(seconds)
        assert self.process.exitcode is not None, "the program does not end"
        return self.process.exitcode, *(path.read_text(encoding="utf-8") for path in self._paths)


def start_module(folder: Path, module: str, *words: str) -> Program:
    """`python -m MODULE WORDS`, without the seconds that Python and torch need to start."""
    return Program(folder, be_module, module, *words)


def run_module(folder: Path, module: str, *words: str) -> tuple[int, str, str]:
    return start_module(folder, module, *words).wait()


def be_module(module: str, *words: str) -> None:
    sys.argv = [module, *words]
    sys.modules.pop(module, None)  # or runpy says that it is there already
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _run_program(paths: list[Path], function, arguments: tuple) -> None:
    import torch

    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, path in enumerate(paths, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(io.FileIO(number, "w"), encoding="utf-8", line_buffering=True)
        for number in (1, 2)
    )
    os.chdir(ROOT)
    function(*arguments)
