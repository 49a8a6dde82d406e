import json

import pytest
import torch

from retort.engine.checkpoint import Checkpoints

CPU = torch.device("cpu")


def checkpoints(directory, recipe="r", data="d", run="1"):
    return Checkpoints(directory, recipe, data, run, seconds=1000)


def state(step):
    optimizer = {"state": {0: {"momentum_buffer": torch.full((2, 3), float(step))}}, "param_groups": [{"lr": 0.1}]}
    shared = torch.arange(4.0)
    return {"step": step, "optimizer": optimizer, "tied": [shared, shared], "nothing": None, "seen": torch.tensor(True)}


def same(a, b):
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def test_a_state_comes_back_as_it_was(tmp_path):
    checkpoints(tmp_path).write(state(7))
    assert same(checkpoints(tmp_path).newest(CPU), state(7))


def test_nothing_written_is_nothing(tmp_path):
    assert checkpoints(tmp_path).newest(CPU) is None


def test_two_are_kept_and_no_draft_is_left(tmp_path):
    kept = checkpoints(tmp_path)
    names = [kept.write(state(step)) for step in range(4)]
    assert sorted(file.name for file in tmp_path.iterdir()) == names[2:]


@pytest.mark.parametrize("damage", ["cut", "changed", "empty"])
def test_a_damaged_one_is_passed_over_for_the_one_before(tmp_path, capsys, damage):
    kept = checkpoints(tmp_path)
    kept.write(state(1))
    file = tmp_path / kept.write(state(2))
    content = bytearray(file.read_bytes())
    if damage == "changed":
        content[-1] ^= 1
    file.write_bytes({"cut": content[:-10], "changed": content, "empty": b""}[damage])
    assert checkpoints(tmp_path).newest(CPU)["step"] == 1
    assert file.name in capsys.readouterr().err


@pytest.mark.parametrize("other", [{"recipe": "another"}, {"data": "another"}])
def test_one_of_another_recipe_or_data_set_is_passed_over(tmp_path, capsys, other):
    checkpoints(tmp_path).write(state(1))
    assert checkpoints(tmp_path, **other).newest(CPU) is None
    assert f"made with another {next(iter(other))}" in capsys.readouterr().err


def test_two_attempts_never_write_one_file(tmp_path):
    first, second = checkpoints(tmp_path, run="1"), checkpoints(tmp_path, run="2")
    assert first.write(state(1)) != second.write(state(1))


def test_it_is_no_pickle(tmp_path):
    file = tmp_path / checkpoints(tmp_path).write(state(1))
    length = int.from_bytes(file.read_bytes()[:8], "little")
    assert "__metadata__" in json.loads(file.read_bytes()[8 : 8 + length])
