import pytest
import torch
from torch.nn import functional as F

from retort.methods.dkd import DKD
from retort.methods.kd import KD, softened_divergence
from retort.methods.lskd import LSKD, standardised
from retort.methods.mlld import MLLD
from tests.retort.methods.goldens import batch_of, cross_entropy
from tests.retort.methods.test_mlld import GIVEN, batch


def golden(case, given):
    h = case["hyperparameters"]
    if "beta" in h:
        found, plain = (
            LSKD(base=DKD(temperature=h["temperature"], alpha=alpha, beta=beta, warmup_epochs=1)).terms(
                batch_of(given), None
            )
            for alpha, beta in ((h["alpha"], h["beta"]), (1, 1))
        )
        soft = sum(found.values())
        parts = {"target_class": plain["target"], "non_target_class": plain["non_target"]}
    else:
        base = KD(temperature=h["temperature"], weight=h.get("kd_weight", 1))
        soft = LSKD(base=base).terms(batch_of(given), None)["soft"]
        parts = {"kd_weighted": soft}
    labels = h.get("ce_weight", 0) * cross_entropy(given) if "labels" in given else 0
    return parts | {"loss": labels + soft, "ce_weighted": labels}


def logits(seed):
    return torch.randn(6, 10, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def soft(student, teacher):
    return LSKD().terms(batch_of({"student.logits": student, "teacher.logits": teacher}), None)["soft"]


def test_rows_get_mean_zero_and_deviation_one():
    z = standardised(3 * logits(0) + 5)
    torch.testing.assert_close(z.mean(1), torch.zeros(6, dtype=torch.float64))
    torch.testing.assert_close(z.std(1), torch.ones(6, dtype=torch.float64))
    assert not standardised(torch.ones(6, 10)).any()


def test_it_does_not_depend_on_shift_and_scale():
    assert soft(3 * logits(0) + 5, logits(1)).item() == pytest.approx(soft(logits(0), logits(1)).item())
    assert soft(3 * logits(0) + 5, logits(0)).item() == pytest.approx(0, abs=1e-9)


def test_by_default_it_is_kd_at_temperature_two_with_weight_nine():
    wanted = 9 * softened_divergence(standardised(logits(0)), standardised(logits(1)), 2)
    assert soft(logits(0), logits(1)).item() == pytest.approx(wanted.item())


def test_the_labels_of_mlld_meet_the_logits_as_they_are():
    given = GIVEN | {"student.logits.strong": 5 * GIVEN["student.logits.strong"]}
    found = LSKD(base=MLLD()).terms(batch(given), None)
    wanted = 0.1 * F.cross_entropy(given["student.logits.strong"], given["labels"])
    assert found["strong_labels"].item() == pytest.approx(wanted.item())
    plain = LSKD(base=MLLD()).terms(batch(GIVEN), None)
    for name in ("instance", "batch", "class"):
        assert found[name].item() == pytest.approx(plain[name].item()), name


@pytest.mark.parametrize("base", [KD(), DKD(), MLLD()])
def test_every_base_is_run_compiled_and_known_by_its_name(pair, base):
    made = pair(LSKD(base=base))
    assert made.terms(made.batch()).keys() == pair(base).terms(made.batch()).keys()
    batch = made.batch(change=lambda tensor: tensor.detach().requires_grad_())

    def loss():
        return sum(made.terms(batch).values())

    torch.testing.assert_close(torch.compile(loss, fullgraph=True, backend="eager")(), loss())
    assert LSKD.model_validate(LSKD(base=base).model_dump()) == LSKD(base=base)
