from __future__ import annotations

import pytest

from retort.architectures import ARCHITECTURES
from retort.client import NotFoundError, Retort
from retort.compressions import COMPRESSIONS
from retort.datasets import DATASETS
from retort.exports import EXPORTS
from retort.methods import METHODS
from retort.tasks import TASKS


def test_the_catalogue_is_the_registries(client: Retort) -> None:
    assert {task.name for task in client.tasks.list()} == set(TASKS)
    assert client.tasks.get("classification").headline == "accuracy"
    assert {method.name for method in client.methods.list()} == set(METHODS)
    assert {one.name for one in client.architectures.list()} == set(ARCHITECTURES)
    assert {entry.name for entry in client.datasets.builtin()} == set(DATASETS)
    assert {entry.name for entry in client.exports.list()} == set(EXPORTS)
    assert {entry.name for entry in client.compressions.list()} == set(COMPRESSIONS)


def test_one_method_has_its_fields(client: Retort) -> None:
    kd = client.methods.get("kd")
    assert kd.needs_teacher
    assert kd.parameters["properties"]["temperature"]["default"] == 4.0
    assert client.architectures.get("resnet8").family == ARCHITECTURES["resnet8"].name
    with pytest.raises(NotFoundError):
        client.methods.get("none")
