"""Names of a file's tensors and of a network's, under the wrappers that users' checkpoints have."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from retort.engine.tensor_names import INNER, match_names
from retort.engine.user_weights import OF_TRAINING

DOCS = Path(__file__).parents[3] / "docs/models.md"
BODY = ("a", "layer1.0.a", "layer1.0.bn.num_batches_tracked")
WANTED = (*BODY, "fc.w", "fc.b")
WHOLE = {name: name for name in WANTED}


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "module.",  # DataParallel, AveragedModel
        "model.",  # Lightning
        "net.",
        "student.",
        "encoder.",
        "state_dict.model.",
        "module.backbone.resnet.body.",
        "models.0.",
        "layer1.",  # a wrapper that bears a name of the network itself
    ],
)
def test_any_prefix_goes(prefix: str) -> None:
    match = match_names([prefix + name for name in WANTED], WANTED, ("fc.",))
    assert dict(match.found) == {name: prefix + name for name in WANTED}
    assert (match.prefix, match.left, [*match.copies]) == (prefix, (), [prefix])


@pytest.mark.parametrize(
    ("body", "head"), [("backbone.", ""), ("module.backbone.", "module."), ("model.encoder.", "model.head.")]
)
def test_a_classifier_may_bear_another_prefix(body: str, head: str) -> None:
    names = [f"{body}{name}" for name in BODY] + [f"{head}fc.w", f"{head}fc.b"]
    match = match_names(names, WANTED, ("fc.",))
    assert set(match.found.values()) == set(names)
    assert match.left == ()


def test_wrappers_within_names_go() -> None:
    for prefix in ("_orig_mod.", "_orig_mod.module.model.", "model._orig_mod."):
        assert match_names([prefix + name for name in WANTED], WANTED, ("fc.",)).found == {
            name: prefix + name for name in WANTED
        }
    names = ["model.a", "model._orig_mod.layer1._fsdp_wrapped_module.0._checkpoint_wrapped_module.a", "model.fc.w"]
    match = match_names(names, ["a", "layer1.0.a", "fc.w"], ("fc.",))
    assert match.found == dict(zip(["a", "layer1.0.a", "fc.w"], names, strict=True))


def test_all_else_in_the_file_is_left_and_copies_are_found() -> None:
    more = ["n_averaged", "criterion.weight", "layer9.a"]
    match = match_names([*(f"module.{name}" for name in WANTED), *more], WANTED, ("fc.",))
    assert match.left == tuple(sorted(more))
    names = [prefix + name for prefix in ("model.", "model_ema.module.") for name in WANTED]
    match = match_names(names, WANTED, ("fc.",))
    assert [*match.copies] == ["model.", "model_ema.module."]
    assert match.copies["model_ema.module."]["fc.w"] == "model_ema.module.fc.w"
    # A share of a copy is none.
    match = match_names(["ema.a", *WANTED], WANTED, ("fc.",))
    assert (match.found, match.left, [*match.copies]) == (WHOLE, ("ema.a",), [""])


def test_the_docs_show_prefixes_and_words_that_are_known() -> None:
    rows = {row: re.findall("`([^`]+)`", row.partition("| ")[0]) for row in DOCS.read_text().split("\n| ")}
    shown = {row.partition(":")[0]: words for row, words in rows.items()}
    for prefix in shown["any prefix"]:
        assert match_names([prefix + name for name in WANTED], WANTED, ("fc.",)).prefix == prefix
    assert len(shown["any prefix"]) > 5
    assert next(frozenset(words) for words in rows.values() if "_orig_mod" in words) == INNER
    assert [*shown["tensors of losses and metrics"], "total_ops", "total_params"] == [*OF_TRAINING]


def test_names_of_another_network_fit_nowhere() -> None:
    match = match_names(["stem.0.w", "stem.0.b"], WANTED, ("fc.",))
    assert (match.found, match.copies, match.left) == ({}, {}, ("stem.0.b", "stem.0.w"))
    assert match_names([], WANTED).left == ()


def test_a_long_name_costs_no_more_than_its_length() -> None:
    """A header of 8 MiB may be one name of four million parts."""
    match = match_names(["a." * 500_000 + "fc.w"], WANTED, ("fc.",))
    assert len(match.left) == 1 or match.found.keys() == {"fc.w"}
