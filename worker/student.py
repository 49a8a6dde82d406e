"""A shipped network: how it is described, and how it is built again from its description and its weights.

`load_student` is all that a user of a downloaded student needs; it reads no pickle and needs no teacher.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worker.architecture import Input
from worker.architectures import ARCHITECTURES
from worker.method import Wrapper
from worker.methods import METHODS

if TYPE_CHECKING:
    from worker.network import Network

FORMAT = 1


class StudentError(ValueError):
    """A description or its weights cannot be used; the sentence says why."""


def describe(
    network: Network,
    *,
    name: str,
    architecture: str,
    class_names: tuple[str, ...],
    wrapper: tuple[str, Wrapper] | None,
    weights_dtype: str,
) -> dict[str, Any]:
    """All that is needed to build the network again, as JSON.

    `wrapper` is the method that changed its head, and how; `weights_dtype` the precision in which weights are stored.
    """
    return {
        "retort": FORMAT,
        "name": name,
        "architecture": architecture,
        "classes": len(class_names),
        "class_names": list(class_names),
        "input": network.image.model_dump(mode="json") | {"layout": "NCHW", "channels": "RGB", "range": [0.0, 1.0]},
        "wrapper": {"method": wrapper[0], "fields": wrapper[1].model_dump(mode="json")} if wrapper else None,
        "weights_dtype": weights_dtype,
        "weights_file": f"{name}.safetensors",
        "parameters": network.parameter_count(),
    }


def load_student(description_file: Path, weights_file: Path | None = None) -> tuple[Network, dict[str, Any]]:
    """Build a shipped network again, in eval mode on the CPU, with its description. Raises StudentError.

    It takes RGB images in [0, 1], (N, 3, H, W) float32, of the size that its description's `input` says.
    """
    description = _read_description(Path(description_file))
    network = _build(description)
    _load_weights(network, Path(weights_file or Path(description_file).with_name(description["weights_file"])))
    return network.eval(), description


def _read_description(file: Path) -> dict[str, Any]:
    try:
        description = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise StudentError(f"{file.name} cannot be read: {error}") from error
    if not isinstance(description, dict) or description.get("retort") != FORMAT:
        raise StudentError(f"{file.name} describes no student of format {FORMAT}")
    return description


def _build(description: dict[str, Any]) -> Network:
    architecture = description["architecture"]
    if architecture not in ARCHITECTURES:
        raise StudentError(f"the student is a {architecture!r}, which is not in the catalogue of architectures")
    network = ARCHITECTURES[architecture].build(architecture, description["classes"])
    stated = description["input"]
    network.set_input(Input(size=stated["size"], mean=stated["mean"], std=stated["std"]))
    if description["wrapper"] is not None:
        _wrapper(description["wrapper"]).build(network)
    return network


def _wrapper(stated: dict[str, Any]) -> Wrapper:
    method = METHODS.get(stated["method"])
    if method is None or method.wrapper_type is None:
        raise StudentError(f"the student was wrapped by the method {stated['method']!r}, which wraps nothing here")
    return method.wrapper_type.model_validate(stated["fields"])


def _load_weights(network: Network, file: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights = load_file(file)
    except (OSError, SafetensorError) as error:
        raise StudentError(f"{file.name} cannot be read: {error}") from error
    wanted = network.body.state_dict()
    missing, unexpected = sorted(wanted.keys() - weights.keys()), sorted(weights.keys() - wanted.keys())
    wrong = [key for key in wanted.keys() & weights.keys() if wanted[key].shape != weights[key].shape]
    if missing or unexpected or wrong:
        parts = [("missing", missing), ("unexpected", unexpected), ("of another shape", sorted(wrong))]
        said = "; ".join(f"{what}: {', '.join(keys)}" for what, keys in parts if keys)
        raise StudentError(f"the weights in {file.name} do not fit the network: {said}")
    network.body.load_state_dict({key: tensor.to(wanted[key].dtype) for key, tensor in weights.items()})
