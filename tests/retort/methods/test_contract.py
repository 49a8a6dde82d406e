"""The contract of every method; a new file in retort/methods/ is tested here without a change."""

import math

import pytest
import torch

from retort.engine.checkpoint import Checkpoints
from retort.method import Batch, Method
from retort.methods import METHODS


@pytest.fixture(params=sorted(METHODS))
def method(request):
    return METHODS[request.param](name=request.param)


def test_terms_are_finite_scalars(method, pair):
    made = pair(method)
    assert made.train_states
    for train_state in made.train_states:
        terms = made.terms(made.batch(train_state=train_state), train_state)
        assert terms
        for name, term in terms.items():
            assert term.shape == (), name
            assert math.isfinite(term.item()), name


def test_gradient_reaches_all_that_is_trained_and_never_the_teacher(method, pair):
    made = pair(method)
    for train_state in made.train_states:
        train_state.network.train()
        sum(made.terms(made.batch(train_state=train_state), train_state).values()).backward()
        if train_state.phase is None or train_state.phase.trains is not None:
            assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in train_state.network.parameters())
    if made.method_state.modules is not None:
        for name, parameter in made.method_state.modules.named_parameters():
            assert not parameter.requires_grad or parameter.grad.abs().sum() > 0, name
    trained = {train_state.spec for train_state in made.train_states}
    for spec, network in made.factory.frozen.items():
        assert spec in trained or all(p.grad is None for p in network.parameters()), spec


def test_frozen_networks_are_the_same_after_a_step(method, pair):
    made = pair(method)
    for train_state in made.train_states:
        others = {spec: network for spec, network in made.factory.frozen.items() if spec != train_state.spec}
        before = {spec: {k: v.clone() for k, v in net.state_dict().items()} for spec, net in others.items()}
        made.step(0, train_state)
        for spec, network in others.items():
            for key, value in network.state_dict().items():
                assert torch.equal(value, before[spec][key]), key


def test_half_precision_in_float32_inside(method, pair):
    made = pair(method)
    for train_state in made.train_states:
        full = made.terms(made.batch(train_state=train_state), train_state)
        for dtype in (torch.float16, torch.bfloat16):
            half = made.terms(
                made.batch(train_state=train_state, change=lambda tensor, dtype=dtype: tensor.to(dtype)), train_state
            )
            for name, term in half.items():
                assert term.dtype == torch.float32, name
                assert term.item() == pytest.approx(full[name].item(), rel=0.1, abs=0.05), name


def test_double_precision_stays(method, pair):
    made = pair(method)
    for train_state in made.train_states:
        train_state.network.double()
        if made.method_state.modules is not None:
            made.method_state.modules.double()
        batch = made.batch(train_state=train_state, change=torch.Tensor.double)
        assert all(term.dtype == torch.float64 for term in made.terms(batch, train_state).values())


def test_a_batch_of_one_is_finite(method, pair):
    made = pair(method)
    for train_state in made.train_states:
        train_state.network.eval()
        if made.method_state.modules is not None:
            made.method_state.modules.eval()
        terms = made.terms(made.batch(size=1, train_state=train_state), train_state)
        assert all(math.isfinite(term.item()) for term in terms.values())


class Watched(Batch):
    """A batch that records if its targets or positions are read."""

    def __getattribute__(self, name):
        if name in ("targets", "indices"):
            vars(self)["looked"] = True
        return super().__getattribute__(name)


def test_reads_labels_is_true_if_it_reads_targets_or_positions(method, pair):
    made, looked = pair(method), method.chooses_images
    for train_state in made.train_states:
        batch = Watched(**vars(made.batch(train_state=train_state)))
        made.terms(batch, train_state)
        train_state.update(batch, first=method.updates_first)
        looked = looked or "looked" in vars(batch)
    # With another base it may.
    assert looked == method.reads_labels or (method.reads_labels and hasattr(method, "base"))


def test_terms_have_no_side_effect(method, pair):
    made = pair(method)
    for train_state in made.train_states:
        batch = made.batch(train_state=train_state)
        first, second = made.terms(batch, train_state), made.terms(batch, train_state)
        assert {k: term.item() for k, term in first.items()} == {k: term.item() for k, term in second.items()}


def test_json_round_trips():
    for name, kind in METHODS.items():
        method = kind(name=name)
        assert kind.model_validate_json(method.model_dump_json()) == method, name


def test_each_states_its_source_and_what_it_refuses():
    for name, method in METHODS.items():
        assert "https://" in method.source, name
        assert method.formula, name
        assert method.__doc__, name
        assert method.refuses or method.check is Method.check, f"{name}: what check refuses is stated in `refuses`"
        assert not method.reconstruction or "reconstruction" in method.__doc__, name


def test_it_compiles_in_one_graph(method, pair):
    torch.compiler.reset()  # or the tests of other methods count against how often one function may be compiled anew
    made = pair(method)
    for train_state in made.train_states:
        batch = made.batch(train_state=train_state, change=lambda tensor: tensor.detach().requires_grad_())

        def loss(train_state=train_state, batch=batch):
            return sum(made.terms(batch, train_state).values())

        torch.testing.assert_close(torch.compile(loss, fullgraph=True, backend="eager")(), loss())


def test_a_few_steps_on_one_batch_lower_its_terms(method, pair):
    made = pair(method)
    for train_state in made.train_states:
        losses = [made.step(0, train_state) for _ in range(8)]
        assert losses[-1] < losses[0]


def test_saved_and_restored_it_goes_on_with_the_same_bits(method, pair, tmp_path):
    straight, restored = pair(method), pair(method)
    for i, (one, other) in enumerate(zip(straight.train_states, restored.train_states, strict=True)):
        for number in range(2):
            straight.step(number, one)
        checkpoints = Checkpoints(tmp_path / str(i), "recipe", "data", "1", seconds=1)
        checkpoints.write(one.state())
        other.load(checkpoints.newest(torch.device("cpu")))
        for number in range(2, 4):
            assert straight.step(number, one) == restored.step(number, other)
        for key, value in one.network.state_dict().items():
            assert torch.equal(value, other.network.state_dict()[key]), key
