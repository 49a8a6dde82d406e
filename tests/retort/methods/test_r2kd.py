from dataclasses import replace

import pytest
import torch

from retort.architectures import CARDS
from retort.method import STUDENT, TEACHER, Setup
from retort.methods.r2kd import (
    R2KD,
    PrunedTeacher,
    _cosines,
    hard_ranks,
    prune_smallest,
    rank_distance,
    soft_ranks,
    value_distance,
)
from retort.outputs import Outputs
from retort.view import CLEAN, AutoAugment, CutMix
from tests.retort.methods.conftest import FACTS
from tests.retort.methods.goldens import batch_of, cross_entropy


def golden(case, given):
    if "aux.conv1.weight" in given:
        return golden_pruning(case, given)
    h = case["hyperparameters"]
    augmented = "student.logits.augmented" in given
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
        (network, view): Outputs(given[f"{role}.logits{suffix}"])
        for suffix, view in (("", CLEAN), (".augmented", CutMix(alpha=1.0)))
        for role, network in roles.items()
        if f"{role}.logits{suffix}" in given
    }
    batch = batch_of(given, outputs=outputs)
    rest = sum(method.terms(batch, None).values())
    student, teacher = given["student.logits"], method._mixed_teacher(batch, CLEAN)
    p, q = (logits.div(h["temperature"]).softmax(1).detach() for logits in (student, teacher))
    classes = student.shape[1]
    ranks = [hard_ranks(logits) / (classes * (classes + 1) / 2) for logits in (student, teacher)]
    pairs = zip(student, teacher, strict=True)
    found = {
        "loss": rest,
        "rows": (1 - _cosines(p, q, dim=1)).mean(),
        "columns": (1 - _cosines(p, q, dim=0)).mean(),
        "out.teacher_mix": teacher,
        "out.ranks_student": ranks[0],
        "out.ranks_teacher": ranks[1],
        "out.spearman": torch.stack([1 - rank_distance(s[None], t[None], None) for s, t in pairs]),
    }
    if "ce" in case["expected"]["terms"]:
        labels = cross_entropy(given)
        found |= {"loss": labels + rest, "ce": labels, "value_plus_rank": rest}
    return found


def golden_pruning(case, given):
    """The layers of a small network, pruned."""
    net = torch.nn.Module()
    for name in dict.fromkeys(key.split(".")[1] for key in given):
        weight, bias = given[f"aux.{name}.weight"], given.get(f"aux.{name}.bias")
        kind = {1: torch.nn.BatchNorm2d, 2: torch.nn.Linear, 4: torch.nn.Conv2d}[weight.ndim]
        layer = kind(*([len(weight)] if weight.ndim == 1 else [1, 1] if weight.ndim == 2 else [1, 1, 1]))
        layer.weight = torch.nn.Parameter(weight.clone())
        layer.bias = torch.nn.Parameter(bias.clone()) if bias is not None else None
        setattr(net, name, layer)
    prune_smallest(net, case["hyperparameters"]["prune_rate"])
    found = {f"out.{name}": parameter for name, parameter in net.named_parameters()}
    weights = {k: v for k, v in found.items() if k.endswith("weight") and v.ndim > 1}
    found |= {k.replace("weight", "mask"): v != 0 for k, v in weights.items()}
    found["weights_total"] = sum(v.numel() for v in weights.values())
    found["weights_nonzero"] = sum(int((v != 0).sum()) for v in weights.values())
    return found


def logits(seed):
    return torch.randn(5, 12, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_distances_are_zero_for_equal_networks():
    p = logits(0).softmax(1)
    assert value_distance(p, p).item() == pytest.approx(0, abs=1e-6)
    assert rank_distance(logits(0), logits(0), None).item() == pytest.approx(0, abs=1e-6)
    assert rank_distance(logits(0), logits(0), 0.1).item() == pytest.approx(0, abs=1e-6)


def test_reversed_ranks_are_as_far_as_can_be():
    assert rank_distance(logits(0), -logits(0), None).item() == pytest.approx(2, abs=1e-5)


def test_soft_ranks_tend_to_hard_ones():
    torch.testing.assert_close(soft_ranks(logits(0), 1e-4), hard_ranks(logits(0)))


def test_only_soft_ranks_have_a_gradient():
    student = logits(0).requires_grad_()
    assert not rank_distance(student, logits(1), None).requires_grad
    rank_distance(student, logits(1), 0.1).backward()
    assert student.grad.abs().sum() > 0


def test_ranks_do_not_depend_on_shift_and_scale():
    wanted = soft_ranks(logits(0), 0.1)
    torch.testing.assert_close(soft_ranks(3 * logits(0) + 5, 0.1), wanted)


def test_pruning_zeroes_its_share_layer_by_layer(pair):
    network = pair.build("resnet8")
    whole = {name: p.clone() for name, p in network.named_parameters()}
    prune_smallest(network, 0.25)
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1:
            zero = parameter == 0
            assert zero.sum() == round(0.25 * parameter.numel()), name
            assert whole[name][zero].abs().max() <= whole[name][~zero].abs().min(), name
        else:
            assert torch.equal(parameter, whole[name]), name


@pytest.mark.parametrize("augmentation", ["none", "mixup", "cutmix", "cutout", "cutmix_pick", "autoaugment"])
def test_each_view_gives_its_terms(pair, augmentation):
    made = pair(R2KD(augmentation=augmentation))
    terms = made.terms(made.batch())
    wanted = {"value", "rank"} | (set() if augmentation == "none" else {"augmented_value", "augmented_rank"})
    assert terms.keys() == wanted


@pytest.mark.parametrize(("pixels", "policy"), [(28, "cifar10"), (32, "cifar10"), (33, "imagenet"), (224, "imagenet")])
def test_the_policy_of_autoaugment_depends_on_the_images_size(pixels, policy):
    facts = FACTS.model_copy(update={"image_size": pixels})
    setup = Setup(facts, facts.classes, CARDS["resnet8"], CARDS["resnet8x4"], 8, 2, CARDS)
    assert R2KD(augmentation="autoaugment").views(setup) == {CLEAN, AutoAugment(policy)}


def test_without_mixing_no_pruned_teacher_is_run(pair):
    assert pair(R2KD(teacher_share=1)).factory.frozen.keys() == {TEACHER}


def test_the_pruned_teacher_in_train_mode_uses_the_batch(pair):
    outputs = {}
    for mode in ("eval", "train"):
        made = pair(R2KD(pruned_teacher_mode=mode, augmentation="none"))
        network = made.factory.frozen[PrunedTeacher(rate=0.1, mode=mode)]
        outputs[mode] = [network.read(made.images[:n]).logits[0] for n in (4, 8)]
    torch.testing.assert_close(*outputs["eval"])
    assert not torch.allclose(*outputs["train"])


def test_augmented_terms_read_the_augmented_view(pair):
    made = pair(R2KD(augmentation="cutmix"))
    batch = made.batch()
    swapped = {key: batch.outputs[key[0], CLEAN if key[1] == CutMix() else CutMix()] for key in batch.outputs}
    first = made.terms(batch)
    second = made.terms(replace(batch, outputs=swapped))
    assert first["value"].item() == second["augmented_value"].item()
    assert first["rank"].item() == second["augmented_rank"].item()
