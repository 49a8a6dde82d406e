import pytest
import torch

from retort.methods.aekt import AEKT
from retort.methods.dkd import decoupled_divergences
from tests.retort.methods.goldens import batch_of

LABELS = torch.tensor([0, 9, 3, 3, 5, 1])


def logits(seed):
    return torch.randn(6, 10, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def terms(student, teacher, layer=None, labels=LABELS, **fields):
    batch = batch_of({"student.logits": student, "teacher.logits": teacher, "labels": labels})
    return AEKT(**fields).terms(batch, layer or torch.nn.Identity())


def test_it_is_zero_for_equal_networks():
    for term in terms(logits(0), logits(0)).values():
        assert term.item() == pytest.approx(0, abs=1e-12)


def test_the_layer_starts_as_the_identity_and_is_trained(pair):
    made = pair(AEKT())
    layer = made.method_state.modules
    z = torch.randn(4, 10)
    assert torch.equal(layer(z), z)
    made.step(0)
    assert not torch.equal(layer.weight, torch.eye(10))
    assert layer.bias.any()


def test_both_terms_read_the_layers_output():
    layer = torch.nn.Linear(10, 10, dtype=torch.float64)
    found, wanted = terms(logits(0), logits(1), layer), terms(layer(logits(0)), logits(1))
    for name, term in found.items():
        assert term.item() == wanted[name].item(), name


def test_each_image_weighs_by_its_ratio_of_confidences():
    for i in range(6):
        one = slice(i, i + 1)
        student, teacher, label = logits(0)[one], logits(1)[one], LABELS[one]
        target, rest = decoupled_divergences(student, teacher, label, 4)
        p_s, p_t = ((z / 4).softmax(1)[0, label].item() for z in (student, teacher))
        found = terms(student, teacher, labels=label, explicit_weight=3, implicit_weight=2, ratio_limit=1000)
        assert found["explicit"].item() == pytest.approx(3 * p_t / p_s * target.item())
        assert found["implicit"].item() == pytest.approx(2 * rest.item())


def test_the_ratio_is_limited_and_has_no_gradient():
    student = logits(0)
    student[torch.arange(6), LABELS] -= 40
    student.requires_grad_()
    plain, _ = decoupled_divergences(student, logits(1), LABELS, 4)
    explicit = terms(student, logits(1), ratio_limit=3, explicit_weight=1)["explicit"]
    assert explicit.item() == pytest.approx(3 * plain.item())
    (wanted,), (found,) = (torch.autograd.grad(term, student) for term in (3 * plain, explicit))
    torch.testing.assert_close(found, wanted)
