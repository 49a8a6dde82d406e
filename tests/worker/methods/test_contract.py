"""What every method must satisfy; a new file in worker/methods/ is tested here without a change."""

import math

import pytest
import torch

from worker.engine.checkpoint import Checkpoints
from worker.methods import METHODS


@pytest.fixture(params=sorted(METHODS))
def method(request):
    return METHODS[request.param](name=request.param)


def test_terms_are_finite_scalars(method, pair):
    terms = pair(method).terms(pair(method).batch())
    assert terms
    for name, term in terms.items():
        assert term.shape == (), name
        assert math.isfinite(term.item()), name


def test_gradient_reaches_the_student_and_its_modules_and_never_the_teacher(method, pair):
    made = pair(method)
    made.learner.network.train()
    sum(made.terms(made.batch()).values()).backward()
    reached = [p for p in made.learner.network.parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    assert reached
    for module in [made.part.modules] if made.part.modules is not None else []:
        for name, parameter in module.named_parameters():
            assert not parameter.requires_grad or parameter.grad.abs().sum() > 0, name
    assert all(p.grad is None for network in made.shop.frozen.values() for p in network.parameters())


def test_frozen_networks_are_the_same_after_a_step(method, pair):
    made = pair(method)
    before = {spec: {k: v.clone() for k, v in net.state_dict().items()} for spec, net in made.shop.frozen.items()}
    made.step(0)
    for spec, network in made.shop.frozen.items():
        for key, value in network.state_dict().items():
            assert torch.equal(value, before[spec][key]), key


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_in_float32_inside(method, pair, dtype):
    made = pair(method)
    full, half = made.terms(made.batch()), made.terms(made.batch(change=lambda tensor: tensor.to(dtype)))
    for name, term in half.items():
        assert term.dtype == torch.float32, name
        assert term.item() == pytest.approx(full[name].item(), rel=0.1, abs=0.05), name


def test_double_precision_stays(method, pair):
    made = pair(method)
    made.learner.network.double()
    if made.part.modules is not None:
        made.part.modules.double()
    assert all(term.dtype == torch.float64 for term in made.terms(made.batch(change=torch.Tensor.double)).values())


def test_a_batch_of_one_is_finite(method, pair):
    made = pair(method)
    made.learner.network.eval()
    assert all(math.isfinite(term.item()) for term in made.terms(made.batch(size=1)).values())


def test_terms_have_no_side_effect(method, pair):
    made = pair(method)
    batch = made.batch()
    first, second = made.terms(batch), made.terms(batch)
    assert {name: term.item() for name, term in first.items()} == {name: term.item() for name, term in second.items()}


def test_json_round_trip(method):
    assert type(method).model_validate_json(method.model_dump_json()) == method


def test_it_says_where_it_comes_from(method):
    assert "https://" in method.source
    assert method.formula
    assert type(method).__doc__
    if method.reconstruction:
        assert "reconstruction" in type(method).__doc__


def test_it_compiles_in_one_graph(method, pair):
    made = pair(method)
    batch = made.batch(change=lambda tensor: tensor.detach().requires_grad_())
    compiled = torch.compile(lambda: sum(made.terms(batch).values()), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(), sum(made.terms(batch).values()))


def test_a_few_steps_on_one_batch_lower_its_terms(method, pair):
    made = pair(method)
    losses = []
    for _ in range(8):
        losses.append(made.step(0))
    assert losses[-1] < losses[0]


def test_saved_and_restored_it_goes_on_with_the_same_bits(method, pair, tmp_path):
    straight, restored = pair(method), pair(method)
    for number in range(2):
        straight.step(number)
    checkpoints = Checkpoints(tmp_path, "recipe", "data", "1", seconds=1)
    checkpoints.write(straight.learner.state())
    restored.learner.load(checkpoints.newest(torch.device("cpu")))
    for number in range(2, 4):
        assert straight.step(number) == restored.step(number)
    for key, value in straight.learner.network.state_dict().items():
        assert torch.equal(value, restored.learner.network.state_dict()[key]), key
