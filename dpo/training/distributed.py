"""Several processes as one run: `torchrun --standalone --nproc_per_node=2 -m dpo.train`.

Every process holds the whole model and takes its part of every batch. After the backward pass the
gradients are averaged, so that all take the same step and their weights stay the same to the bit.
The main process alone evaluates, prints and writes.
"""

import hashlib
import importlib
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sft.device import best_device


@dataclass(frozen=True)
class World:
    """This process and how many there are. Alone, every method gives back what it is given."""

    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the process that evaluates, prints and writes."""
        return self.rank == 0

    @property
    def shard(self) -> tuple[int, int]:
        """This process's part of the pairs: (r, n) means those at r, r + n, r + 2n ..."""
        return self.rank, self.world_size

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, the same bits in each; ConnectionError if one is gone."""
        if self.world_size > 1:
            try:
                dist.all_reduce(tensor)
            except RuntimeError as error:
                reason = str(error).splitlines()[0][:200]
                raise ConnectionError(
                    f"another process of this run has probably ended ({reason}); see its message. "
                    "The same command with --resume goes on"
                ) from None
        return tensor

    def any_rank(self, flag: bool) -> bool:
        """Whether the flag is set in one process or more."""
        return bool(self.all_reduce(torch.tensor(float(flag), device=self._device)))

    def barrier(self) -> None:
        """Wait until all processes are here."""
        self.any_rank(False)

    def check_same_start(self, *facts: str | int) -> None:
        """ValueError in every process unless all of them have these facts in common."""
        own = int(hashlib.sha256(repr(facts).encode()).hexdigest()[:12], 16)  # 48 bits: a float64
        numbers = torch.zeros(self.world_size, dtype=torch.float64, device=self._device)
        numbers[self.rank] = own  # all others stay 0, so that the sum lists every process's number
        if any(number != own for number in self.all_reduce(numbers).tolist()):
            raise ValueError(
                "the processes do not start from the same place: every machine needs the same "
                "base, pairs, settings and --precision, and to go on also the first one's "
                "dpo.state.pt in its folder"
            )

    def average_gradients(
        self, model: nn.Module, metrics: dict[str, float], pairs: int
    ) -> dict[str, float]:
        """Replace each gradient by its mean over all pairs of the batch; the metrics' means.

        `pairs` is how many of them this process had: each process's means weigh as many pairs as it
        had. One without pairs (in a last batch of fewer pairs than processes) adds nothing.
        """
        if self.world_size == 1:
            return metrics
        # One flat vector: all gradients, a 1 and the metrics, times the number of pairs. Summed
        # over the processes, the 1 has become the size of the whole batch, by which the rest is
        # divided.
        names = sorted(metrics)
        parameters = [p for p in model.parameters() if p.requires_grad]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        numbers = torch.tensor([1.0, *(metrics[name] for name in names)], device=self._device)
        flat = torch.cat([*(gradient.flatten() for gradient in gradients), numbers])
        summed = self.all_reduce(pairs * flat)
        total, *sums = summed[-len(numbers) :].tolist()
        pieces = summed[: -len(numbers)].split([p.numel() for p in parameters])
        for parameter, piece in zip(parameters, pieces, strict=True):
            parameter.grad = (piece / total).view_as(parameter)
        return {name: value / total for name, value in zip(names, sums, strict=True)}

    @property
    def _device(self) -> torch.device:
        """Where numbers have to lie to be summed."""
        on_card = self.world_size > 1 and dist.get_backend() == "nccl"
        return torch.device("cuda", torch.cuda.current_device()) if on_card else torch.device("cpu")


ALONE = World()


@contextmanager
def process_group(device: torch.device) -> Iterator[World]:
    """The processes that torchrun has started, ready to talk to each other.

    Without torchrun, this process alone.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield World()
        return
    if device.type == "mps":
        raise ValueError("several processes need --device=cpu or cuda")
    if device.type == "cuda" and not dist.is_nccl_available():  # as on Windows
        raise ValueError("this PyTorch has no nccl for several processes on CUDA: use --device=cpu")
    if os.environ["LOCAL_WORLD_SIZE"] == os.environ["WORLD_SIZE"]:  # one machine: nothing leaves it
        loopback = next((name for _, name in socket.if_nameindex() if name in ("lo", "lo0")), None)
        if loopback:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)
            os.environ.setdefault("NCCL_SOCKET_IFNAME", loopback)
    # An optimizer imports torch.distributed.nn, whose functions hold the group of that moment as a
    # default argument. Imported after the group is made, they would keep its threads alive until
    # Python itself ends, and a thread may answer that with an abort. So it is imported before.
    importlib.import_module("torch.distributed.nn")
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield World(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def local_device(name: str) -> torch.device:
    """The device of that name; of several CUDA cards the one that is this process's."""
    device = best_device(name)
    if device.type == "cuda" and "LOCAL_RANK" in os.environ:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        if device.index >= torch.cuda.device_count():
            cards = torch.cuda.device_count()
            raise ValueError(f"more processes than the {cards} cards: lower --nproc_per_node")
        torch.cuda.set_device(device)
    return device
