"""Evals while a run goes on: greedy answers to the same questions, and the KL to the reference.

The held-out families that are asked are those of validation: what is seen on the way may decide how
to train, so it is not what is reported.
"""

import math
import random
from dataclasses import dataclass

import torch

from dpo.data.pair import Pair
from dpo.evaluation.kl import kl_to_reference
from dpo.evaluation.replies import answer_questions, sample_facts
from model import GPT
from sft.generation import greedy_matches
from sft.tokenizer import Tokenizer

MOST_TRAINED = 8  # pairs that are asked
KL_QUESTIONS = 8  # a drawn answer costs far more time than a greedy one


@dataclass
class Monitor:
    """Evaluates a policy with the same questions every time, chosen by `seed`.

    n questions of validation, half of them additive as long as there are products, and MOST_TRAINED
    of the pairs, or n or all if those are fewer. The KL is that of answers to KL_QUESTIONS of
    validation at most.
    """

    reference: GPT
    tokenizer: Tokenizer
    pairs: list[Pair]
    n: int
    seed: int

    def __post_init__(self):
        half = self.n // 2
        self.validation = sample_facts("validation/additive", self.n - half, self.seed)
        self.validation += sample_facts("validation/multiplicative", half, self.seed)
        few = min(self.n, MOST_TRAINED, len(self.pairs))
        self.trained = random.Random(self.seed).sample(self.pairs, few)

    def evaluate(self, policy: GPT) -> dict[str, float]:
        """Shares of greedy answers, and the KL to the reference in nats an answer.

        `exact/held_out`: right, number and reason, of validation, also of each kind alone;
        `exact/trained`: the chosen answer of its pair, letter by letter.
        """
        replies = answer_questions(policy, self.tokenizer, self.validation)
        right = {"additive": [], "multiplicative": []}
        for reply in replies:
            kind = "additive" if reply.question.additive else "multiplicative"
            right[kind].append(reply.outcome == "right")
        shares = {f"exact/held_out/{kind}": sum(hits) / len(hits) for kind, hits in right.items()}
        prompts = [pair.prompt for pair in self.trained]
        chosen = [pair.chosen for pair in self.trained]
        trained = greedy_matches(policy, self.tokenizer, prompts, chosen)
        generator = torch.Generator().manual_seed(self.seed)
        asked = [question.text for question in self.validation[:: math.ceil(self.n / KL_QUESTIONS)]]
        return {
            "exact/held_out": sum(reply.outcome == "right" for reply in replies) / len(replies),
            **shares,
            "exact/trained": sum(trained) / len(trained),
            "kl": kl_to_reference(policy, self.reference, self.tokenizer, asked, generator),
        }
