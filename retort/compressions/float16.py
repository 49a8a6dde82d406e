"""float16: weights stored in half precision."""

from __future__ import annotations

from typing import ClassVar, Literal

from retort.compression import Compression


class Float16(Compression):
    """Rounds the weights to float16, in which the safetensors file stores them: half the bytes.

    The network computes in float32. Every accuracy in the report is that of the rounded weights.
    """

    weights_dtype: ClassVar[Literal["float32", "float16"]] = "float16"

    name: Literal["float16"] = "float16"
