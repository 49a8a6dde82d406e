import pytest
import torch

from retort.architectures import CARDS
from retort.method import MethodError, Setup
from retort.methods.ctkd import CTKD
from retort.methods.dkd import DKD
from retort.methods.kd import KD, softened_divergence
from tests.retort.methods.conftest import FACTS
from tests.retort.methods.goldens import batch_of, cross_entropy

FIELDS = ("t_start", "t_end", "decay_max", "decay_min", "decay_loops")


def golden(case, given):
    h = case["hyperparameters"]
    # The case's epoch is the number that enters the formula, which counts from 1.
    batch = batch_of(given, epoch=h["epoch"] - 1)
    fields = {name: h[name] for name in FIELDS} | {"base": KD(weight=h["kd_weight"])}
    method, plain = CTKD(**fields), CTKD(**fields | {"decay_max": 1, "decay_min": 1})
    theta = given["aux.theta"]
    modules = {"theta": theta.squeeze()}
    soft = method.terms(batch, modules)["soft"]
    (gradient,) = torch.autograd.grad(plain.terms(batch, modules)["soft"], theta)
    labels = cross_entropy(given)
    return {
        "loss": h["ce_weight"] * labels + soft,
        "temperature": method._temperature(theta.squeeze(), batch),
        "reversal_factor": method._gradient_factor(batch.epoch, torch.float64),
        "ce": labels,
        "kl_times_T2": CTKD(**fields | {"base": KD(weight=1)}).terms(batch, modules)["soft"],
        "out.grad_theta_not_reversed": gradient,
    }


def logits(seed):
    return torch.randn(6, 10, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


GIVEN = {
    "student.logits": logits(0),
    "teacher.logits": logits(1),
    "labels": torch.tensor([0, 9, 3, 3, 5, 1]),
}


def gradient(epoch, **fields):
    theta = torch.ones((), dtype=torch.float64, requires_grad=True)
    sum(CTKD(**fields).terms(batch_of(GIVEN, epoch=epoch), {"theta": theta}).values()).backward()
    return theta.grad.item()


@pytest.mark.parametrize("base", [KD(), DKD(warmup_epochs=1)])
def test_the_gradient_of_theta_is_reversed_by_and_by(base):
    plain = gradient(0, base=base, decay_max=1, decay_min=1)
    wanted = {-1: 0, 4: -0.5, 9: -1, 100: -1}
    for epoch, factor in wanted.items():
        assert gradient(epoch, base=base) == pytest.approx(factor * plain, abs=1e-15), epoch


def test_the_students_gradient_is_kds_at_the_trained_temperature():
    student, other = logits(0).requires_grad_(), logits(0).requires_grad_()
    theta = torch.tensor(0.3, dtype=torch.float64)
    CTKD().terms(batch_of(GIVEN | {"student.logits": student}, epoch=5), {"theta": theta})["soft"].backward()
    (0.9 * softened_divergence(other, logits(1), (1 + 20 * theta.sigmoid()).item())).backward()
    torch.testing.assert_close(student.grad, other.grad)


def test_theta_climbs_the_loss_once_reversed():
    theta = torch.ones((), dtype=torch.float64, requires_grad=True)
    batch, method = batch_of(GIVEN, epoch=9), CTKD()
    before = method.terms(batch, {"theta": theta})["soft"]
    before.backward()
    with torch.no_grad():
        theta -= 0.1 * theta.grad
    assert method.terms(batch, {"theta": theta})["soft"] > before


def test_it_starts_at_the_published_temperature(pair):
    made = pair(CTKD())
    theta = made.method_state.modules["theta"]
    assert made.method._temperature(theta, made.batch()).item() == pytest.approx(15.6212, abs=1e-4)


def test_a_base_with_a_temperature_of_its_own():
    setup = Setup(FACTS, FACTS.classes, CARDS["resnet8"], CARDS["resnet8x4"], 8, 2, CARDS)
    CTKD(base=DKD(beta=2)).check(setup)
    with pytest.raises(MethodError, match=r"the temperature is trained, but base\.temperature is 2; leave it out"):
        CTKD(base=KD(temperature=2)).check(setup)
