"""Evals while a run goes on: greedy answers to the same questions, and the KL to the reference."""

import random
from dataclasses import dataclass

import torch

from dpo.data.pair import Pair
from dpo.evaluation.replies import answer_questions, sample_questions
from model import GPT
from sft.generation import PASS_ROWS, generate_answers, greedy_matches, with_end_mark
from sft.sequences import Sequence, collate_sequences
from sft.tokenizer import Tokenizer


@dataclass
class Monitor:
    """Evaluates a policy with the same questions every time, chosen by `seed`.

    n held-out questions, half of them additive as long as there are products, and n of the pairs.
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

    def evaluate(self, policy: GPT) -> dict[str, float]:
        """Shares of greedy answers, and the KL to the reference in nats an answer.

        `exact/held_out`: right, number and reason, also of each kind alone; `exact/trained`: the
        chosen answer of its pair, letter by letter.
        """
        replies = answer_questions(policy, self.tokenizer, self.held_out)
        right = {"additive": [], "multiplicative": []}
        for reply in replies:
            kind = "additive" if reply.question.additive else "multiplicative"
            right[kind].append(reply.outcome == "right")
        shares = {f"exact/held_out/{kind}": sum(hits) / len(hits) for kind, hits in right.items()}
        prompts = [pair.prompt for pair in self.trained]
        chosen = [pair.chosen for pair in self.trained]
        trained = greedy_matches(policy, self.tokenizer, prompts, chosen)
        generator = torch.Generator().manual_seed(self.seed)
        asked = [question.text for question in self.held_out]
        return {
            "exact/held_out": sum(reply.outcome == "right" for reply in replies) / len(replies),
            **shares,
            "exact/trained": sum(trained) / len(trained),
            "kl": kl_to_reference(policy, self.reference, self.tokenizer, asked, generator),
        }


@torch.no_grad()
def kl_to_reference(
    policy: GPT,
    reference: GPT,
    tokenizer: Tokenizer,
    prompts: list[str],
    generator: torch.Generator | None = None,
) -> float:
    """KL(policy || reference) of an answer, in nats: a mean over one answer drawn to each prompt.

    The policy draws. At each character the two distributions of the next character are compared in
    full: that varies less than the log-ratio of what was drawn, and is never negative.
    """
    answers = generate_answers(policy, tokenizer, prompts, temperature=1.0, generator=generator)
    drawn = [
        Sequence(tokenizer.encode(prompt), tokenizer.encode(with_end_mark(answer)))
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    total = 0.0
    for start in range(0, len(drawn), PASS_ROWS):
        batch = collate_sequences(drawn[start : start + PASS_ROWS], policy.lm_head.weight.device)
        policy_logps, reference_logps = (  # (B, T, vocab_size) each
            model(batch.inputs, full_seq=True)[0].float().log_softmax(dim=-1)
            for model in (policy, reference)
        )
        # KL of one next character: sum over v of pi(v) * (log pi(v) - log pi_ref(v)).
        kl = (policy_logps.exp() * (policy_logps - reference_logps)).sum(dim=-1)  # (B, T)
        total += (kl * batch.completion_mask).sum().item()
    return total / len(drawn)
