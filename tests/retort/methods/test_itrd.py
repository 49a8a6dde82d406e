import pytest
import torch

from retort.architectures import CARDS
from retort.method import STUDENT, TEACHER, MethodError
from retort.methods.itrd import ITRD, decorrelation, missing_information
from retort.outputs import Outputs
from retort.view import CLEAN
from tests.retort.methods.goldens import batch_of, fill


def golden(case, given):
    h = case["hyperparameters"]
    weight = given["aux.embed_student.weight"]
    embed = fill(torch.nn.Linear(*weight.shape[::-1]), given, "aux.embed_student")
    fields = {"alpha": h["alpha"], "before_activation": False}
    weights = {"correlation_weight": h["lambda_corr"], "mutual_weight": h["lambda_mutual"]}
    weighted = ITRD(**weights, **fields).terms(batch_of(given), embed)
    plain = ITRD(correlation_weight=1, mutual_weight=1, **fields).terms(batch_of(given), embed)
    return {"loss": sum(weighted.values()), **plain}


def embedding(seed, features=5, count=6):
    return torch.randn(count, features, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_features_that_match_leave_one_share_in_n():
    x = embedding(0)
    shifted = 3 * x + torch.arange(5)
    assert decorrelation(shifted, x, 1.5).item() == pytest.approx(torch.tensor(5 * (1 / 6) ** 3).log2().item())


def test_features_that_are_opposite_are_farther_than_unrelated_ones():
    x = embedding(0)
    assert decorrelation(-x, x, 1.5) > decorrelation(embedding(1), x, 1.5) > decorrelation(x, x, 1.5)


def test_a_constant_feature_correlates_with_nothing():
    x, dead = embedding(0), embedding(1)
    dead[:, 0] = 4
    x[:, 1] = 4
    x.requires_grad_()
    term = decorrelation(x, dead, 1.0)
    term.backward()
    assert torch.isfinite(term)
    assert torch.isfinite(x.grad).all()


def test_nothing_is_missing_when_all_images_look_alike_to_the_teacher():
    # Then the joint similarities are the student's own.
    assert missing_information(embedding(0), torch.ones(6, 3, dtype=torch.float64)).item() == pytest.approx(0)
    assert missing_information(embedding(0), embedding(1)).item() > 0


def test_the_mutual_term_reads_the_map_only_where_widths_differ():
    for features, moves in ((5, False), (7, True)):
        batch = batch_of({"student.embedding": embedding(0), "teacher.embedding": embedding(1, features)})
        values = []
        for seed in (0, 1):
            torch.manual_seed(seed)
            embed = torch.nn.Linear(5, features).double()
            values.append(ITRD(before_activation=False).terms(batch, embed)["mutual"].item())
        assert (values[0] != values[1]) == moves


def test_features_are_pooled_before_the_activation():
    maps = embedding(0, 5 * 4).view(6, 5, 2, 2), embedding(1, 3 * 9).view(6, 3, 3, 3)
    embed = torch.nn.Linear(5, 3).double()
    outputs = {
        (network, CLEAN): Outputs(None, map_NCHW.mean((2, 3)), preactivations=(map_NCHW[:, :1], map_NCHW))
        for network, map_NCHW in zip((STUDENT, TEACHER), maps, strict=True)
    }
    batch = batch_of({"student.": maps[0]}, outputs=outputs)
    pooled, embedded = (ITRD(before_activation=before).terms(batch, embed) for before in (True, False))
    for name, term in pooled.items():
        assert term.item() == pytest.approx(embedded[name].item()), name


@pytest.mark.parametrize("role", ["student", "teacher"])
def test_a_network_without_preactivations_is_refused_unless_its_embedding_is_read(pair, role):
    setup = pair(ITRD()).student_state.setup
    setup = type(setup)(**{**vars(setup), role: CARDS["torchvision.vit_b_16"]})
    with pytest.raises(MethodError, match=f"the {role} torchvision.vit_b_16 cannot be read before"):
        ITRD().check(setup)
    ITRD(before_activation=False).check(setup)


def test_the_map_leads_to_the_teachers_width(pair):
    assert pair(ITRD()).method_state.modules.weight.shape == (256, 64)
    assert pair(ITRD(before_activation=False)).method_state.modules.weight.shape == (256, 64)
    alexnet = type(pair(ITRD()).student_state.setup)(
        **{**vars(pair(ITRD()).student_state.setup), "teacher": CARDS["torchvision.alexnet"]}
    )
    assert ITRD().modules(alexnet).weight.shape == (256, 64)
    assert ITRD(before_activation=False).modules(alexnet).weight.shape == (4096, 64)
