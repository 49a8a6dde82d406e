"""quantize: an ONNX file that computes in int8, its form chosen by the accuracy measured on this processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from retort.compression import CompressedFile, Compression, CompressionSetup


class Quantize(Compression):
    """Writes NAME.int8.onnx: convolutions and linear layers in 8 bits, in little more than a quarter of the bytes.

    Post-training quantisation: the ranges of the activations are observed on training examples. Several forms are run
    by onnxruntime on the validation split, and the best is kept: processors differ in how they add up products of 8
    bits, and without VNNI some of them overflow. The report names the form and the processor.
    """

    makes_file: ClassVar[bool] = True

    name: Literal["quantize"] = "quantize"
    calibration_examples: int = Field(default=512, ge=1, le=100_000)
    """Training examples on which the activations' ranges are observed."""
    accuracy_drop: float | None = Field(default=None, ge=0)
    """Most by which the headline metric on the validation split may become worse than the student's; a student that
    misses it is handed back without the file, with a warning. Null keeps the best form whatever it gives."""

    def compress(self, setup: CompressionSetup) -> CompressedFile:
        from retort.quantization import FORMS, QuantizationError, Quantized

        try:
            quantized = Quantized(setup.network, setup.training_inputs(self.calibration_examples))
        except QuantizationError as error:
            return _file(None, f"there is no int8 file: {error}", {})
        graph = quantized.export(setup.description)
        tried = {}
        best = None
        for form in FORMS:
            file = setup.folder / f"{form.name}.onnx"
            quantized.write(graph, form, file)
            tried[form.name] = setup.measure(file)
            if best is None or setup.better(tried[form.name], tried[best.stem]):
                best = file
        assert best is not None, "there are forms to try"
        value = tried[best.stem]
        worse = setup.better(setup.value, value) and abs(setup.value - value)
        missed = ""
        if self.accuracy_drop is not None and worse > self.accuracy_drop:
            missed = (
                f"the headline metric on the validation split is {value:.4f} in int8 and {setup.value:.4f} before; "
                f"accuracy_drop is {self.accuracy_drop:g}, so that there is no int8 file"
            )
        facts = {"form": best.stem, "validation": value, "validation_before": setup.value, "tried": tried}
        return _file(None if missed else best, missed, facts)


def _file(file: Path | None, missed: str, facts: dict[str, Any]) -> CompressedFile:
    return CompressedFile(
        file=file, suffix=".int8.onnx", media_type="application/octet-stream", missed=missed, facts=facts
    )
