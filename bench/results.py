"""A measurement and its result: every figure that the pages quote lies in bench/results/*.json.

A result holds raw numbers and what they were made of: base, pairs, the code that answers, machine,
commit. `python -m bench.everything` makes them all, `python -m bench.tables` writes them into the
pages. A measurement's program makes its own: `python -m bench.seeds`.
"""

import datetime
import json
import platform
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from dpo.train import Config
from dpo.training.provenance import ROOT, code_hash, file_hash
from sft.device import best_precision
from sft.files import write_json
from sft.progress import silenced

FOLDER = ROOT / "bench/results"
# What decides the numbers, and no more: with another word in any other file, results stay valid.
ANSWERING_CODE = [ROOT / "model.py", ROOT / "dpo/loss.py", ROOT / "sft/optimizers.py"]
ANSWERING_CODE += [ROOT / f"dpo/training/{name}.py" for name in ("logps", "step", "run")]
ANSWERING_CODE += [ROOT / f"dpo/data/{name}.py" for name in ("batches", "pair")]
ANSWERING_CODE += [ROOT / f"sft/{name}.py" for name in ("arithmetic", "grading", "generation")]
ANSWERING_CODE += [ROOT / f"sft/{name}.py" for name in ("sequences", "tokenizer", "unanswerable")]


@dataclass(frozen=True)
class Measurement:
    """Something that is measured, and how the pages show it."""

    name: str  # of its file, and of its texts in the pages
    command: str  # that a reader types
    measure: Callable[[], dict]  # raw numbers, as JSON has them
    render: Callable[[dict], dict[str, str]]  # of these numbers: tables and single figures by name
    minutes: float  # about, on two CPU cores with AVX2
    of_base: bool = True  # False: a speed or a size, which no base, pair or answer changes

    @property
    def path(self) -> Path:
        return FOLDER / f"{self.name}.json"

    @property
    def expected_seconds(self) -> float:
        """What it took last time, or will take about."""
        try:
            return self.read()["seconds"]
        except ValueError:
            return 60 * self.minutes

    def read(self) -> dict:
        """The result; ValueError if there is none, or the file is damaged."""
        try:
            return json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            reason = "is not there" if isinstance(error, OSError) else "cannot be read"
            raise ValueError(
                f"{self.path.name} {reason} in bench/results; `python -m bench.everything` makes it"
            ) from None

    def made_of(self) -> dict[str, str]:
        """Hashes of what decides the numbers today; none of a speed."""
        if not self.of_base:
            return {}
        files = {"base": file_hash(ROOT / Config.base), "pairs": file_hash(ROOT / Config.pairs)}
        return files | {"code": code_hash(ANSWERING_CODE)}

    def outdated(self) -> str:
        """Why the result does not count today, in words; empty if it does."""
        try:
            result = self.read()
        except ValueError as error:
            return str(error)
        differ = [
            f"{what} {result[what]}, today {now}"
            for what, now in self.made_of().items()
            if result[what] != now
        ]
        return f"{self.path.name} is of {'; '.join(differ)}" if differ else ""

    def texts(self) -> dict[str, str]:
        """What the pages can quote; `made` says in a line how it was measured."""
        result = self.read()
        return self.render(result["values"]) | {"made": describe(result)}

    def run(self) -> None:
        """Measure, printing nothing, and write the result."""
        started = time.perf_counter()
        with silenced():
            values = self.measure()
        seconds = round(time.perf_counter() - started, 1)
        about = {"command": self.command, "seconds": seconds, **circumstances()}
        write_json(self.path, about | self.made_of() | {"values": values})


def circumstances() -> dict:
    """Day, commit and machine."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    precision = best_precision(torch.device("cpu"))
    machine = {
        "cpu": models[0] if models else platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "amx": precision == "bfloat16",
        "threads": torch.get_num_threads(),
    }
    today = datetime.date.today().isoformat()
    versions = {"precision": precision, "torch": torch.__version__}
    about = {"date": today, "commit": describe_commit(), "seed": Config.seed}
    return about | {"machine": machine, **versions}


def describe_commit() -> str:
    """The commit that is checked out, with `-dirty` if code has changed since; "" if there is none.

    Results, figures, pages and notebooks do not count: a measurement writes them itself.
    """

    def git(*words: str) -> str:
        call = ["git", "-C", str(ROOT), *words]
        return subprocess.run(call, capture_output=True, text=True, check=False).stdout.strip()

    changed = git("status", "--porcelain", "--", "*.py", str(Config.base), str(Config.pairs))
    return git("describe", "--always") + ("-dirty" if changed else "")


def describe(result: dict) -> str:
    """How a result was made, in two lines of Markdown."""
    machine = result["machine"]
    instructions = f"{machine['instructions']}{' and AMX' if machine['amx'] else ''}"
    threads = f"{machine['threads']} thread{'s' * (machine['threads'] > 1)}"
    cores = f"{machine['cpu']}, {threads}, {instructions}"
    return (
        f"*`{result['command']}`, {result['date']}, {result['seconds']:,.0f} s on {cores},\n"
        f"{result['precision']}, torch {result['torch'].partition('+')[0]}, "
        f"commit {result['commit']}*"
    )


def print_result(measurement: Measurement) -> None:
    """What the program of a measurement does: measure, keep the result, print it."""
    print(f"{measurement.name}: about {measurement.expected_seconds / 60:.1f} minutes", flush=True)
    measurement.run()
    print("\n\n".join(measurement.texts().values()))
