"""Runs a function in a child process with a memory limit and an alarm, and tells what became of it."""

import multiprocessing
import os
import resource
import signal
from dataclasses import dataclass

_context = multiprocessing.get_context("forkserver")  # its server has torch loaded, and no threads that a fork breaks
_context.set_forkserver_preload(["dpo.train", "sft.train", "torch._dynamo"])  # optimizers import the last one

MEMORY = 4 * 2**30  # bytes of address space beyond what the child starts with
SECONDS = 60


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
    receiver, sender = _context.Pipe(duplex=False)
    process = _context.Process(target=_run, args=(sender, seconds, function, arguments))
    process.start()
    sender.close()
    try:
        told = receiver.recv()
    except EOFError:
        told = {}
    process.join()
    return Outcome(process.exitcode, **told)


def start_child(function, *arguments) -> multiprocessing.Process:
    """The same without waiting."""
    receiver, sender = _context.Pipe(duplex=False)
    process = _context.Process(target=_run, args=(sender, SECONDS, function, arguments))
    process.start()
    process.receiver = receiver  # open as long as the child may speak
    return process


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
