import pytest
import torch

from retort.methods._embeddings import LinearEmbeddings
from retort.methods.cc import CC
from tests.retort.methods.goldens import batch_of, fill


def golden(case, given):
    h = case["hyperparameters"]
    if "gamma" in h:
        method = CC(weight=1, form="gaussian", gamma=h["gamma"], taylor_order=h["taylor_order"])
        # The embeddings given are in the common space already, and of unit length.
        return {"loss": method.terms(batch_of(given), identity(given, unit_length=False))["correlation"]}
    widths = given["student.embedding"].shape[1], given["teacher.embedding"].shape[1]
    modules = fill(LinearEmbeddings(*widths, h["embed_dim"], unit_length=False), given, "aux")
    return {"loss": CC(weight=1).terms(batch_of(given), modules)["correlation"]}


def identity(given, *, unit_length):
    """Modules that leave embeddings where they are."""
    width = given["student.embedding"].shape[1]
    modules = LinearEmbeddings(width, width, width, unit_length=unit_length)
    modules.embed_student = modules.embed_teacher = torch.nn.Identity()
    return modules


def embedding(seed, count=6):
    return torch.randn(count, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def term(student, teacher, **fields):
    given = {"student.embedding": student, "teacher.embedding": teacher}
    method = CC(weight=1, **fields)
    return method.terms(batch_of(given), identity(given, unit_length=method.form == "gaussian"))["correlation"].item()


@pytest.mark.parametrize("form", ["consecutive", "gaussian"])
def test_it_is_zero_for_equal_embeddings(form):
    assert term(embedding(0), embedding(0), form=form) == 0


def test_only_the_published_form_depends_on_the_batchs_order():
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    values = {
        form: [term(embedding(0)[o], embedding(1)[o], form=form) for o in (order.sort().values, order)]
        for form in ("consecutive", "gaussian")
    }
    assert values["gaussian"][0] == pytest.approx(values["gaussian"][1])
    assert values["consecutive"][0] != pytest.approx(values["consecutive"][1])


def test_the_kernel_tends_to_the_gaussian_of_the_distance():
    x = torch.nn.functional.normalize(embedding(0), dim=1)
    wanted = torch.exp(-0.7 * torch.cdist(x, x).square())
    torch.testing.assert_close(CC(form="gaussian", gamma=0.7, taylor_order=20)._kernel(x), wanted)


def test_the_kernel_form_sees_directions_alone():
    lengths = torch.arange(1, 7)[:, None]
    assert term(lengths * embedding(0), embedding(0), form="gaussian") == pytest.approx(0, abs=1e-12)


def test_one_image_has_no_neighbours():
    assert term(embedding(0, 1), embedding(1, 1)) == 0


@pytest.mark.parametrize("form", ["consecutive", "gaussian"])
def test_the_modules_map_to_the_width_and_length_that_the_form_wants(pair, form):
    made = pair(CC(form=form, features=7))
    student, teacher = made.method_state.modules(torch.ones(3, 64), torch.ones(3, 256))
    assert student.shape == teacher.shape == (3, 7)
    assert torch.allclose(student.norm(dim=1), torch.ones(3)) == (form == "gaussian")
