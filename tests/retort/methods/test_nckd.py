import pytest
import torch
from torch.nn import functional as F

from retort.architectures import CARDS
from retort.method import MethodError
from retort.methods._layers import ClassMeans, Prototypes
from retort.methods.nckd import NCKD, PrototypeClassifier, sure_scale

K, D = 4, 6


def state(target=None):
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(K, D, generator=generator, dtype=torch.float64)
    directions = F.normalize(means - means.mean(0), dim=1)
    target = directions @ directions.T if target is None else target
    return ClassMeans(directions, means.mean(0), target, torch.nn.Identity())


def collapsed(made, labels, scale=2.0):
    return (made.origin_D + scale * made.directions_KD)[labels]


LABELS = torch.tensor([0, 1, 2, 3, 0, 1])


def test_pull_is_zero_on_the_prototypes_and_two_opposite_to_them():
    made, method = state(), NCKD(nc1="pull")
    assert method._nc1(collapsed(made, LABELS), LABELS, made).item() == pytest.approx(0, abs=1e-12)
    assert method._nc1(collapsed(made, LABELS, -1.0), LABELS, made).item() == pytest.approx(2)


def test_contrast_is_cross_entropy_of_cosines():
    made, method = state(), NCKD(nc1_temperature=0.2)
    h = torch.randn(6, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    cosines = torch.stack([F.cosine_similarity(h - made.origin_D, t[None]) for t in made.directions_KD], dim=1)
    wanted = -(cosines / 0.2).log_softmax(1)[torch.arange(6), LABELS].mean()
    assert method._nc1(h, LABELS, made).item() == pytest.approx(wanted.item())


def test_nc2_is_zero_when_class_means_have_the_teachers_angles():
    made, method = state(), NCKD()
    centred = made.directions_KD - made.directions_KD.mean(0)
    made.target_KK.copy_(F.normalize(centred, dim=1) @ F.normalize(centred, dim=1).T)
    rotated = collapsed(made, LABELS) @ torch.linalg.qr(torch.randn(D, D, dtype=torch.float64)).Q
    assert method._nc2(rotated, LABELS, made).item() == pytest.approx(0, abs=1e-12)


def test_nc2_of_one_class_alone_is_zero_and_finite():
    labels = torch.zeros(3, dtype=torch.int64)
    h = torch.randn(3, D, dtype=torch.float64).requires_grad_()
    term = NCKD()._nc2(h, labels, state())
    term.backward()
    assert term.item() == 0
    assert torch.isfinite(h.grad).all()


def test_running_means_keep_what_is_absent_and_start_with_the_first_batch():
    made = state()
    first = torch.tensor([[1.0] * D, [3.0] * D], dtype=torch.float64)
    means, seen, present = made.with_batch(first, torch.tensor([0, 0]), momentum=0.9)
    assert torch.equal(means[0], torch.full((D,), 2.0, dtype=torch.float64))
    assert seen.tolist() == present.tolist() == [1, 0, 0, 0]
    made.means_KD.copy_(means)
    made.seen_K.copy_(seen)
    means, seen, present = made.with_batch(first[:1], torch.tensor([0]), momentum=0.9)
    torch.testing.assert_close(means[0], torch.full((D,), 0.9 * 2 + 0.1 * 1, dtype=torch.float64))
    means, seen, present = made.with_batch(first[:1], torch.tensor([1]), momentum=0.9)
    assert torch.equal(means[0], made.means_KD[0])
    assert seen.tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_the_scale_makes_a_collapsed_simplex_nine_tenths_sure(classes):
    cosines = torch.full((classes,), -1 / (classes - 1), dtype=torch.float64)
    cosines[0] = 1
    assert (sure_scale(classes) * cosines).softmax(0)[0].item() == pytest.approx(0.9)


def test_the_simplex_target():
    directions = torch.eye(5)
    assert torch.equal(NCKD(nc2_target="simplex")._target(directions), torch.full((5, 5), -0.25))


def test_prototypes_come_from_the_teachers_class_means(pair):
    made = pair(NCKD())
    with torch.no_grad():
        features = made.teacher.read(made.images, ["embedding"]).embedding
    means = torch.stack([features[made.targets == c].mean(0) for c in range(10)])
    prototypes = made.train_state.network.classifier
    assert isinstance(prototypes, Prototypes)
    torch.testing.assert_close(prototypes.origin_D.data, means.mean(0))
    torch.testing.assert_close(prototypes.directions_KD.data, F.normalize(means - means.mean(0), dim=1))


def test_with_nc3_the_logits_are_scaled_cosines_of_the_embedding(pair):
    made = pair(NCKD(nc3_scale=5))
    outputs = made.train_state.network.read(made.images, ["embedding"])
    assert outputs.embedding.shape == (40, CARDS["resnet8x4"].embedding)
    prototypes = made.train_state.network.classifier
    wanted = 5 * F.cosine_similarity(
        (outputs.embedding - prototypes.origin_D)[:, None], prototypes.directions_KD[None], 2
    )
    torch.testing.assert_close(outputs.logits, wanted)


@pytest.mark.parametrize(
    ("teacher", "projection", "projects"),
    [("resnet8x4", "auto", True), ("resnet20", "auto", False), ("resnet20", "linear", True)],
)
@pytest.mark.parametrize("nc3", [True, False])
def test_a_projection_stands_where_it_is_needed(pair, teacher, projection, projects, nc3):
    made = pair(NCKD(projection=projection, nc3=nc3), teacher=teacher)
    head = made.train_state.network.body.fc.projection if nc3 else made.method_state.modules.projection
    assert isinstance(head, torch.nn.Linear) == projects
    assert made.method_state.modules.projection.__class__ is (
        torch.nn.Linear if projects and not nc3 else torch.nn.Identity
    )


@pytest.mark.parametrize("teacher", ["resnet8x4", "resnet20"])
def test_the_wrapped_card_counts_what_is_stored(pair, teacher):
    made = pair(NCKD(), teacher=teacher)
    assert made.student_state.setup.student.parameters(10) == made.train_state.network.parameter_count()
    assert made.student_state.wrapper[0] == "nckd"
    assert isinstance(made.student_state.wrapper[1], PrototypeClassifier)


def test_the_terms_that_weigh_nothing_are_left_out(pair):
    made = pair(NCKD(nc1_weight=0))
    assert made.terms(made.batch()).keys() == {"nc2"}


def test_a_class_without_images(pair):
    class Lacking(pair):
        def teacher_pass(self, *reads, positions=None):
            for outputs, labels, indices in super().teacher_pass(*reads, positions=positions):
                yield outputs, labels.where(labels != 3, 4), indices

    with pytest.raises(Exception, match="no image of '3'; each class needs one for its prototype"):
        Lacking(NCKD())


def test_a_recipe_without_a_teacher_is_refused_in_a_sentence(pair):
    setup = pair(NCKD()).student_state.setup
    with pytest.raises(MethodError, match="a teacher is needed"):
        NCKD().wrapper(type(setup)(**{**vars(setup), "teacher": None}))
