"""Methods against values of the published implementations, in float64, value and gradient.

`tests/goldens/` holds a folder a case: `case.json` and `tensors.safetensors`. RETORT_GOLDENS names another folder of
the same format to check against instead.
"""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from worker.method import STUDENT, TEACHER, Batch, Outputs
from worker.methods.kd import KD
from worker.methods.r2kd import R2KD, PrunedTeacher, prune_smallest
from worker.view import CLEAN, CutMix

GOLDENS = Path(os.environ.get("RETORT_GOLDENS") or Path(__file__).parents[2] / "goldens")


def batch_of(outputs, labels):
    """What the engine would hand over, with only what a case gives."""
    clock = (torch.tensor(0), torch.tensor(0), torch.tensor(0.0))
    return Batch(outputs, labels, torch.arange(len(labels)), *clock)


def kd(case, t):
    h = case["hyperparameters"]
    method = KD(temperature=h["temperature"], weight=h.get("kd_weight", 1.0))
    labels = t.get("labels", torch.zeros(len(t["student.logits"]), dtype=torch.int64))
    outputs = {(STUDENT, CLEAN): Outputs(t["student.logits"]), (TEACHER, CLEAN): Outputs(t["teacher.logits"])}
    soft = method.terms(batch_of(outputs, labels), None)["soft"]
    if "ce_weight" not in h:
        return {"loss": soft}
    ce = h["ce_weight"] * F.cross_entropy(t["student.logits"], labels)
    return {"loss": ce + soft, "ce_weighted": ce, "kd_weighted": soft}


def r2kd(case, t):
    h = case["hyperparameters"]
    augmented = "student.logits.augmented" in t
    method = R2KD(
        temperature=h["temperature"],
        value_weight=h.get("value_weight", 0),
        rank_weight=h.get("rank_weight", 0),
        teacher_share=h.get("teacher_share", 1),
        ranking="hard",
        augmentation="cutmix" if augmented else "none",
    )
    roles = {"student": STUDENT, "teacher": TEACHER, "teacher_pruned": PrunedTeacher(rate=0.1, mode="eval")}
    outputs = {
        (network, view): Outputs(t[f"{role}.logits{suffix}"])
        for suffix, view in (("", CLEAN), (".augmented", CutMix(alpha=1.0)))
        for role, network in roles.items()
        if f"{role}.logits{suffix}" in t
    }
    labels = t.get("labels")
    terms = method.terms(batch_of(outputs, torch.zeros(8) if labels is None else labels), None)
    rest = sum(terms.values())
    if labels is None:
        return {"loss": rest}
    ce = F.cross_entropy(t["student.logits"], labels)
    return {"loss": ce + rest, "ce": ce, "value_plus_rank": rest}


LOSSES = {
    "kd__logits": kd,
    "kd__large_logits": kd,
    "kd__weighted_total": kd,
    "r2kd__value": r2kd,
    "r2kd__rank": r2kd,
    "r2kd__mixed_teacher_total": r2kd,
    "r2kd__total_with_augmented": r2kd,
}


def load(name):
    case = json.loads((GOLDENS / name / "case.json").read_text())
    tensors = load_file(GOLDENS / name / "tensors.safetensors")
    given = {k: v for k, v in tensors.items() if not k.startswith("expected.")}
    for key in (*case["gradients"], *case.get("no_gradient", [])):
        given[key].requires_grad_()
    return case, given, tensors


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_loss_and_gradient_are_the_published_ones(name):
    case, given, tensors = load(name)
    rtol, atol = case["tolerance"]["rtol"], case["tolerance"]["atol"]
    found = LOSSES[name](case, given)
    for term, want in {"loss": case["expected"]["loss"], **case["expected"]["terms"]}.items():
        if term in found:
            assert found[term].item() == pytest.approx(want, rel=rtol, abs=atol), term
    assert found["loss"].requires_grad == bool(case["gradients"])
    if case["gradients"]:
        found["loss"].backward()
    for key in case["gradients"]:
        want = tensors[f"expected.grad.{key}"]
        assert (given[key].grad - want).abs().max() <= atol + rtol * want.abs().max(), key


def test_pruning_keeps_the_published_weights():
    case, given, tensors = load("r2kd__prune_masks")
    net = torch.nn.Module()
    for name in ("conv1", "conv2", "conv3", "fc", "bn1"):
        weight, bias = given[f"aux.{name}.weight"], given.get(f"aux.{name}.bias")
        kind = {1: torch.nn.BatchNorm2d, 2: torch.nn.Linear, 4: torch.nn.Conv2d}[weight.ndim]
        layer = kind(*([len(weight)] if weight.ndim == 1 else [1, 1] if weight.ndim == 2 else [1, 1, 1]))
        layer.weight = torch.nn.Parameter(weight.clone())
        layer.bias = torch.nn.Parameter(bias.clone()) if bias is not None else None
        setattr(net, name, layer)
    prune_smallest(net, case["hyperparameters"]["prune_rate"])
    for key, want in tensors.items():
        if key.startswith("expected.out.") and not key.endswith(".mask"):
            assert torch.equal(net.get_parameter(key.removeprefix("expected.out.")), want), key
