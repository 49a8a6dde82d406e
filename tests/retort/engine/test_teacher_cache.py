"""Outputs of teachers that are kept between jobs: the same bits with and without them, and never those of another."""

import os
from collections import Counter
from hashlib import sha256

import numpy as np
import pytest
import torch

from retort.engine import teacher_cache as store_module
from retort.engine.frozen import FrozenNetworks
from retort.method import from_top, top_logits
from tests.retort.engine.runs import recipe_of, run, usage

KD = {"name": "kd"}
R2KD = {"name": "r2kd"}
PICK = {"name": "kd_augmented", "augmentation": "cutmix_pick"}
"""Its second view depends on what the teacher says."""


@pytest.fixture
def computed(monkeypatch) -> Counter:
    """Counts the passes of frozen networks."""
    counts: Counter = Counter()
    compute = FrozenNetworks._compute

    def counting(self, spec, images, reads):
        counts["passes"] += 1
        return compute(self, spec, images, reads)

    monkeypatch.setattr(FrozenNetworks, "_compute", counting)
    return counts


def passes(computed: Counter) -> int:
    count = computed["passes"]
    computed.clear()
    return count


@pytest.mark.parametrize("method", [KD, R2KD, {"name": "rkd"}, PICK])
def test_a_hit_a_miss_and_no_store_give_the_same_bits(method, tmp_path, computed):
    recipe = recipe_of(method)
    without = run(recipe, tmp_path / "without")
    everything = passes(computed)
    filling = run(recipe, tmp_path / "filling", tmp_path / "store")
    assert passes(computed) == everything
    taking = run(recipe, tmp_path / "taking", tmp_path / "store")
    if method != PICK:
        # One check for each network, view and epoch.
        assert passes(computed) <= everything // 2
    assert without.digest() == filling.digest() == taking.digest()
    assert taking.metrics() == without.metrics()
    assert not taking.warnings()


def test_a_method_that_reads_maps_computes_them(tmp_path, computed):
    recipe = recipe_of({"name": "at"})
    run(recipe, tmp_path / "filling", tmp_path / "store")
    everything = passes(computed)
    run(recipe, tmp_path / "taking", tmp_path / "store")
    assert passes(computed) == everything
    assert not list(tmp_path.glob("store/*/*.npy"))


def test_another_student_of_the_same_teacher_takes_them(tmp_path, computed):
    recipe = recipe_of(KD)
    run(recipe, tmp_path / "filling", tmp_path / "store")
    everything = passes(computed)
    recipe["students"][0] |= {"architecture": "wrn_16_1", "seed": 4, "methods": [{"name": "dkd"}]}
    run(recipe | {"training": recipe["training"] | {"epochs": 1}}, tmp_path / "taking", tmp_path / "store")
    assert passes(computed) == 1
    assert everything > 1


CHANGES = {
    "teacher": {"teacher": {"seed": 1}},
    "architecture": {"teacher": {"architecture": "resnet20"}},
    "teaching": {"teacher": {"teach": {"data_seed": 9}}},
    "images": {"dataset": {"split_seed": 1}},
    "fewer images": {"dataset": {"label_share": 0.2}},
    "augmentation": {"training": {"augmentation": {"crop_padding": 2}}},
    "data_seed": {"training": {"data_seed": 1}},
    "batch_size": {"training": {"batch_size": 16}},
    "accumulate": {"training": {"gradient_accumulation": 2}},
    "precision": {"training": {"precision": "bfloat16"}},
    "threads": {"training": {"threads": 2}},
}


def changed(recipe: dict, change: dict) -> dict:
    return {
        key: changed(value, change[key]) if isinstance(change.get(key), dict) else change.get(key, value)
        for key, value in (recipe | {key: {} for key in change if key not in recipe}).items()
    } | {key: value for key, value in change.items() if not isinstance(value, dict)}


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("filled")
    run(recipe_of(KD), folder / "filling", folder / "store")
    return folder / "store"


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_changes_the_outputs_is_part_of_the_key(change, filled, tmp_path, monkeypatch):
    taken = []
    take = store_module.CacheEntry.read

    def taking(self, positions, device):
        found = take(self, positions, device)
        taken.append(found is not None)
        return found

    monkeypatch.setattr(store_module.CacheEntry, "read", taking)
    run(changed(recipe_of(KD), CHANGES[change]), tmp_path / "other", filled)
    assert taken
    assert not any(taken)


def test_another_view_is_another_key(tmp_path, computed):
    run(recipe_of({"name": "r2kd", "augmentation": "mixup"}), tmp_path / "mixup", tmp_path / "store")
    everything = passes(computed)
    run(recipe_of({"name": "r2kd", "augmentation": "cutout"}), tmp_path / "cutout", tmp_path / "store")
    # The clean view is taken, the other is computed.
    assert everything / 2 <= passes(computed) < everything


def rewrite(file, values) -> None:
    """Put other values into a file, and name it by their digest as the engine would."""
    np.save(file, values)
    digest = sha256(file.read_bytes()).hexdigest()[:32]
    file.rename(file.with_name(f"{file.name.partition('-')[0]}-{digest}.npy"))


def test_what_the_teacher_does_not_say_is_found_out_and_not_used(tmp_path):
    recipe = recipe_of(KD)
    good = run(recipe, tmp_path / "filling", tmp_path / "store")
    for file in tmp_path.glob("store/*/*.npy"):
        values = np.load(file)
        values[:, 0] += 1
        rewrite(file, values)
    found = run(recipe, tmp_path / "taking", tmp_path / "store")
    assert found.digest() == good.digest()
    assert found.warnings() == ["the outputs cached for epoch 1 are not what the network computes; they are not used"]
    again = run(recipe, tmp_path / "again", tmp_path / "store")
    assert again.digest() == good.digest()


@pytest.mark.parametrize("damage", ["cut", "changed", "of another shape"])
def test_a_damaged_file_is_not_used_and_made_again(damage, tmp_path, computed):
    recipe = recipe_of(KD)
    good = run(recipe, tmp_path / "filling", tmp_path / "store")
    everything = passes(computed)
    (first, *_) = sorted(tmp_path.glob("store/*/*.npy"))
    if damage == "cut":
        os.truncate(first, 500)
    elif damage == "changed":
        content = bytearray(first.read_bytes())
        content[-100] ^= 1
        first.write_bytes(content)
    else:
        rewrite(first, np.load(first)[:-1])
    found = run(recipe, tmp_path / "taking", tmp_path / "store")
    assert found.digest() == good.digest()
    assert len(found.warnings()) == 1
    assert "are not used" in found.warnings()[0]
    assert everything / 2 <= passes(computed) < everything
    assert not run(recipe, tmp_path / "mended", tmp_path / "store").warnings()
    assert passes(computed) == 2


def test_a_store_stays_within_its_limit_and_drops_what_was_used_longest_ago(tmp_path, computed):
    run(recipe_of(KD), tmp_path / "first", tmp_path / "store")
    everything = passes(computed)
    size = usage(tmp_path / "store")
    for file in tmp_path.glob("store/*/*.npy"):
        os.utime(file, (1000, 1000))
    run(recipe_of(KD, data_seed=1), tmp_path / "second", tmp_path / "store", size)
    assert usage(tmp_path / "store") <= size
    passes(computed)
    run(recipe_of(KD, data_seed=1), tmp_path / "third", tmp_path / "store", size)
    assert passes(computed) < everything
    none = run(recipe_of(KD), tmp_path / "none", tmp_path / "nowhere", 0)
    assert not list(tmp_path.glob("nowhere/*/*"))
    assert none.warnings() == []


def test_an_epoch_that_did_not_end_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(FrozenNetworks, "end_epoch", fail)
    with pytest.raises(KeyboardInterrupt):
        run(recipe_of(KD), tmp_path / "ended", tmp_path / "store")
    assert usage(tmp_path / "store") == 0


def test_outputs_are_not_rounded_where_the_recipe_keeps_none(tmp_path):
    kept = run(recipe_of(KD), tmp_path / "kept")
    exact = run(recipe_of(KD, cache_teacher_outputs=False), tmp_path / "exact", tmp_path / "store")
    assert kept.digest() != exact.digest()
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("beside", [None, {"name": "dkd"}, {"name": "at"}])
def test_of_kd_s_largest_logits_no_more_is_kept_and_nothing_else_decides_the_bits(beside, tmp_path, computed):
    recipe = recipe_of(KD | {"teacher_top": 3})
    full = run(recipe_of(KD), tmp_path / "full")
    alone = run(recipe, tmp_path / "alone")
    if beside is not None:
        recipe["students"].append({"name": "beside", "architecture": "resnet8", "methods": [beside]})
    filling = run(recipe, tmp_path / "filling", tmp_path / "store")
    passes(computed)
    taking = run(recipe, tmp_path / "taking", tmp_path / "store")
    assert full.digest() != alone.digest() == filling.digest() == taking.digest()
    if beside is None:
        # Three values, three classes, the mean of the others, and whether it is known.
        assert {np.load(file).shape[1] for file in tmp_path.glob("store/*/*.npy")} == {8}
        assert passes(computed) == 2


def test_the_largest_logits_taken_twice_are_the_same():
    logits = torch.randn(50, 20) * torch.tensor([1e-6, 1.0, 50.0, 1e3, 1e5]).repeat(10)[:, None]
    logits[0] = 7.0  # all equal
    once = from_top(*top_logits(logits, 4), 20)
    assert torch.equal(from_top(*top_logits(once, 4), 20), once)
    ordinary = logits.abs().amax(1) < 6e4
    assert torch.equal(once.argmax(1)[ordinary][1:], logits.half().float().argmax(1)[ordinary][1:])
