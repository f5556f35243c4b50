"""Optimizers and the learning-rate schedule, shared by base and preference training."""

import time
from collections.abc import Iterator
from functools import cache

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from model import GPT
from sft.device import in_parallel

OPTIMIZERS = ("adamw", "muon")


class Float32Muon(torch.optim.Muon):
    """`torch.optim.Muon` with matrix products in float32; settings, rule and state are the same.

    The original makes the updates orthogonal in bfloat16. A processor without bfloat16 products
    takes 16 s for a step of our model that way, and 1 s in this one. Matrices of one shape go
    together.
    """

    @torch.no_grad()
    def step(self, closure=None) -> None:
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault(parameter.shape, []).append(parameter)
            all_updates = self._updates(by_shape, group)
            for members, updates in zip(by_shape.values(), all_updates, strict=True):
                for parameter, update in zip(members, updates, strict=True):
                    rows, columns = parameter.shape
                    adjusted_lr = group["lr"] * max(1.0, rows / columns) ** 0.5
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.sub_(update, alpha=adjusted_lr)

    def _updates(self, by_shape: dict[torch.Size, list[Tensor]], group: dict) -> Iterator[Tensor]:
        """One tensor (N, rows, columns) per shape."""
        stacks = [
            torch.stack([self._momentum(p, group) for p in members])
            for members in by_shape.values()
        ]
        settings = group["ns_coefficients"], group["ns_steps"], group["eps"]
        return in_parallel(lambda stack: orthogonal(stack, *settings), stacks, stacks[0].device)

    def _momentum(self, parameter: Tensor, group: dict) -> Tensor:
        """The gradient with its Nesterov momentum; keeps the running mean."""
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        mean = state["momentum_buffer"].lerp_(parameter.grad, 1 - group["momentum"])
        return parameter.grad.lerp(mean, group["momentum"])


@torch.no_grad()
def orthogonal(
    matrices: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float
) -> Tensor:
    """Matrices (N, rows, columns) with their singular values brought near 1.

    By Newton-Schulz iterations (Jordan et al. 2024): X <- a X + (b A + c A A) X with A = X X^T.
    A matrix with more rows than columns is transposed first, so that A is small.
    """
    a, b, c = coefficients
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


@cache
def bfloat16_is_slow() -> bool:
    """Whether a CPU takes longer for a matrix product in bfloat16 than in float32: timed once."""
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        matrix = torch.ones(256, 256, dtype=dtype)
        float((matrix @ matrix)[0, 0])  # warm
        begun = time.perf_counter()
        float((matrix @ matrix @ matrix @ matrix)[0, 0])
        seconds[dtype] = time.perf_counter() - begun
    return seconds[torch.bfloat16] > seconds[torch.float32]


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
    # A GPU waits for each of the many small products of torch's own; ours go together.
    ours = not model.lm_head.weight.is_cpu or bfloat16_is_slow()
    muon = Float32Muon if ours else torch.optim.Muon
    return [
        muon(matrices, lr=muon_lr, momentum=0.95, weight_decay=weight_decay),
        torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]


def make_schedulers(
    optimizers: list[torch.optim.Optimizer], steps: int, decay: float = 0.5
) -> list[LambdaLR]:
    """Linear warm-up, then constant; in the last share `decay` of the steps linear to zero.

    To be stepped once after every step of its optimizer.
    """
    warmup = min(10, max(1, steps // 4))

    def share(step: int) -> float:
        return max(0.0, min(1.0, (step + 1) / warmup, (steps - step) / (decay * steps)))

    return [LambdaLR(optimizer, share) for optimizer in optimizers]
