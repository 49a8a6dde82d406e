import pytest
import torch
from torch import nn

from retort.engine.optimize import course, make_optimizer, take_step
from retort.methods.kd import KD
from retort.recipe import SGD, AdamW, Constant, Cosine, Steps, Training


def test_the_published_steps():
    training = Training(epochs=240, schedule=Steps(), optimizer=SGD(learning_rate=0.05))
    epochs = {0: 1, 149: 1, 150: 0.1, 179: 0.1, 180: 0.01, 210: 0.001, 239: 0.001}
    for epoch, factor in epochs.items():
        for step in (epoch * 10, epoch * 10 + 9):
            assert course(training, step / 10, 1 / 10) == pytest.approx(factor), epoch


def test_cosine_falls_from_one_to_nearly_zero():
    training = Training(epochs=10, schedule=Cosine())
    factors = [course(training, step / 7, 1 / 7) for step in range(70)]
    assert factors[0] == 1
    assert factors[35] == pytest.approx(0.5)
    assert 0 < factors[-1] < 1e-3
    assert factors == sorted(factors, reverse=True)


def test_warmup_rises_linearly_and_meets_the_schedule():
    training = Training(epochs=10, warmup_epochs=2, schedule=Constant())
    assert [course(training, step / 5, 1 / 5) for step in range(12)] == pytest.approx(
        [i / 10 for i in range(1, 11)] + [1, 1]
    )


def test_a_step_of_sgd_is_the_definition():
    weight = nn.Parameter(torch.tensor([1.0]))
    training = Training(optimizer=SGD(learning_rate=0.5, momentum=0, weight_decay=0.1))
    optimizer = make_optimizer(training, [weight], [])
    weight.grad = torch.tensor([2.0])
    take_step(optimizer, 0.5)
    assert weight.item() == pytest.approx(1 - 0.25 * (2 + 0.1))


class Faster(KD):
    """KD whose modules have a learning rate of their own and no weight decay."""

    def parameter_groups(self, modules):
        return [{"params": modules.parameters(), "learning_rate_factor": 3, "weight_decay_factor": 0}]


def test_factors_of_a_methods_modules():
    modules = nn.Linear(1, 1, bias=False)
    nn.init.ones_(modules.weight)
    training = Training(optimizer=SGD(learning_rate=0.1, momentum=0, weight_decay=0.1))
    optimizer = make_optimizer(training, [], [(Faster(), modules)])
    modules.weight.grad = torch.tensor([[1.0]])
    take_step(optimizer, 1)
    assert modules.weight.item() == pytest.approx(1 - 0.3)


def test_a_shared_or_frozen_parameter_is_not_trained_twice_or_at_all():
    network = nn.Linear(2, 2)
    network.bias.requires_grad_(False)
    optimizer = make_optimizer(Training(optimizer=AdamW(learning_rate=1)), network.parameters(), [(KD(), network)])
    assert [p for group in optimizer.param_groups for p in group["params"]] == [network.weight]
