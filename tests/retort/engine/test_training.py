"""What a recipe says of a training beside its schedule: averaging, clipping, batches in parts, memory that runs out."""

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from retort.dataset import ImageClassFacts
from retort.datasets.digits import Digits
from retort.engine.causes import is_out_of_memory
from retort.engine.interrupt import MemoryExhausted
from retort.engine.networks import initialised
from retort.engine.optimize import load_optimizer, make_optimizer
from retort.engine.train_state import TrainState
from retort.network import Network
from retort.recipe import Recipe, Training
from retort.tasks import TASKS
from retort.validation import validate
from tests.retort.engine.runs import recipe_of, run

KD = {"name": "kd"}
FACTS: ImageClassFacts = Digits().facts(()).model_copy(update={"mean": (0.3,) * 3, "std": (0.3,) * 3})


def weights(ended) -> dict[str, torch.Tensor]:
    return load_file(ended.directory / "artifacts/student.safetensors")


def train_state_of(**training: object) -> TrainState:
    settings = Training.model_validate({"optimizer": {"name": "sgd", "learning_rate": 0.1}} | training)
    task = TASKS["classification"]
    return TrainState("student", 0, initialised(task, "resnet8", 0, FACTS), settings, task)


def give_gradients(train_state: TrainState, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in train_state.network.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def test_the_average_follows_the_weights_and_is_what_is_judged():
    train_state = train_state_of(weight_average={"decay": 0.9})
    wanted = None
    for step in range(4):
        give_gradients(train_state, step)
        train_state.step(1.0)
        now = train_state.network.body.fc.weight.detach().clone()
        wanted = now if wanted is None else 0.9 * wanted + 0.1 * now
    assert torch.allclose(train_state.evaluated.body.fc.weight, wanted, atol=1e-6)
    assert not torch.equal(train_state.evaluated.body.fc.weight, train_state.network.body.fc.weight)
    assert torch.equal(train_state.evaluated.get_buffer("mean"), train_state.network.get_buffer("mean"))
    train_state.keep_if_best(1, 5)
    assert torch.equal(train_state.best.weights["body.fc.weight"], train_state.evaluated.body.fc.weight)


def test_an_average_is_shipped_and_resumed(tmp_path):
    plain = run(recipe_of(KD), tmp_path / "plain")
    averaged = run(recipe_of(KD, weight_average={"decay": 0.5}), tmp_path / "averaged")
    assert plain.digest() != averaged.digest()
    # The weights that are trained are the same; the last epoch's terms show it.
    assert plain.metrics() == averaged.metrics()

    saved, other = train_state_of(weight_average={}), train_state_of(weight_average={})
    give_gradients(saved, 1)
    saved.step(1.0)
    other.load(saved.state())
    for train_state in (saved, other):
        give_gradients(train_state, 2)
        train_state.step(1.0)
    for a, b in zip(saved.evaluated.state_dict().values(), other.evaluated.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_a_long_gradient_is_scaled_down_and_a_short_one_left():
    moved = {}
    for norm in (None, 1e-3, 1e9):
        train_state = train_state_of(
            clip_gradient_norm=norm, optimizer={"name": "sgd", "learning_rate": 1.0, "weight_decay": 0}
        )
        before = torch.cat([p.detach().flatten().clone() for p in train_state.network.parameters()])
        give_gradients(train_state, 0)
        train_state.step(1.0)
        moved[norm] = before - torch.cat([p.detach().flatten() for p in train_state.network.parameters()])
    assert moved[1e-3].norm().item() == pytest.approx(1e-3, rel=1e-2)
    assert torch.allclose(moved[None], moved[1e9])
    assert torch.nn.functional.cosine_similarity(moved[None], moved[1e-3], dim=0) > 0.999


def test_an_optimizer_s_tensors_keep_their_parameters_layout():
    train_state = train_state_of()
    train_state.network.to(memory_format=torch.channels_last)
    give_gradients(train_state, 0)
    train_state.step(1.0)
    other = make_optimizer(Training.model_validate({"optimizer": {"name": "sgd", "learning_rate": 0.1}}),
                           train_state.network.parameters(), ())  # fmt: skip
    state = train_state.optimizer.state_dict()
    for values in state["state"].values():
        values["momentum_buffer"] = values["momentum_buffer"].contiguous()
    load_optimizer(other, state)
    convolution = train_state.network.body.conv1.weight
    assert other.state[convolution]["momentum_buffer"].stride() == convolution.stride()
    assert torch.equal(
        other.state[convolution]["momentum_buffer"], train_state.optimizer.state[convolution]["momentum_buffer"]
    )


def without_batch_norm(network: Network) -> None:
    """Batch norm is what tells a part of a batch from the whole."""
    for name, module in list(network.body.named_modules()):
        if isinstance(module, torch.nn.BatchNorm2d):
            path, _, leaf = name.rpartition(".")
            setattr(network.body.get_submodule(path), leaf, torch.nn.Identity())


def test_a_batch_in_parts_has_the_gradients_of_the_whole(tmp_path, monkeypatch):
    build = initialised

    def build_plain(*arguments):
        network = build(*arguments)
        without_batch_norm(network)
        return network

    monkeypatch.setattr("retort.engine.networks.initialised", build_plain)
    options = {"batch_size": 25, "optimizer": {"name": "sgd", "learning_rate": 0.001}}
    whole = run(recipe_of(KD, **options), tmp_path / "whole")
    parts = run(recipe_of(KD, gradient_accumulation=4, **options), tmp_path / "parts")
    for a, b in zip(weights(whole).values(), weights(parts).values(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    for a, b in zip(whole.metrics(), parts.metrics(), strict=True):
        assert a == pytest.approx(b, rel=1e-4)


@pytest.mark.parametrize(("method", "training"), [
    ("dist", {"gradient_accumulation": 2}), ("crd", {"gradient_accumulation": 2}),
    ("nckd", {"on_out_of_memory": "accumulate"}),
])  # fmt: skip
def test_what_needs_the_whole_batch_refuses_parts(method, training):
    recipe = Recipe.model_validate(recipe_of({"name": method}, **training))
    (problem,) = validate(recipe, FACTS).problems
    assert problem.pointer == "/students/0/methods/0"
    assert problem.detail.startswith(f"{method}: its terms need the whole batch at once")


def test_parts_of_one_image_are_refused():
    sentence = "gradient_accumulation is 20; each micro-batch of a batch of 32 needs at least 2 examples"
    with pytest.raises(ValidationError, match=sentence):
        Recipe.model_validate(recipe_of(KD, gradient_accumulation=20))


def fit_at_most(monkeypatch: pytest.MonkeyPatch, images: int) -> list[int]:
    """The student's memory ends at that many images; gives the batches that it was asked for."""
    asked = []
    read = Network.read

    def reading(self, pixels, wanted=()):
        if self.training:
            asked.append(len(pixels))
            if len(pixels) > images:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return read(self, pixels, wanted)

    monkeypatch.setattr(Network, "read", reading)
    return asked


@pytest.mark.parametrize(("limit", "found"), [(11, "11 do"), (30, "30 do"), (1, "not even 2 do")])
def test_a_batch_that_does_not_fit_says_which_would(limit, found, tmp_path, monkeypatch):
    recipe = recipe_of(KD)
    recipe["teacher"] = None
    recipe["students"][0]["methods"] = []
    fit_at_most(monkeypatch, limit)
    with pytest.raises(MemoryExhausted) as caught:
        run(recipe, tmp_path / "run")
    said = str(caught.value)
    assert said.startswith("the device's memory ran out: 32 examples of a batch do not fit at once, ")
    told = said.rpartition(", ")[2]
    if limit == 1:
        assert told == found
    else:
        assert limit - 32 / 8 <= int(told.split()[0]) <= limit


def test_a_batch_that_does_not_fit_is_computed_in_parts_if_the_recipe_says_so(tmp_path, monkeypatch):
    recipe = recipe_of(KD, gradient_accumulation=4)
    recipe["teacher"]["teach"] |= {"batch_size": 8}
    wanted = run(recipe, tmp_path / "wanted")
    recipe["training"] |= {"gradient_accumulation": 1, "on_out_of_memory": "accumulate"}
    fit_at_most(monkeypatch, 8)
    found = run(recipe, tmp_path / "found", tmp_path / "store")
    assert found.digest() == wanted.digest()
    assert [text.partition(";")[2] for text in found.warnings()] == [
        " each is computed in 2 micro-batches", " each is computed in 4 micro-batches"
    ]  # fmt: skip


def test_a_machine_whose_memory_ends_is_told_apart_from_a_crash():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    assert not is_out_of_memory(RuntimeError("shape '[3]' is invalid for input of size 2"))
