"""Several processes as one run: `torchrun --standalone --nproc_per_node=2 -m dpo.train`.

Every process holds the whole model and takes its share of every batch. After the backward pass the gradients are
averaged, so that all take the same step and stay bitwise alike. The first process alone looks, prints and writes.
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
class Processes:
    """This process and how many there are. Alone, every method gives back what it is given."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    @property
    def share(self) -> tuple[int, int]:
        """Which part of the pairs is this process's: (r, n) means those at r, r + n, r + 2n ..."""
        return self.rank, self.count

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, bitwise alike in each; ConnectionError if one of them is gone."""
        if self.count > 1:
            try:
                dist.all_reduce(tensor)
            except RuntimeError as error:
                raise ConnectionError(
                    f"another process of this run has probably ended ({str(error).splitlines()[0][:200]}); "
                    "see its message. The same command with --resume goes on"
                ) from None
        return tensor

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in one process or more."""
        return bool(self.sum(torch.tensor(float(flag), device=self._device)))

    def wait(self) -> None:
        """Until all processes are here."""
        self.any(False)

    def check_alike(self, *facts: str | int) -> None:
        """ValueError in every process unless all of them have these facts in common."""
        own = int(hashlib.sha256(repr(facts).encode()).hexdigest()[:12], 16)  # 48 bits: exact in float64
        numbers = torch.zeros(self.count, dtype=torch.float64, device=self._device)
        numbers[self.rank] = own
        if any(number != own for number in self.sum(numbers).tolist()):
            raise ValueError(
                "the processes do not start from the same place: every machine needs the same base, pairs, settings "
                "and --precision, and to go on also the first one's dpo.state.pt in its folder"
            )

    def average(self, model: nn.Module, metrics: dict[str, float], pairs: int) -> dict[str, float]:
        """Average gradients and metrics over all pairs of a batch, of which this process had so many; the metrics.

        A process without pairs, in a last batch of less pairs than processes, adds nothing.
        """
        if self.count == 1:
            return metrics
        names = sorted(metrics)
        parameters = [p for p in model.parameters() if p.requires_grad]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        numbers = torch.tensor([1.0, *(metrics[name] for name in names)], device=self._device)
        flat = self.sum(pairs * torch.cat([*(g.flatten() for g in gradients), numbers]))
        averaged, (total, *sums) = flat[: -len(numbers)], flat[-len(numbers) :].tolist()
        for parameter, part in zip(parameters, averaged.split([p.numel() for p in parameters]), strict=True):
            parameter.grad = (part / total).view_as(parameter)
        return {name: value / total for name, value in zip(names, sums, strict=True)}

    @property
    def _device(self) -> torch.device:
        """Where numbers have to lie to be summed."""
        on_card = self.count > 1 and dist.get_backend() == "nccl"
        return torch.device("cuda", torch.cuda.current_device()) if on_card else torch.device("cpu")


@contextmanager
def joined(device: torch.device) -> Iterator[Processes]:
    """The processes that torchrun has started, ready to talk to each other; this one alone without torchrun."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield Processes()
        return
    if device.type == "mps":
        raise ValueError("several processes need --device=cpu or cuda")
    if os.environ["LOCAL_WORLD_SIZE"] == os.environ["WORLD_SIZE"]:  # one machine: nothing leaves it
        loopback = next((name for _, name in socket.if_nameindex() if name in ("lo", "lo0")), None)
        if loopback:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)
            os.environ.setdefault("NCCL_SOCKET_IFNAME", loopback)
    # Functions of this module hold the group as a default. An optimizer imports it, and imported after the group is
    # made it would keep the group's threads alive until Python itself ends, which a thread may answer with an abort.
    importlib.import_module("torch.distributed.nn")
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Processes(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def own_device(name: str) -> torch.device:
    """The device of that name; of several CUDA cards the one that is this process's."""
    device = best_device(name)
    if device.type == "cuda" and "LOCAL_RANK" in os.environ:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        if device.index >= torch.cuda.device_count():
            raise ValueError(f"more processes than the {torch.cuda.device_count()} cards: lower --nproc_per_node")
        torch.cuda.set_device(device)
    return device
