import pytest
import torch

from retort.methods.pkt import PKT, cosine_kernel, shares
from tests.retort.methods.goldens import batch_of


def golden(case, given):
    return {"loss": PKT(weight=1).terms(batch_of(given), None)["neighbours"]}


def embedding(seed, features=5):
    return torch.randn(6, features, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def term(student, teacher, **fields):
    return PKT(**fields).terms(batch_of({"student.embedding": student, "teacher.embedding": teacher}), None)[
        "neighbours"
    ]


def test_it_sees_neither_rotation_nor_the_lengths_of_embeddings():
    turned = torch.arange(1, 7)[:, None] * embedding(0) @ torch.linalg.qr(embedding(1)[:5]).Q
    assert term(turned, embedding(0), weight=1).item() == pytest.approx(0, abs=1e-7)
    assert term(embedding(1), embedding(0), weight=1).item() > 1e-3


def test_the_kernel_of_equal_right_angled_and_opposite_embeddings():
    kernel = cosine_kernel(torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 3.0], [-1.0, 0.0]]), 0.0)
    torch.testing.assert_close(kernel[0], torch.tensor([1, 1, 0.5, 0]))


def test_shares_of_a_row_sum_to_one():
    torch.testing.assert_close(shares(cosine_kernel(embedding(0), 1e-7)).sum(1), torch.ones(6, dtype=torch.float64))


def test_the_weight_is_a_factor():
    assert term(embedding(0), embedding(1)).item() == pytest.approx(30_000 * term(embedding(0), embedding(1), weight=1))


def test_an_embedding_of_zeros_has_a_finite_gradient():
    student = (embedding(0) * torch.tensor([0.0, 1, 1, 1, 1, 1])[:, None]).requires_grad_()
    term(student, embedding(1)).backward()
    assert torch.isfinite(student.grad).all()
