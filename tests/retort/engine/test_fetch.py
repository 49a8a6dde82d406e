"""What is published is fetched first, and then needs no network."""

from __future__ import annotations

import pytest

from retort.architectures import ARCHITECTURES
from retort.check import Check
from retort.dataset import DatasetError
from retort.download import Unreachable
from retort.engine.fetch import fetch
from retort.engine.interrupt import Impossible
from retort.recipe import Recipe
from tests.retort.architectures.published import torchvision_checkpoint

NAME = "torchvision.resnet18"


def recipe(**values):
    plain = {"dataset": {"name": "digits"}, "student": {"architecture": "resnet8"}}
    return Recipe.model_validate(plain | values)


def test_what_is_here_is_not_fetched_again(tmp_path, monkeypatch):
    torchvision_checkpoint(tmp_path, NAME, monkeypatch)
    spec = recipe(teacher={"architecture": NAME, "weights": "published"}, methods=[{"name": "kd"}])
    fetch(spec)
    assert len(ARCHITECTURES[NAME].published(NAME)[1]) == 1000


def test_what_is_not_here_is_asked_for(tmp_path, monkeypatch):
    torchvision_checkpoint(tmp_path, NAME, monkeypatch)
    for file in tmp_path.rglob("*.pth"):
        file.unlink()

    def fail(*_):
        raise Unreachable("nobody answers")

    monkeypatch.setattr("retort.architectures._checkpoint.download", fail)
    monkeypatch.setattr("retort.datasets._fetch.download", fail)
    with pytest.raises(Unreachable, match=r"the published weights of torchvision.resnet18 .* nobody answers"):
        fetch(recipe(student={"architecture": NAME, "weights": "published"}))
    with pytest.raises(Unreachable, match=r"cifar-10-binary.tar.gz cannot be had .* nobody answers"):
        fetch(recipe(dataset={"name": "cifar10"}))
    with pytest.raises(Unreachable, match="nobody answers"):
        fetch(Check.model_validate({"model": "model_" + "0" * 32, "dataset": {"name": "cifar10"}}))
    fetch(recipe(dataset={"name": "cifar10", "path": str(tmp_path)}))


def test_what_was_never_published_is_refused():
    with pytest.raises(Impossible, match="resnet8 has no published weights"):
        fetch(recipe(student={"architecture": "resnet8", "weights": "published"}))
    with pytest.raises(DatasetError, match="is not downloaded by itself"):
        fetch(recipe(dataset={"name": "imagenet"}))
