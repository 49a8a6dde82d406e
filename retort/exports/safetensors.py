"""Safetensors: the student's weights, with the names that its makers gave them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from retort.export import Export

if TYPE_CHECKING:
    from retort.network import Network


class Safetensors(Export):
    """The body's weights and batch norm's statistics; with `student.json` beside it the network is built again."""

    suffix: ClassVar[str] = ".safetensors"
    media_type: ClassVar[str] = "application/octet-stream"

    name: Literal["safetensors"] = "safetensors"

    def write(self, network: Network, description: dict[str, Any], file: Path) -> None:
        """Floating point numbers are stored in `description["weights_dtype"]`, float32 or float16."""
        import torch
        from safetensors.torch import save_file

        dtype = torch.float16 if description.get("weights_dtype") == "float16" else torch.float32
        tensors = {
            # A copy: tensors that share memory are refused by the format.
            name: (value.detach().to(dtype) if value.is_floating_point() else value).clone().contiguous()
            for name, value in network.body.state_dict().items()
        }
        # One entry, no more: the library writes them in no fixed order, and the same weights shall be the same file.
        save_file(tensors, file, metadata={"format": "pt"})
