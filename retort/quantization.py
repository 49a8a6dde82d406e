"""int8 arithmetic of a network: the ranges of its activations, and the ONNX graph that computes in it.

Weights are symmetric, w = s q with q in [-L, L] and a scale s for each output channel or for the tensor; activations
are affine, x = s (q - z), on a range that holds zero; biases are int32 at the product of both scales. The functions of
a forward pass are intercepted, so that a network of any make is quantised without a change to it: what no entry of
`QUANTIZED` names is computed in float32.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnx
import onnx_ir
import torch
from onnxscript import optimizer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from retort.exports._onnx import captured, label

if TYPE_CHECKING:
    from retort.network import Network

Calibration = Literal["minmax", "percentile"]
Integer = Literal["uint8", "int8"]
Numbers = dict[str, np.ndarray[Any, Any]]
"""The scales, zero points and integers of a graph, by the names of its initializers."""

OPSET = 18
PERCENTILE = 0.9999
"""Share of a batch's values of an activation that its range holds, from both ends."""
MOST_VALUES = 1 << 20
"""Values of an activation among which that share is looked for."""
SMALLEST_SCALE = 1e-8
WEIGHTED = (torch.conv2d, F.linear)
"""Functions of (input, weight, bias)."""
QUANTIZED: dict[Callable[..., Any], int] = {
    **dict.fromkeys(WEIGHTED, 1),
    torch.add: 2,
    Tensor.add: 2,
    Tensor.add_: 2,
    Tensor.__add__: 2,
    Tensor.__iadd__: 2,
    torch.mul: 2,
    Tensor.mul: 2,
    Tensor.__mul__: 2,
    F.hardswish: 1,
    F.hardsigmoid: 1,
    F.silu: 1,
    F.gelu: 1,
    F.adaptive_avg_pool2d: 1,
    F.max_pool2d: 1,
    Tensor.mean: 1,
}
"""Functions whose first arguments, so many, are quantised: those of linear layers always, of others where they are
maps, since sums of tokens lose in 8 bits what linear layers then lack. The output of a convolution is the input of one
of these, at once or behind a ReLU, so that onnxruntime computes it in int8 as well."""


@dataclass(frozen=True)
class IntegerForm:
    """One way to put a network into int8."""

    activations: Integer
    levels: int
    """L: 127, or 63 where products of two 8-bit numbers would overflow the 16 bits in which a processor adds them."""
    per_channel: bool
    calibration: Calibration

    @property
    def name(self) -> str:
        channel = "per_channel" if self.per_channel else "per_tensor"
        return f"{self.activations}_{'reduced_' if self.levels < 127 else ''}{channel}_{self.calibration}"


_KINDS: tuple[tuple[Integer, int, bool], ...] = (
    ("uint8", 127, True),
    ("uint8", 63, True),
    ("int8", 127, True),
    ("uint8", 63, False),
)
_CALIBRATIONS: tuple[Calibration, ...] = ("minmax", "percentile")
FORMS = tuple(IntegerForm(*kind, calibration) for kind in _KINDS for calibration in _CALIBRATIONS)
"""Forms that are tried, of equals the first is taken."""


class QuantizationError(ValueError):
    """The network cannot be quantised; the sentence gives the reason."""


class _Sites(TorchFunctionMode, ABC):
    """Calls of the quantised functions in a forward pass, numbered from 0: activations and weighted calls apart."""

    def __init__(self) -> None:
        super().__init__()
        self.activations = self.weighted = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = list(args)
        for place in range(min(QUANTIZED.get(func, 0), len(given))):
            if _is_activation(given[place], 2 if func in WEIGHTED else 4):
                given[place] = self.activation(self.activations, given[place])
                self.activations += 1
        if func in WEIGHTED and len(given) > 1 and _is_activation(args[0], 2):
            given += [None] * (3 - len(given))
            given[1:3] = self.weights(self.weighted, given[1], given[2])
            self.weighted += 1
        return func(*given, **(kwargs or {}))

    @abstractmethod
    def activation(self, site: int, value: Tensor) -> Tensor:
        """Take an activation, and return what the function is given in its place."""

    @abstractmethod
    def weights(self, site: int, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Take the weight and bias of a weighted call, and return what it is given in their place."""


def _is_activation(value: object, axes: int) -> bool:
    """Whether a value is an activation of so many axes at least."""
    if not isinstance(value, Tensor) or isinstance(value, nn.Parameter):
        return False
    return value.is_floating_point() and value.dim() >= axes


class _Observed(_Sites):
    """Lowest and highest value of each activation in one batch, and the weights and biases."""

    def __init__(self) -> None:
        super().__init__()
        self.ranges: list[dict[Calibration, tuple[float, float]]] = []
        self.layers: list[tuple[Tensor, Tensor | None, int]] = []
        """(weight, bias, site of the input) of each weighted call."""

    def activation(self, site: int, value: Tensor) -> Tensor:
        flat = value.detach().flatten()
        low, high = flat.aminmax()
        some = flat[:: max(1, len(flat) // MOST_VALUES)]
        kept = max(1, round(PERCENTILE * len(some)))
        lower, upper = -(-some).kthvalue(kept).values, some.kthvalue(kept).values
        self.ranges.append({"minmax": (float(low), float(high)), "percentile": (float(lower), float(upper))})
        return value

    def weights(self, site: int, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        self.layers.append((weight.detach(), None if bias is None else bias.detach(), self.activations - 1))
        return weight, bias


class _Graph(_Sites):
    """Quantises by ONNX's operators, on numbers that a module holds by name."""

    def __init__(self, numbers: _Int8) -> None:
        super().__init__()
        self.numbers = numbers

    def activation(self, site: int, value: Tensor) -> Tensor:
        scale, zero = self._get("scale", site), self._get("zero", site)
        quantized = torch.onnx.ops.symbolic(
            "QuantizeLinear", (value, scale, zero), dtype=zero.dtype, shape=value.shape, version=OPSET
        )
        return _dequantized([quantized, scale, zero])

    def weights(self, site: int, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        quantized = _dequantized([self._get(name, site) for name in ("weight", "weight_scale", "weight_zero")], axis=0)
        if bias is None:
            return quantized, None
        return quantized, _dequantized([self._get(name, site) for name in ("bias", "bias_scale")], axis=0)

    def _get(self, name: str, site: int) -> Tensor:
        return self.numbers.get_buffer(f"{name}_{site}")


def _dequantized(inputs: list[Tensor], *, axis: int | None = None) -> Tensor:
    attributes: dict[str, Any] = {} if axis is None else {"axis": axis}
    return torch.onnx.ops.symbolic(
        "DequantizeLinear", inputs, attributes, dtype=torch.float32, shape=inputs[0].shape, version=OPSET
    )


class _Int8(nn.Module):
    """A network that is captured with its quantised numbers in place of its weights."""

    def __init__(self, network: Network, numbers: Numbers) -> None:
        super().__init__()
        self.network = network
        for name, values in numbers.items():
            self.register_buffer(name, torch.from_numpy(values))

    def forward(self, images: Tensor) -> Tensor:
        with _Graph(self):
            logits: Tensor = self.network(images)
        return logits


class Quantized:
    """A network's ranges on some inputs, and its ONNX files in int8."""

    def __init__(self, network: Network, batches: Iterable[Tensor]) -> None:
        """Run the network, in eval mode, over batches of its inputs. Raises QuantizationError."""
        self.network = network
        seen: list[_Observed] = []
        for batch in batches:
            with torch.no_grad(), _Observed() as observed:
                network(batch)
            seen.append(observed)
        if not seen or not seen[0].layers:
            raise QuantizationError("the network has no convolution or linear layer that is quantised")
        if len({len(each.ranges) for each in seen}) > 1:
            raise QuantizationError("the network computes something else each time that it is run")
        self.layers = seen[0].layers
        self.ranges: dict[Calibration, list[tuple[float, float]]] = {"minmax": [], "percentile": []}
        for site in range(len(seen[0].ranges)):
            lows, highs = zip(*(each.ranges[site]["minmax"] for each in seen), strict=True)
            self.ranges["minmax"].append((min(lows), max(highs)))
            lows, highs = zip(*(each.ranges[site]["percentile"] for each in seen), strict=True)
            self.ranges["percentile"].append((sum(lows) / len(lows), sum(highs) / len(highs)))

    def export(self, description: dict[str, Any]) -> bytes:
        """The graph with the numbers of one form, serialised; those of another are put in by `write`."""
        module = _Int8(self.network, self._numbers(FORMS[0])).eval()
        size = self.network.image.size
        assert size, "a trained student has an input size"
        # Unoptimised: equal numbers of this form, which would become one, may differ in another.
        model = captured(module, size, OPSET, optimize=False)
        label(model, description)
        return bytes(onnx_ir.to_proto(model).SerializeToString())

    def write(self, graph: bytes, form: IntegerForm, file: Path) -> None:
        """Write the graph with the numbers of a form."""
        model = onnx_ir.from_proto(onnx.ModelProto.FromString(graph))
        for name, values in self._numbers(form).items():
            initializer = model.graph.initializers[name]
            initializer.const_value = onnx_ir.tensor(values, name=name)
            initializer.dtype = initializer.const_value.dtype
        for node in model.graph.all_nodes():
            if node.op_type == "QuantizeLinear":
                node.outputs[0].dtype = onnx_ir.DataType[form.activations.upper()]
        # Folding would turn weights of 8 bits back into float32.
        optimizer.optimize_ir(model, should_fold=lambda node: False if "quantize" in node.op_type.lower() else None)
        onnx_ir.save(model, file)

    def _numbers(self, form: IntegerForm) -> Numbers:
        least, most = (0, 255) if form.activations == "uint8" else (-128, 127)
        dtype = np.dtype(form.activations)
        numbers: Numbers = {}
        scales = []
        for site, (low, high) in enumerate(self.ranges[form.calibration]):
            low, high = min(low, 0.0), max(high, 0.0)
            scale = np.float32(max((high - low) / (most - least), SMALLEST_SCALE))
            scales.append(scale)
            numbers[f"scale_{site}"] = np.asarray(scale)
            numbers[f"zero_{site}"] = np.asarray(np.clip(np.rint(least - low / scale), least, most), dtype)
        for site, (weight, bias, read) in enumerate(self.layers):
            largest = weight.abs().flatten(1).amax(1)
            if not form.per_channel:
                largest = largest.amax().expand(len(weight))
            weight_scale = (largest / form.levels).clamp(min=SMALLEST_SCALE)
            shaped = weight_scale.view(-1, *[1] * (weight.dim() - 1))
            rounded = (weight / shaped).round().clamp(-form.levels, form.levels)
            numbers[f"weight_{site}"] = rounded.to(torch.int8).contiguous().numpy()
            numbers[f"weight_scale_{site}"] = weight_scale.numpy().copy()
            # Given though it is 0: without it onnxruntime computes a linear layer in float32.
            numbers[f"weight_zero_{site}"] = np.zeros(len(weight), np.int8)
            if bias is not None:
                both = weight_scale.double() * float(scales[read])
                limit = 2**31 - 1
                numbers[f"bias_{site}"] = (bias / both).round().clamp(-limit, limit).to(torch.int32).numpy()
                numbers[f"bias_scale_{site}"] = both.float().numpy()
        return numbers
