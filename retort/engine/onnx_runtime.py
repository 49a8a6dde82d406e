"""An ONNX file of ours, run by onnxruntime as whoever downloads it will."""

from __future__ import annotations

import platform
from collections.abc import Collection
from pathlib import Path

import torch
from torch import Tensor

from retort.outputs import Outputs


class RuntimeNetwork:
    """Reads the logits of a file that takes `images` and gives `logits`."""

    training = False

    def __init__(self, file: Path, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])

    def read(self, images: Tensor, wanted: Collection[str] = ()) -> Outputs:
        """(N, K) logits of (N, 3, H, W) images; raises ValueError when more is wanted."""
        if set(wanted) - {"logits"}:
            raise ValueError("an ONNX file gives logits alone")
        (logits,) = self._session.run(["logits"], {"images": images.numpy()})
        return Outputs(logits=torch.from_numpy(logits))

    def eval(self) -> RuntimeNetwork:
        """Return it as it is: it knows no other mode."""
        return self

    def train(self, mode: bool = True) -> RuntimeNetwork:
        """Return it as it is; raises ValueError when it should train."""
        if mode:
            raise ValueError("an ONNX file is not trained")
        return self


def processor() -> str:
    """The kind of this machine's processor, as far as the arithmetic of 8 bits depends on it."""
    vnni = "with" if torch.cpu._is_vnni_supported() else "without"
    return f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, {vnni} VNNI"
