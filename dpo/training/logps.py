"""Log-probabilities of a pair's two answers: the policy's at every step, the reference's once."""

import torch
from torch import Tensor

from dpo.data.batches import MICRO_BATCH, PackedPairs, TokenizedPair, pack_pairs, packed_length
from dpo.loss import sequence_logps
from model import GPT
from sft.device import explain_out_of_memory
from sft.progress import Bar


def pair_logits(model: GPT, pairs: PackedPairs) -> tuple[Tensor, Tensor]:
    """Logits (B, C, vocab_size) for the targets of chosen and rejected, from one forward pass."""
    hidden = model.hidden_states(  # (B, T, n_embd)
        pairs.inputs, pairs.position_ids, attention_mask=pairs.attention_mask
    )
    with torch.autocast(hidden.device.type, enabled=False):  # logits in float32 at any precision
        logits = model.lm_head(hidden.float())  # (B, T, vocab_size)
    chosen, rejected = (
        # Each text reads its logits where its ids stand in the packed row.
        logits.gather(1, answer.logit_positions[..., None].expand(-1, -1, logits.shape[2]))
        for answer in (pairs.chosen, pairs.rejected)
    )
    return chosen, rejected


def pair_logps(model: GPT, pairs: PackedPairs) -> tuple[Tensor, Tensor]:
    """log pi(y_w|x) and log pi(y_l|x) of each pair under the model, in nats, (B,) each."""
    chosen, rejected = (
        sequence_logps(logits, answer.targets, answer.completion_mask)
        for logits, answer in zip(
            pair_logits(model, pairs), (pairs.chosen, pairs.rejected), strict=True
        )
    )
    return chosen, rejected


@torch.no_grad()
def compute_reference_logps(
    reference: GPT,
    pairs: list[TokenizedPair],
    batch_size: int = MICRO_BATCH,
    progress: str = "",
    shard: tuple[int, int] = (0, 1),
) -> Tensor:
    """log pi_ref of every chosen and rejected answer, (N, 2): once, as the reference never changes.

    With `shard` (r, n), of those that fall to process r of n, and 0 elsewhere: the sum over all
    processes is complete. ValueError for ids that the model does not have.
    """
    _check_ids(reference, pairs)
    device = reference.lm_head.weight.device
    order = sorted(range(len(pairs)), key=lambda i: packed_length(pairs[i]))[shard[0] :: shard[1]]
    logps = torch.zeros(len(pairs), 2)
    with Bar(len(order), progress, "pair") as bar:
        for start in range(0, len(order), batch_size):
            indices = order[start : start + batch_size]
            with explain_out_of_memory(len(indices)):
                packed = pack_pairs([pairs[i] for i in indices], device)
                logps[indices] = torch.stack(pair_logps(reference, packed), dim=1).cpu()
            bar.update(len(indices))
    return logps


def _check_ids(model: GPT, pairs: list[TokenizedPair]) -> None:
    """ValueError for an id that the model does not have.

    Asked before any id reaches a device: on CUDA such an id ends the whole process.
    """
    texts = [text for pair in pairs for text in (pair.chosen, pair.rejected)]
    largest = max((max(text.prompt + text.completion) for text in texts), default=0)
    if largest >= model.config.vocab_size:
        raise ValueError(
            f"id {largest} is not among the model's {model.config.vocab_size} characters; "
            "use the vocabulary that belongs to it"
        )
