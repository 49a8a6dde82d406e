"""A run with every augmentation."""

import math

from tests.retort.engine.runs import recipe_of, run

EVERYTHING = {
    "resized_crop": {"area": [0.5, 1.0]},
    "flip": True,
    "policy": {"name": "trivialaugment"},
    "erasing": {},
    "cutout": 0.25,
    "mix": {"name": "mixup_or_cutmix"},
}


def test_a_run_with_every_augmentation_ends_with_the_same_bits_with_kept_outputs_or_without(tmp_path):
    methods = {"name": "kd"}, {"name": "mlld"}
    recipe = recipe_of(*methods, augmentation=EVERYTHING)
    recipe["students"][0]["labels"] = {"weight": 0.5}
    computed, filled, kept = (
        run(recipe, tmp_path / name, None if name == "computed" else tmp_path / "store")
        for name in ("computed", "filled", "kept")
    )
    assert computed.digest() == filled.digest() == kept.digest()
    assert kept.warnings() == computed.warnings()
    assert all(math.isfinite(values["loss"]) for values in computed.metrics())
    recipe["training"]["augmentation"] = EVERYTHING | {"mix": None}
    assert run(recipe, tmp_path / "unmixed", tmp_path / "store").digest() != computed.digest()
