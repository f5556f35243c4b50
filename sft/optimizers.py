"""Optimizers and the learning-rate schedule, shared by base and preference training."""

import torch
from torch.optim.lr_scheduler import LambdaLR

from model import GPT

OPTIMIZERS = ("adamw", "muon")


def make_optimizers(
    model: GPT, kind: str, lr: float, muon_lr: float = 0.0, weight_decay: float = 0.0
) -> list[torch.optim.Optimizer]:
    """`adamw` for everything, or `muon` for the matrices inside the blocks and AdamW for the rest.

    Muon (Jordan et al. 2024) takes matrices only. Embeddings, the tied head and the gains go to
    AdamW with `lr`, without weight decay.
    """
    if kind == "adamw":
        return [
            torch.optim.AdamW(
                model.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=weight_decay, fused=True
            )
        ]
    if kind != "muon":
        raise ValueError(f"optimizer is {kind!r}; it must be 'adamw' or 'muon'")
    matrices = [p for p in model.transformer.h.parameters() if p.dim() == 2]
    inside = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in inside]
    return [
        torch.optim.Muon(matrices, lr=muon_lr, momentum=0.95, weight_decay=weight_decay),
        torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]


def make_schedulers(optimizers: list[torch.optim.Optimizer], steps: int) -> list[LambdaLR]:
    """Linear warm-up, constant until half-way, then linear to zero.

    To be stepped once after every step of its optimizer.
    """
    warmup = min(10, max(1, steps // 4))

    def share(step: int) -> float:
        return max(0.0, min(1.0, (step + 1) / warmup, 2 * (steps - step) / steps))

    return [LambdaLR(optimizer, share) for optimizer in optimizers]
