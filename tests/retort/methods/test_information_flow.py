from dataclasses import replace

import pytest
import torch

from retort.architectures import CARDS
from retort.method import STUDENT, TEACHER, MethodError, Tap
from retort.methods._layers import FurtherNetwork
from retort.methods.information_flow import AuxiliaryTeacher, InformationFlow, _layers, _student_t_kernel
from retort.outputs import Outputs
from retort.view import CLEAN
from tests.retort.methods.goldens import batch_of

AUXILIARY = AuxiliaryTeacher("resnet8", 40, 1.0, "combined")


def golden(case, given):
    h = case["hyperparameters"]
    if "decay" in h:
        return golden_layers(given, h)
    only = {"kernel (1+cos)/2": "cosine", "kernel 1/(1+d)": "student_t"}
    kernels = next((name for text, name in only.items() if text in case["formula"]), "combined")
    return {"loss": InformationFlow(kernels=kernels).divergence(given["student.embedding"], given["teacher.embedding"])}


def golden_layers(given, h):
    """Layer 0 is the embedding; the others are maps, and stand shallow to deep before a last map that is not read."""
    method = InformationFlow(intermediate_weight=h["initial_weight"], intermediate_decay=h["decay"])
    count = sum(name.startswith("student.embedding.") for name in given)
    layers = {role: [given[f"{role}.embedding.{i}"] for i in range(count)] for role in ("student", "teacher")}
    outputs = {
        (network, CLEAN): Outputs(None, layers[role][0], (*(x[:, :, None, None] for x in layers[role][:0:-1]), None))
        for role, network in (("student", STUDENT), ("teacher", AUXILIARY))
    }
    terms = method.terms(batch_of(given, outputs=outputs, epoch=h["epoch"]), FurtherNetwork(AUXILIARY))
    pairs = list(zip(layers["student"], layers["teacher"], strict=True))
    divergences = [method.divergence(student, teacher) for student, teacher in pairs]
    return {
        "loss": sum(terms.values()),
        **{f"layer.{i}": divergence for i, divergence in enumerate(divergences)},
        "intermediate_weight": terms["intermediate"] / sum(divergences[1:]),
    }


def layer(seed, features=5):
    return torch.randn(6, features, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("kernels", ["combined", "cosine", "student_t"])
def test_divergence_of_layers_with_the_same_relations_is_zero_and_else_symmetric(kernels):
    divergence = InformationFlow(kernels=kernels).divergence
    turned = layer(0) @ torch.linalg.qr(layer(1)[:5]).Q
    assert divergence(turned, layer(0)).item() == pytest.approx(0, abs=1e-12)
    assert divergence(layer(1), layer(0)).item() == pytest.approx(divergence(layer(0), layer(1)).item())
    assert divergence(layer(1), layer(0)) > 1e-4


def test_kernels_add_up():
    both, cosine, student_t = (
        InformationFlow(kernels=kernels).divergence(layer(0), layer(1)).item()
        for kernels in ("combined", "cosine", "student_t")
    )
    assert both == pytest.approx(cosine + student_t)


def test_opposite_layers_have_a_finite_divergence():
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]).requires_grad_()
    term = InformationFlow().divergence(x, torch.ones(2, 2))
    term.backward()
    assert torch.isfinite(term)
    assert torch.isfinite(x.grad).all()


def test_the_kernel_of_distances_holds_in_single_precision():
    far = layer(0) + 1000
    torch.testing.assert_close(_student_t_kernel(far.float()), _student_t_kernel(far).float(), rtol=1e-4, atol=1e-6)


def test_layers_go_from_the_embedding_towards_the_image(pair):
    made = pair(InformationFlow())
    outputs = made.batch().student()
    wanted = [outputs.embedding, *(outputs.maps[i].flatten(1) for i in (2, 1, 0))]
    assert len(outputs.maps) == 4
    for found, want in zip(_layers(outputs), wanted, strict=True):
        assert torch.equal(found, want)


def test_the_weight_of_the_layers_before_the_embedding_decays(pair):
    made = pair(InformationFlow())
    batch = made.batch()
    first, later = (made.terms(replace(batch, epoch=torch.tensor(epoch))) for epoch in (0, 3))
    assert later["last"] == first["last"]
    assert later["intermediate"].item() == pytest.approx(0.7**3 * first["intermediate"].item())


def test_the_auxiliary_network_is_the_students_own_or_the_one_that_is_named(pair):
    made = pair(InformationFlow(auxiliary="resnet20", auxiliary_epochs=3))
    spec = AuxiliaryTeacher("resnet20", 3, 1.0, "combined")
    assert made.factory.frozen.keys() == {TEACHER, spec}
    (phase,) = made.method.phases(made.student_state.setup)
    assert (phase.epochs, phase.trains) == (3, spec)
    assert phase.taps == {Tap(spec, "embedding"), Tap(TEACHER, "embedding")}
    assert pair(InformationFlow()).factory.frozen.keys() == {TEACHER, AUXILIARY}


def test_the_phase_leads_the_auxiliary_network_to_the_teacher(pair):
    made = pair(InformationFlow(weight=1000))
    phase = made.train_states[0]
    losses = [made.step(0, phase) for _ in range(20)]
    assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize(
    ("auxiliary", "sentence"),
    [
        ("resnet1000", "the auxiliary network resnet1000 is not a known architecture"),
        ("torchvision.resnet18", "torchvision.resnet18 has 5 stages, the student resnet8 4"),
        ("torchvision.convnext_tiny", "reads images of 32 pixels a side at least; the data set's have 8"),
    ],
)
def test_auxiliary_networks_that_do_not_fit(pair, auxiliary, sentence):
    setup = pair(InformationFlow()).student_state.setup
    with pytest.raises(MethodError, match=sentence):
        InformationFlow(auxiliary=auxiliary).check(setup)
    InformationFlow(auxiliary="wrn_16_2").check(setup)
    assert len(CARDS["wrn_16_2"].stages) == 4
