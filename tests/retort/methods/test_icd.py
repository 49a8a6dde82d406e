from math import e, log

import pytest
import torch

from retort.methods._embeddings import ScaledEmbeddings
from retort.methods.icd import ICD
from tests.retort.methods.goldens import batch_of, fill


def golden(case, given):
    h = case["hyperparameters"]
    learned = "aux.log_scale" in given
    method = ICD(
        consistency_weight=h["consistency_weight"],
        scale="learned" if learned else "fixed",
        **({"max_scale": h["max_scale"]} if learned else {"fixed_scale": h["scale"]}),
    )
    widths = given["student.embedding"].shape[1], given["teacher.embedding"].shape[1]
    zeros = {"aux.bias": torch.tensor(0.0), "aux.log_scale": torch.tensor(0.0)}
    modules = fill(ScaledEmbeddings(*widths, h["embed_dim"]), zeros | given, "aux")
    terms = method.terms(batch_of(given), modules)
    return {
        "loss": sum(terms.values()),
        "contrastive": terms["contrastive"],
        "consistency_weighted": terms["consistency"],
    }


def terms(method, student, teacher):
    """With both embeddings left where they are."""
    modules = ScaledEmbeddings(3, 3, 3)
    modules.embed_student = modules.embed_teacher = torch.nn.Identity()
    modules.log_scale.data.fill_(9)
    given = {"student.embedding": student, "teacher.embedding": teacher}
    return {name: term.item() for name, term in method.terms(batch_of(given), modules).items()}


def test_contrast_of_right_angled_images():
    found = terms(ICD(scale="fixed", fixed_scale=5), torch.eye(3), 2 * torch.eye(3))
    assert found["contrastive"] == pytest.approx(log(e**5 + 2) - 5)
    assert found["consistency"] == pytest.approx(0, abs=1e-6)


def test_views_are_consistent_when_similarities_are_symmetric():
    student = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    assert terms(ICD(), student, student)["consistency"] == pytest.approx(0, abs=1e-6)
    assert terms(ICD(), student, student.flip(0).cumsum(0))["consistency"] > 0.01


def test_the_learned_scale_is_bounded():
    student, teacher = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    bounded = terms(ICD(max_scale=10), student, teacher)
    assert bounded == terms(ICD(scale="fixed", fixed_scale=10), student, teacher)
    assert bounded != terms(ICD(max_scale=20), student, teacher)


def test_what_is_learned(pair):
    learned, fixed = (pair(ICD(scale=scale)).method_state.modules for scale in ("learned", "fixed"))
    trained = {name for name, parameter in learned.named_parameters() if parameter.requires_grad}
    maps = {f"embed_{role}.{kind}" for role in ("student", "teacher") for kind in ("weight", "bias")}
    assert trained == maps | {"log_scale"}
    assert {name for name, parameter in fixed.named_parameters() if parameter.requires_grad} == maps
    assert ICD()._scale(learned).item() == pytest.approx(e)
