"""Networks run on a share of a batch as if they saw all of it: batch norm, dropout and stochastic depth."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from retort.engine.interrupt import Impossible
from retort.method import at_least_float32

DROPOUTS = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d)
"""Functions that multiply their input by a mask that is drawn for it."""


class WholeBatch(TorchFunctionMode):
    """While it is entered, a share of N examples is normalised and dropped out as all of them would be.

    Nothing about the networks changes for it, neither their modules nor their weights' names.
    """

    def __init__(self, share: slice, count: int, device: torch.device) -> None:
        """`share` is this process's of `count` examples."""
        super().__init__()
        self.share = share
        self.count = count
        self.device = device
        self.length = share.stop - share.start
        self._drawn: list[Tensor] = []
        """The state of the generators after the last draw that was shared."""

    def __enter__(self) -> Any:
        self._drawn = _generators(self.device)
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
        """This process's share of the draws of a function for a tensor of all N examples."""
        self._refuse_other_draws()
        # With the layout of a whole tensor, since draws follow memory.
        rows = torch.empty_like(x[:1]).expand(self.count, *x.shape[1:])
        whole: Tensor = func(blank(rows), *args, **kwargs)
        self._drawn = _generators(self.device)
        return whole[self.share]

    def _refuse_other_draws(self) -> None:
        if not all(map(torch.equal, self._drawn, _generators(self.device))):
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
        # With fixed statistics, so that it gives the two sums over this process's examples.
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
