"""How far a policy has moved from its reference: the KL divergence of its own answers."""

import torch

from model import GPT
from sft.generation import PASS_ROWS, generate_answers, with_end_mark
from sft.sequences import Sequence, collate_sequences
from sft.tokenizer import Tokenizer


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
