"""Several processes that train one network (torchrun): averaged gradients, one stop, one writer."""

from __future__ import annotations

import os
from collections.abc import Iterable

import torch
from torch import Tensor, nn


class Workers:
    """The processes of a run; with one process every method does nothing.

    The network's stages are called one by one and not through one ``forward``, which is what
    DistributedDataParallel wraps; so the gradients are averaged here, in one message.

    Args:
        rank, count: of this process.
    """

    def __init__(self, rank: int = 0, count: int = 1) -> None:
        self.rank, self.count = rank, count

    @classmethod
    def from_environment(cls, device: str) -> Workers:
        """Joins the group that torchrun describes in RANK and WORLD_SIZE, over NCCL or gloo."""
        count = int(os.environ.get("WORLD_SIZE", "1"))
        if count == 1:
            return cls()
        # imported later, by the first optimizer, its functions' default arguments would be the
        # group that is open then, and keep it and its threads alive beyond ``close``: into the end
        # of the interpreter, where a thread that lets go of a tensor aborts the process
        import torch.distributed.nn

        torch.distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
        return cls(torch.distributed.get_rank(), count)

    @property
    def first(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replaces every gradient by the mean over the processes."""
        if self.count == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        torch.distributed.all_reduce(flat)
        flat /= self.count
        offset = 0
        for gradient in gradients:
            part = flat[offset : offset + gradient.numel()]
            gradient.copy_(part.view(gradient.shape))
            offset += gradient.numel()

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process, so that all of them stop together."""
        if self.count == 1:
            return flag
        value = torch.tensor(float(flag), device=self._device())
        torch.distributed.all_reduce(value, torch.distributed.ReduceOp.MAX)
        return bool(value)

    def check_same(self, tensors: dict[str, Tensor]) -> bool:
        """Whether all processes hold the same numbers."""
        if self.count == 1:
            return True
        total = torch.stack([value.double().sum() for value in tensors.values()]).sum()
        low, high = total.clone(), total.clone()
        torch.distributed.all_reduce(low, torch.distributed.ReduceOp.MIN)
        torch.distributed.all_reduce(high, torch.distributed.ReduceOp.MAX)
        return bool(low == high)

    def close(self) -> None:
        """Leaves the group and ends its threads."""
        if self.count > 1:
            torch.distributed.destroy_process_group()

    def _device(self) -> str:
        return "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
