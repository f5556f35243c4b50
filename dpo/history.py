"""What a run records: a number per step and metric, and now and then a look at what the loss does not show."""

import random
from dataclasses import dataclass, field

import torch

from dpo.evaluate import answer_questions, sample_questions
from dpo.pairs import Pair
from model import GPT
from sft.answers import PASS_ROWS, answer_prompts, as_drawn, gives
from sft.rows import Row, collate
from sft.tokenizer import Tokenizer


@dataclass
class History:
    """`steps` holds a number per step and metric, `looks` one per look: its step, exact matches and the KL."""

    steps: dict[str, list[float]] = field(default_factory=dict)
    looks: dict[str, list[float]] = field(default_factory=dict)

    def append(self, metrics: dict[str, float]) -> None:
        _append(self.steps, metrics)

    def append_look(self, look: dict[str, float]) -> None:
        """Record a look at the policy after the steps so far."""
        _append(self.looks, {"step": len(self), **look})

    def state_dict(self) -> dict[str, dict[str, list[float]]]:
        return {"steps": self.steps, "looks": self.looks}

    def load_state_dict(self, state: dict[str, dict[str, list[float]]]) -> None:
        """ValueError, and nothing changed, unless both are columns of numbers, each table's of one length."""
        tables = [state.get(name) if isinstance(state, dict) else None for name in ("steps", "looks")]
        if not all(map(_is_table, tables)):
            raise ValueError("the history in the saved state is not readable; start afresh without resume")
        self.steps, self.looks = tables

    def after(self, step: int) -> dict[str, float]:
        """All that was recorded after so many steps: the metrics of the last one, and the look, if there was one."""
        values = {"step": step}
        if step:
            values |= {name: column[step - 1] for name, column in self.steps.items()}
        if step in self.looks.get("step", []):
            at = self.looks["step"].index(step)
            values |= {name: column[at] for name, column in self.looks.items()}
        return values

    def __getitem__(self, name: str) -> list[float]:
        return self.steps[name]

    def __len__(self) -> int:
        return len(self.steps.get("loss", []))


def _append(columns: dict[str, list[float]], values: dict[str, float]) -> None:
    for name, value in values.items():
        columns.setdefault(name, []).append(value)


def _is_table(table: object) -> bool:
    columns = list(table.values()) if isinstance(table, dict) else [None]
    lists = all(isinstance(column, list) and all(isinstance(x, int | float) for x in column) for column in columns)
    return lists and len({len(column) for column in columns}) <= 1


@dataclass
class Observer:
    """Looks at a policy with the same questions every time, chosen by `seed`.

    n held-out questions, half of them additive as long as there are products, and n of the pairs at most.
    """

    reference: GPT
    tokenizer: Tokenizer
    pairs: list[Pair]
    n: int
    seed: int

    def __post_init__(self):
        half = self.n // 2
        self.held_out = sample_questions("held_out/additive", self.n - half, self.seed)
        self.held_out += sample_questions("held_out/multiplicative", half, self.seed)
        self.trained = random.Random(self.seed).sample(self.pairs, min(self.n, len(self.pairs)))

    def look(self, policy: GPT) -> dict[str, float]:
        """Shares of greedy answers, and the KL to the reference in nats an answer.

        `exact/held_out`: right, number and reason, also of each kind alone; `exact/trained`: the chosen answer of its
        pair, letter by letter.
        """
        replies = answer_questions(policy, self.tokenizer, self.held_out)
        right = {"additive": [], "multiplicative": []}
        for reply in replies:
            right["additive" if reply.question.additive else "multiplicative"].append(reply.outcome == "right")
        chosen = [pair.chosen for pair in self.trained]
        trained = gives(policy, self.tokenizer, [pair.prompt for pair in self.trained], chosen)
        generator = torch.Generator().manual_seed(self.seed)
        prompts = [question.text for question in self.held_out]
        return {
            "exact/held_out": sum(reply.outcome == "right" for reply in replies) / len(replies),
            **{f"exact/held_out/{group}": sum(members) / len(members) for group, members in right.items()},
            "exact/trained": sum(trained) / len(trained),
            "kl": kl_to_reference(policy, self.reference, self.tokenizer, prompts, generator),
        }


@torch.no_grad()
def kl_to_reference(
    policy: GPT, reference: GPT, tokenizer: Tokenizer, prompts: list[str], generator: torch.Generator | None = None
) -> float:
    """KL(policy || reference) of an answer, in nats: the mean over one answer per prompt, drawn from the policy.

    At every character of a drawn answer the two next-character distributions are compared in full, which varies less
    than the log-ratio of what was drawn, and is never negative.
    """
    answers = answer_prompts(policy, tokenizer, prompts, temperature=1.0, generator=generator)
    rows = [Row(tokenizer.encode(p), tokenizer.encode(as_drawn(a))) for p, a in zip(prompts, answers, strict=True)]
    total = 0.0
    for start in range(0, len(rows), PASS_ROWS):
        batch = collate(rows[start : start + PASS_ROWS], next(policy.parameters()).device)
        policy_logps, reference_logps = (
            model(batch.inputs, full_seq=True)[0].float().log_softmax(dim=-1) for model in (policy, reference)
        )
        kl = (policy_logps.exp() * (policy_logps - reference_logps)).sum(dim=-1)  # (B, T)
        total += (kl * batch.completion_mask).sum().item()
    return total / len(rows)
