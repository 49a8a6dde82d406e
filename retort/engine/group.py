"""Several processes that train as one: each runs the networks on its share of a batch, all compute the same loss.

Torch's own launcher starts them: `torchrun --nproc-per-node 2 -m retort.engine RECIPE.json OUT_DIR`, over gloo on the
CPU and over nccl on GPUs. The networks' outputs for the shares are gathered, so that every process has the whole
batch's logits, embeddings and maps, and computes the terms on them as a single process would: terms that couple
examples, memory banks and class means need no care of their own. The gradients are then averaged.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from retort.engine.interrupt import Impossible
from retort.engine.whole_batch import WholeBatch
from retort.network import Network
from retort.outputs import Outputs


@dataclass(frozen=True)
class Group:
    """The processes of a run; one alone does all of it and exchanges nothing."""

    rank: int = 0
    """This process's number; process 0 keeps the event log, writes the files and tests the networks."""
    size: int = 1
    gpu: int | None = None
    """The GPU of this process, where a machine's processes have one each."""

    @property
    def device(self) -> torch.device:
        if self.gpu is not None:
            return torch.device("cuda", self.gpu)
        return torch.device("cuda" if torch.cuda.is_available() and self.size == 1 else "cpu")

    def share(self, count: int) -> slice:
        """This process's share of so many examples; all of them where there are fewer than processes."""
        if not self._divides(count):
            return slice(0, count)
        lengths = self._lengths(count)
        start = sum(lengths[: self.rank])
        return slice(start, start + lengths[self.rank])

    def read(self, network: Network, inputs: Tensor, wanted: Collection[str]) -> Outputs:
        """The outputs of a network for (N, ...) inputs, as `Network.read`; each process runs it on its share of them.

        In training mode it behaves as if it saw all N: batch norm takes the statistics of all of them, and dropout its
        share of the draws for all of them. Backward expects the same gradient in every process, and leaves those of
        the parameters to be averaged over the processes.
        """
        count = len(inputs)
        if not self._divides(count):
            return network.read(inputs, wanted)
        share = self.share(count)
        with WholeBatch(share, count, self.device):
            outputs = network.read(inputs[share], wanted)

        def whole(tensor: Tensor) -> Tensor:
            gathered: Tensor = _Gathered.apply(tensor, self, count)
            return gathered

        return Outputs(
            logits=whole(outputs.logits),
            embedding=None if outputs.embedding is None else whole(outputs.embedding),
            maps=tuple(map(whole, outputs.maps)),
            preactivations=tuple(map(whole, outputs.preactivations)),
            class_maps=None if outputs.class_maps is None else whole(outputs.class_maps),
        )

    def average_gradients(self, optimizer: torch.optim.Optimizer) -> None:
        """Replace the gradient of each parameter by its mean over the processes."""
        if self.size == 1:
            return
        by_dtype: dict[torch.dtype, list[Tensor]] = defaultdict(list)
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_dtype[parameter.grad.dtype].append(parameter.grad)
        for gradients in by_dtype.values():
            # One after the other in one tensor: a network has hundreds, and each exchange has a price.
            flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
            dist.all_reduce(flat)
            flat /= self.size
            for gradient, mean in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
                gradient.copy_(mean.view(gradient.shape))

    def gather(self, share: Tensor, count: int) -> Tensor:
        """All processes' shares of N rows, in order; without gradient."""
        return _gathered(share, self, count) if self._divides(count) else share

    def total(self, share: Tensor, count: int) -> Tensor:
        """The sum of each process's finding in its share of N examples."""
        if self._divides(count):
            share = share.clone()
            dist.all_reduce(share)
        return share

    def begin_as_one(self, modules: Iterable[nn.Module]) -> None:
        """Give every process the parameters and buffers of process 0."""
        if self.size == 1:
            return
        for module in modules:
            for tensor in (*module.parameters(), *module.buffers()):
                values = tensor.detach().contiguous()
                dist.broadcast(values, 0)
                tensor.detach().copy_(values)

    def strongest(self, request: int) -> int:
        """The largest number that any process has; all of them call this at the same place."""
        if self.size == 1:
            return request
        requests = torch.tensor(request)
        dist.all_reduce(requests, dist.ReduceOp.MAX)
        return int(requests)

    def agrees(self, value: object) -> bool:
        """Whether all processes hold the same value, which pickle can carry."""
        if self.size == 1:
            return True
        values: list[object] = [None] * self.size
        dist.all_gather_object(values, value)
        return all(other == value for other in values)

    def wait(self) -> None:
        """Until all processes are here."""
        self.strongest(0)

    def leave(self) -> None:
        """Exchange nothing any more."""
        if self.size > 1:
            dist.destroy_process_group()

    def _divides(self, count: int) -> bool:
        """Whether each process gets an example."""
        return self.size > 1 and count >= self.size

    def _lengths(self, count: int) -> list[int]:
        """Examples of each process, the first ones having one more where they do not come out even."""
        least, rest = divmod(count, self.size)
        return [least + (rank < rest) for rank in range(self.size)]


ALONE = Group()


def join() -> Group:
    """The group in which torch's launcher started this process. Raises Impossible where GPUs are too few."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if not dist.is_torchelastic_launched() or size == 1:
        return ALONE
    gpu = None
    if torch.cuda.is_available():
        here, gpus = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
        if here > gpus:
            raise Impossible(f"{here} processes were started on a machine with {gpus} GPUs; each needs one of its own")
        gpu = int(os.environ["LOCAL_RANK"])
        torch.cuda.set_device(gpu)
    # Messages about the run go over the CPU, so that no GPU waits for them.
    dist.init_process_group("gloo" if gpu is None else "cpu:gloo,cuda:nccl")
    return Group(dist.get_rank(), size, gpu)


class _Gathered(torch.autograd.Function):
    """All processes' shares, in order."""

    @staticmethod
    def forward(ctx: Any, share: Tensor, group: Group, count: int) -> Tensor:
        ctx.group, ctx.count = group, count
        return _gathered(share, group, count)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        # Each process computes the whole loss, so that its own rows of the gradient are complete; times the number
        # of processes, since gradients of parameters are averaged and not added.
        return gradient[ctx.group.share(ctx.count)] * ctx.group.size, None, None


def _gathered(share: Tensor, group: Group, count: int) -> Tensor:
    channels_last = share.dim() == 4 and share.is_contiguous(memory_format=torch.channels_last)
    rows = (share.permute(0, 2, 3, 1) if channels_last else share).contiguous()
    lengths = group._lengths(count)
    if len(rows) < lengths[0]:
        rows = torch.cat([rows, rows[:1]])
    padded = rows.new_empty(group.size * lengths[0], *rows.shape[1:])
    dist.all_gather_into_tensor(padded, rows)
    pieces = torch.split(padded, lengths[0])
    whole = torch.cat([piece[:length] for piece, length in zip(pieces, lengths, strict=True)])
    return whole.permute(0, 3, 1, 2) if channels_last else whole
