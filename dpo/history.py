"""What a run records: a number per step and metric, and now and then a look at what the loss does not show."""

import random
from dataclasses import dataclass, field

import torch

from dpo.arithmetic import parse_question
from dpo.evaluate import answer_questions, sample_questions
from dpo.pairs import Pair
from model import GPT
from sft.answers import MAX_NEW_TOKENS, PASS_ROWS, answer_prompts
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

    def __getitem__(self, name: str) -> list[float]:
        return self.steps[name]

    def __len__(self) -> int:
        return len(self.steps.get("loss", []))


def _append(columns: dict[str, list[float]], values: dict[str, float]) -> None:
    for name, value in values.items():
        columns.setdefault(name, []).append(value)


@dataclass
class Observer:
    """Looks at a policy with the same questions every time, chosen by `seed`.

    n held-out questions, half of them additive, and up to n questions that the pairs train.
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
        trained = list({question: None for pair in self.pairs if (question := parse_question(pair.prompt))})
        self.trained = random.Random(self.seed).sample(trained, min(self.n, len(trained)))

    def look(self, policy: GPT) -> dict[str, float]:
        """Exact match (greedy) on held-out and on trained questions, and the KL to the reference, in nats an answer."""
        replies = answer_questions(policy, self.tokenizer, self.held_out + self.trained)
        right = [reply.outcome == "right" for reply in replies]
        held_out, trained = right[: len(self.held_out)], right[len(self.held_out) :]
        generator = torch.Generator().manual_seed(self.seed)
        prompts = [question.text for question in self.held_out]
        return {
            "exact/held_out": sum(held_out) / len(held_out),
            "exact/trained": sum(trained) / len(trained) if trained else float("nan"),
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
    texts = [a if a.endswith(".") or len(a) == MAX_NEW_TOKENS else f"{a}\n" for a in answers]  # all that was drawn
    rows = [Row(tokenizer.encode(p), tokenizer.encode(t)) for p, t in zip(prompts, texts, strict=True)]
    total = 0.0
    for start in range(0, len(rows), PASS_ROWS):
        batch = collate(rows[start : start + PASS_ROWS], next(policy.parameters()).device)
        policy_logps, reference_logps = (
            model(batch.inputs, full_seq=True)[0].float().log_softmax(dim=-1) for model in (policy, reference)
        )
        kl = (policy_logps.exp() * (policy_logps - reference_logps)).sum(dim=-1)  # (B, T)
        total += (kl * batch.completion_mask).sum().item()
    return total / len(rows)
