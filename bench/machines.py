"""How far machines differ: `python -m bench.machines`.

The default run of `dpo.train`, as it comes, with another number of threads, without the
instructions of newer processors, and with products in bfloat16: each in a process of its own. Then
all models are asked the same questions in the same way. (Where torch has no fast bfloat16, that run
takes minutes.)
"""

import os
import subprocess
import sys

import torch

from bench.results import Measurement, print_result
from dpo.compare import read_run
from dpo.evaluation.replies import answer_questions, sample_questions
from dpo.evaluation.tables import markdown
from sft.checkpoint.weights import load_model

OLD = {  # what torch, MKL and oneDNN may use
    "ATEN_CPU_CAPABILITY": "default",
    "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
}
GROUPS = {"additive": 300, "multiplicative": 360}  # held-out questions
SEED = 1


def ways() -> dict[str, tuple[dict[str, str], list[str]]]:
    """Variables of the environment, and settings, of every run; the first is the usual one."""
    threads = 2 if torch.get_num_threads() == 1 else 1
    return {
        f"as it comes, {torch.get_num_threads()} threads": ({}, []),
        f"threads: {threads}": ({"OMP_NUM_THREADS": str(threads)}, []),
        "without AVX and AVX2": (OLD, []),
        "products in bfloat16": ({}, ["--precision=bfloat16"]),
    }


def train(name: str, variables: dict[str, str], words: list[str]) -> str:
    """The folder of the default run, made in a process with these variables and settings."""
    out = f"runs/machines/{name.replace(' ', '_').replace(':', '').replace(',', '')}"
    settings = ["--eval_every=0", "--quiet", f"--out={out}", *words]
    program = [sys.executable, "-m", "dpo.train", *settings]
    subprocess.run(program, env=os.environ | variables, check=True)
    return out


def measure() -> dict[str, dict]:
    """Of every run: its last loss, how far weights and answers are from the first run's."""
    questions = {name: sample_questions(f"held_out/{name}", n, SEED) for name, n in GROUPS.items()}
    asked = [question for members in questions.values() for question in members]
    results, first_weights, first_texts = {}, None, None
    for name, (variables, words) in ways().items():
        out = train(name, variables, words)
        model, tokenizer = load_model(f"{out}/dpo.pt")
        weights = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
        replies = answer_questions(model, tokenizer, asked)
        texts = [reply.text for reply in replies]
        first_weights = weights if first_weights is None else first_weights
        first_texts = first_texts or texts
        additive = len(questions["additive"])
        results[name] = {
            "last_loss": read_run(f"{out}/dpo.pt").history["loss/preference"][-1],
            "weights": (weights - first_weights).abs().max().item(),
            "differ": sum(text != first for text, first in zip(texts, first_texts, strict=True)),
            "n": len(asked),
            "right": {
                "additive": sum(r.outcome == "right" for r in replies[:additive]),
                "multiplicative": sum(r.outcome == "right" for r in replies[additive:]),
            },
        }
    return results


def render(values: dict[str, dict]) -> dict[str, str]:
    n = next(iter(values.values()))["n"]
    heads = [f"held-out {name} right, of {most}" for name, most in GROUPS.items()]
    compared = ["largest difference of a weight", f"other answers, of {n:,}"]
    rows = [["run", "last loss", *heads, *compared]]
    for name, result in values.items():
        right = [str(count) for count in result["right"].values()]
        apart = [f"{result['weights']:.1e}", str(result["differ"])]
        rows.append([name, f"{result['last_loss']:.6f}", *right, *apart])
    return {"table": markdown(rows)}


MEASUREMENT = Measurement("machines", "python -m bench.machines", measure, render, 4)

if __name__ == "__main__":
    print_result(MEASUREMENT)
