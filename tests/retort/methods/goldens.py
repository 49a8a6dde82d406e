"""Cases of published values: how they are found, read, run and compared.

`python -m tests.retort.methods.goldens` writes what was found to retort/methods/conformance.json.

A case is a folder with `case.json` and `tensors.safetensors`. `tests/goldens/` holds ours; RETORT_GOLDENS names another
folder of the same format to check against instead. What runs a case is the function `golden` in the test file of its
method: `golden(case, given)` gives the loss as `loss`, every other expected scalar by its name, and every expected
tensor as `out.<name>`.
"""

from __future__ import annotations

import json
import math
import os
from importlib import import_module
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from retort.method import STUDENT, TEACHER, Batch
from retort.methods import CONFORMANCE
from retort.outputs import Outputs
from retort.view import CLEAN

FOLDER = Path(os.environ.get("RETORT_GOLDENS") or Path(__file__).parents[2] / "goldens")

NAMES = {"dcd": "icd", "pkth": "information_flow"}
"""Methods that bear another name here."""


class Case:
    """One published value, with what it was computed from."""

    def __init__(self, name, folder=FOLDER):
        self.name = name
        self.json = json.loads((folder / name / "case.json").read_text())
        self.method = NAMES.get(self.json["method"], self.json["method"])
        self._file = folder / name / "tensors.safetensors"

    @property
    def left_out(self):
        """Why this case is not reproduced, or an empty string."""
        if self.method == "dukd":
            return "super-resolution is no task yet"
        if "torchdistill" in str(self.json["source"]) and "quirk" in self.json:
            return f"a slip of another toolkit, not of the method's authors: {self.json['quirk']}"
        return ""

    @property
    def source(self):
        """Source of the value, in a line."""
        source = self.json["source"]
        return source if isinstance(source, str) else f"{source['repo']}@{source['commit'][:7]} {source['path']}"

    def worst(self):
        """The largest difference as a share of its tensor's largest entry; entries that are zero are left out."""
        zero = {f"gradient of {key}" for key in self.json.get("zero_gradient", [])}
        return max(
            difference / scale for name, difference, _, scale in self.differences() if name not in zero and scale
        )

    def run(self):
        """Compute the case as our method does: (what was found, what was given, what is expected)."""
        tensors = load_file(self._file)
        given = {k: v for k, v in tensors.items() if not k.startswith("expected.")}
        for key in (*self.json["gradients"], *self.json.get("no_gradient", [])):
            given[key].requires_grad_()
        golden = import_module(f"tests.retort.methods.test_{self.method}").golden
        found = golden(self.json, given)
        return found, given, tensors

    def differences(self):
        """Each expected number or tensor with how far ours is from it: (what, difference, tolerated, scale)."""
        found, given, tensors = self.run()
        rtol, atol = self.json["tolerance"]["rtol"], self.json["tolerance"]["atol"]
        expected = {k: torch.tensor(v, dtype=torch.float64) for k, v in self.json["expected"]["terms"].items()}
        if self.json["expected"]["loss"] is not None:
            expected["loss"] = torch.tensor(self.json["expected"]["loss"], dtype=torch.float64)
        outputs = {k.removeprefix("expected."): v for k, v in tensors.items() if k.startswith("expected.out.")}
        expected |= outputs
        gradients = self.json["gradients"]
        if gradients or getattr(found.get("loss"), "requires_grad", False):
            found["loss"].backward()
        missing = sorted(expected.keys() - found.keys())
        assert not missing, f"{self.name}: golden() gives no {missing}"
        pairs = [(name, as_double(found[name]), want) for name, want in expected.items()]
        for key in gradients:
            assert given[key].grad is not None, f"{self.name}: no gradient reaches {key}"
            pairs.append((f"gradient of {key}", given[key].grad, tensors[f"expected.grad.{key}"]))
        for key in self.json.get("no_gradient", []):
            assert given[key].grad is None or not given[key].grad.any(), f"{self.name}: a gradient reaches {key}"
        for name, have, want in pairs:
            assert have.shape == want.shape, f"{self.name}: {name} has shape {tuple(have.shape)}, not {want.shape}"
            if want.dtype != torch.float64:
                yield name, 0.0 if torch.equal(have.to(want.dtype), want) else float("inf"), 0.0, 1.0
                continue
            assert have.dtype == torch.float64, f"{self.name}: {name} is {have.dtype}"
            scale = float(want.abs().max()) if want.numel() else 0.0
            difference = float((have - want).abs().max()) if want.numel() else 0.0
            yield name, difference, atol + rtol * scale, scale


def as_double(value):
    """A number or a tensor, to compare; a tensor keeps its dtype."""
    return value.detach() if isinstance(value, torch.Tensor) else torch.tensor(value, dtype=torch.float64)


def cases(folder=FOLDER):
    """All cases of a folder, by name."""
    return {file.parent.name: Case(file.parent.name, folder) for file in sorted(folder.glob("*/case.json"))}


def batch_of(given, labels=None, *, epoch=0, indices=None, outputs=None):
    """The batch that the engine would hand over: of the tensors by their golden names, or of `outputs`."""
    if outputs is None:
        outputs = {(STUDENT, CLEAN): outputs_of(given, "student"), (TEACHER, CLEAN): outputs_of(given, "teacher")}
    count = len(next(tensor for name, tensor in given.items() if name.startswith(("student.", "teacher."))))
    labels = given.get("labels", torch.zeros(count, dtype=torch.int64)) if labels is None else labels
    indices = given.get("indices", torch.arange(count)) if indices is None else indices
    return Batch(outputs, labels, indices, torch.tensor(0), torch.tensor(epoch), torch.tensor(0.0), torch.tensor(0))


def outputs_of(given, role):
    """A network's outputs from the tensors `<role>.logits`, `<role>.embedding`, `<role>.maps.<i>`."""
    maps = []
    while f"{role}.maps.{len(maps)}" in given:
        maps.append(given[f"{role}.maps.{len(maps)}"])
    return Outputs(given.get(f"{role}.logits"), given.get(f"{role}.embedding"), tuple(maps), tuple(maps))


def cross_entropy(given):
    return F.cross_entropy(given["student.logits"], given["labels"])


def fill(module, given, prefix):
    """Put the tensors `<prefix>.<name>` in the place of a module's parameters, each by its name; returns the module.

    The given tensors themselves are put there, so that gradients reach them.
    """
    for name, _ in list(module.named_parameters()):
        tensor = given[f"{prefix}.{name}"]
        path, _, leaf = name.rpartition(".")
        owner = module.get_submodule(path)
        owner._parameters.pop(leaf)
        setattr(owner, leaf, tensor)
    return module


def record():
    """The catalogue's entry of each method: its cases and the largest difference from them, rounded up."""
    found = {}
    for case in cases().values():
        if not case.left_out:
            entry = {"case": case.name, "source": case.source, "worst_difference": rounded_up(case.worst())}
            found.setdefault(case.method, []).append(entry)
    return {method: found[method] for method in sorted(found)}


def rounded_up(difference):
    """The next power of ten above ten times the difference, at least 1e-14: other machines sum in another order."""
    return 10.0 ** math.ceil(math.log10(max(10 * difference, 1e-14)))


if __name__ == "__main__":
    CONFORMANCE.write_text(json.dumps(record(), indent=1) + "\n")
