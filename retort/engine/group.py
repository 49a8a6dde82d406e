"""Several processes that train as one: each runs the networks on its share of a batch, all compute the same loss.

Torch's own launcher starts them: `torchrun --nproc-per-node 2 -m retort.engine RECIPE.json OUT_DIR`, over gloo on the
CPU and over nccl on GPUs. What the networks say of the shares is gathered, so that every process has the whole batch's
logits, embeddings and maps, and computes the terms on them as a single process would: terms that couple images,
memory banks and class means need no care of their own. The gradients are then averaged.
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
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from retort.engine.interrupt import Impossible
from retort.engine.teacher_cache import CacheEntry
from retort.method import at_least_float32
from retort.network import Network
from retort.outputs import Outputs

DROPOUTS = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d)
"""What multiplies its input by a mask that is drawn for it."""


@dataclass(frozen=True)
class Group:
    """The processes of a run; one alone does all of it and exchanges nothing."""

    rank: int = 0
    """This process's number; process 0 keeps the diary, writes the files and tests what came out."""
    size: int = 1
    gpu: int | None = None
    """The GPU of this process, where a machine's processes have one each."""

    @property
    def device(self) -> torch.device:
        if self.gpu is not None:
            return torch.device("cuda", self.gpu)
        return torch.device("cuda" if torch.cuda.is_available() and self.size == 1 else "cpu")

    def share(self, count: int) -> slice:
        """Which of a number of images are this process's; all of them where there are fewer than processes."""
        if not self._divides(count):
            return slice(0, count)
        lengths = self._lengths(count)
        start = sum(lengths[: self.rank])
        return slice(start, start + lengths[self.rank])

    def read(self, network: Network, images: Tensor, wanted: Collection[str]) -> Outputs:
        """What a network says of (N, 3, H, W) images, as `Network.read`; each process runs it on its share of them.

        In training mode it behaves as if it saw all N: batch norm takes the statistics of all of them, and dropout its
        part of the draws for all of them. Backward expects the same gradient in every process, and leaves those of
        the parameters to be averaged over the processes.
        """
        count = len(images)
        if not self._divides(count):
            return network.read(images, wanted)
        with _AsWhole(self, count):
            said = network.read(images[self.share(count)], wanted)

        def whole(tensor: Tensor) -> Tensor:
            gathered: Tensor = _Gathered.apply(tensor, self, count)
            return gathered

        return Outputs(
            logits=whole(said.logits),
            embedding=None if said.embedding is None else whole(said.embedding),
            maps=tuple(map(whole, said.maps)),
            preactivations=tuple(map(whole, said.preactivations)),
            class_maps=None if said.class_maps is None else whole(said.class_maps),
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
        """The sum of what each process found in its share of N images."""
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

    def strongest(self, wish: int) -> int:
        """The largest number that any process has; all of them ask at the same place."""
        if self.size == 1:
            return wish
        wished = torch.tensor(wish)
        dist.all_reduce(wished, dist.ReduceOp.MAX)
        return int(wished)

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
        """Whether each process gets an image."""
        return self.size > 1 and count >= self.size

    def _lengths(self, count: int) -> list[int]:
        """Images of each process, the first ones having one more where they do not come out even."""
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
    # Words about the run go over the CPU, so that no GPU waits for them.
    dist.init_process_group("gloo" if gpu is None else "cpu:gloo,cuda:nccl")
    return Group(dist.get_rank(), size, gpu)


class SharedCacheEntry:
    """The shelf of process 0: it alone reads and writes the files, and tells the others what it took."""

    def __init__(self, entry: CacheEntry, group: Group) -> None:
        self._entry = entry
        self._group = group
        self._wants_check = False

    def take(self, positions: Tensor, device: torch.device) -> Outputs | None:
        kept = self._entry.take(positions, device) if self._group.rank == 0 else None
        width = 0 if kept is None or kept.embedding is None else kept.embedding.shape[1]
        said = torch.tensor([kept is not None, self._entry.wants_check(), width], dtype=torch.int64)
        dist.broadcast(said, 0)
        known, wants_check, width = said.tolist()
        self._wants_check = bool(wants_check)
        if not known:
            return None
        values = torch.empty(len(positions), self._entry.outputs + width, device=device)
        if kept is not None:
            values = torch.cat([kept.logits, *([] if kept.embedding is None else [kept.embedding])], dim=1)
        dist.broadcast(values, 0)
        embedding = values[:, self._entry.outputs :]
        return Outputs(values[:, : self._entry.outputs], embedding if width else None)

    def wants_check(self) -> bool:
        return self._wants_check

    def check(self, taken: Outputs, computed: Outputs) -> None:
        if self._group.rank == 0:
            self._entry.check(taken, computed)

    def put(self, positions: Tensor, outputs: Outputs) -> None:
        if self._group.rank == 0:
            self._entry.put(positions, outputs)

    def begin(self, epoch: int) -> None:
        if self._group.rank == 0:
            self._entry.begin(epoch)

    def end(self) -> None:
        if self._group.rank == 0:
            self._entry.end()

    def discard(self) -> None:
        if self._group.rank == 0:
            self._entry.discard()


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


class _AsWhole(TorchFunctionMode):
    """While it is entered, a share of N images is normalised and dropped out as all of them would be.

    Nothing about the networks changes for it, neither their modules nor their weights' names.
    """

    def __init__(self, group: Group, count: int) -> None:
        super().__init__()
        self.group = group
        self.count = count
        """N, images of all processes."""
        self.share = group.share(count)
        self.length = self.share.stop - self.share.start

    def __enter__(self) -> Any:
        self._drawn = _generators(self.group.device)
        return super().__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        if error[0] is None:
            self._refuse_other_draws()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.batch_norm:
            return self._batch_norm(*args, **kwargs)
        if func in DROPOUTS:
            return self._dropout(func, *args, **kwargs)
        if func is torch.Tensor.bernoulli_ and len(args[0]) == self.length:
            return args[0].copy_(self._draw(func, torch.empty_like, *args, **kwargs))
        return func(*args, **kwargs)

    def _batch_norm(
        self,
        x: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if not training:
            return F.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
        positions = x.numel() // x.shape[1] * self.count // self.length
        mean_C, var_C = _statistics(x, positions)
        if running_mean is not None and running_var is not None:
            with torch.no_grad():
                running_mean.mul_(1 - momentum).add_(mean_C, alpha=momentum)
                running_var.mul_(1 - momentum).add_(var_C, alpha=momentum * positions / (positions - 1))
        normalised: Tensor = _Normalised.apply(x, weight, bias, mean_C, var_C, eps, positions)
        return normalised

    def _dropout(self, func: Any, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if not training or p == 0:
            return x
        mask = self._draw(func, torch.ones_like, x, p, True)
        return x.mul_(mask) if inplace else x * mask

    def _draw(self, func: Any, blank: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """This process's part of what a function draws for a tensor of all N images."""
        self._refuse_other_draws()
        # With the layout of a whole tensor, since draws follow memory.
        rows = torch.empty_like(x[:1]).expand(self.count, *x.shape[1:])
        whole: Tensor = func(blank(rows), *args, **kwargs)
        self._drawn = _generators(self.group.device)
        return whole[self.share]

    def _refuse_other_draws(self) -> None:
        if not all(map(torch.equal, self._drawn, _generators(self.group.device))):
            raise Impossible(
                "a network draws random numbers besides dropout and stochastic depth, which several processes cannot "
                "do as one; train it in one process"
            )


def _generators(device: torch.device) -> list[Tensor]:
    """The state of torch's random number generators."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def _statistics(x: Tensor, positions: int) -> tuple[Tensor, Tensor]:
    """(C,) mean and variance (divided by the number of positions) over all processes, float32 at least."""
    with torch.no_grad():
        # The kernel that batch norm itself uses: 26 times as fast as var_mean on a CPU.
        mean_C, var_C = torch.ops.aten.batch_norm_update_stats(at_least_float32(x), None, None, 0.0)
        # In float64, so that the mean's square is taken off again without loss.
        moments = torch.stack([mean_C.double(), var_C.double() + mean_C.double() ** 2]) * (x.numel() // x.shape[1])
        dist.all_reduce(moments)
        moments /= positions
        return moments[0].to(mean_C.dtype), (moments[1] - moments[0] ** 2).clamp(min=0).to(mean_C.dtype)


class _Normalised(torch.autograd.Function):
    """Batch norm with the statistics of all processes.

    The gradient is that of Ioffe, Szegedy 2015 (https://arxiv.org/abs/1502.03167), section 3, its two sums over the
    batch taken over all processes.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean_C: Tensor,
        var_C: Tensor,
        eps: float,
        positions: int,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean_C, var_C)
        ctx.eps, ctx.positions = eps, positions
        return F.batch_norm(x, mean_C, var_C, weight, bias, False, 0.0, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean_C, var_C = ctx.saved_tensors
        # With fixed statistics, so that it gives the two sums over this process's images.
        _, dot_C, sum_C = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, mean_C, var_C, None, None, False, ctx.eps, [False, True, True]
        )
        sums = torch.stack([dot_C, sum_C]).double()
        dist.all_reduce(sums)
        mean_dot_C, mean_sum_C = (sums / ctx.positions).to(mean_C.dtype)
        deviation_C = (var_C + ctx.eps).rsqrt()
        scale_C = deviation_C if weight is None else deviation_C * weight
        slope_C = -scale_C * deviation_C * mean_dot_C
        shift_C = -scale_C * mean_sum_C - slope_C * mean_C

        def wide(values_C: Tensor) -> Tensor:
            return values_C.view(1, -1, *[1] * (x.dim() - 2))

        gradient_x = torch.addcmul(wide(shift_C), gradient, wide(scale_C)).addcmul_(x, wide(slope_C)).to(x.dtype)
        wanted = ctx.needs_input_grad
        return gradient_x, dot_C if wanted[1] else None, sum_C if wanted[2] else None, None, None, None, None
