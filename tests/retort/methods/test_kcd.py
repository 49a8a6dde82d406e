from dataclasses import replace
from itertools import count

import pytest
import torch

from retort.method import MethodError
from retort.methods._layers import EntropyHistory
from retort.methods.kcd import KCD
from retort.tasks import TASKS
from tests.retort.methods.goldens import batch_of, cross_entropy


def golden(case, given):
    h = case["hyperparameters"]
    return golden_selection(given, h) if "history.entropy" in given else golden_step(given, h)


def golden_step(given, h):
    method, batch = KCD(temperature=h["temperature"], weight=h["kd_weight"]), batch_of(given)
    history = EntropyHistory(h["pool_size"]).double()
    soft, labels = method.terms(batch, history)["soft"], cross_entropy(given)
    method.update(batch, history)
    return {
        "loss": h["ce_weight"] * labels + soft,
        "ce": labels,
        "kd": soft / h["kd_weight"],
        "out.entropy_record": torch.where(history.counts_M > 0, history.sums_M, -1.0),
    }


def golden_selection(given, h):
    record, before = given["history.entropy"], len(given["indices"])
    pool = len(record)
    method = KCD(
        final_share=h["final_share"],
        parts=h["step_parts"],
        count_norm=h["count_norm"],
        count_power=h["count_power"],
        mixing="images" in given,
        mix_start=h["mix_start"],
    )
    history = EntropyHistory(pool).double()
    for entropies in record.T:
        history.record(torch.arange(pool), entropies.clamp(min=0))
    epoch = next(n for n in count(1) if method._kept(n - 1, pool) == before) * method.every_epochs
    method.begin_epoch(epoch, history)
    choice = method.choose(epoch, history)
    found = {"loss": None, "kept": float(len(choice.positions)), "out.kept_positions": choice.positions}
    if "images" in given:
        # Blended by the task, as the engine does; an image that keeps all of itself has a partner nonetheless.
        mixed, images = choice.partner != choice.positions, given["images"]
        found["out.mixed_positions"] = choice.positions[mixed]
        found["out.dropped"] = choice.partner[mixed]
        found["out.images"] = images.clone()
        blended = TASKS["classification"].blend(images[choice.positions], images[choice.partner], choice.weight)
        found["out.images"][choice.positions] = blended
    return found


def history(*entropies):
    made = EntropyHistory(len(entropies))
    made.record(torch.arange(len(entropies)), torch.tensor(entropies, dtype=torch.float32))
    return made


def test_the_most_uncertain_images_come_first_and_unseen_ones_last():
    made = history(0.3, 0.0, 0.9, 0.5)
    made.rank(40, 0.03)
    assert made.order_M.tolist() == [2, 3, 0, 1]


def test_of_equally_uncertain_images_those_seen_more_often_come_first():
    made = history(0.5, 0.5, 0.5)
    made.record(torch.tensor([1]), torch.tensor([0.5]))
    made.rank(40, 0.0)
    assert made.order_M.tolist() == [0, 1, 2]
    made.rank(40, 0.03)
    assert made.order_M.tolist() == [1, 0, 2]


def test_images_dwindle_by_equal_parts_to_the_final_share(pair):
    setup = replace(pair(KCD()).student_state.setup, epochs=20)
    method = KCD(every_epochs=3, final_share=0.7, parts=4)
    counts = [method.images_in_epoch(epoch, setup) for epoch in range(20)]
    assert counts == [40] * 3 + [37] * 3 + [34] * 3 + [31] * 3 + [28] * 8


def test_the_choice_is_as_long_as_was_said_and_holds_no_image_twice(pair):
    made = pair(KCD(every_epochs=1, parts=3))
    history, method = made.method_state.modules, made.method
    for epoch in range(6):
        made.step(epoch)
        method.begin_epoch(epoch, history)
        choice = method.choose(epoch, history)
        if epoch == 0:
            assert choice is None
            continue
        assert len(choice.positions) == len(choice.positions.unique())
        assert len(choice.positions) == method.images_in_epoch(epoch, made.student_state.setup)


def test_the_images_are_ranked_only_when_it_is_time(pair):
    method, made = KCD(every_epochs=2), history(0.1, 0.2)
    for epoch, order in ((0, [0, 1]), (1, [0, 1]), (2, [1, 0])):
        method.begin_epoch(epoch, made)
        assert made.order_M.tolist() == order


def test_what_was_just_dropped_is_blended_into_the_last_that_are_kept():
    method, made = KCD(every_epochs=1, final_share=0.6, parts=2, mix_start=0.5), history(*range(10, 0, -1))
    method.begin_epoch(1, made)
    choice = method.choose(1, made)
    assert choice.positions.tolist() == list(range(8))
    assert choice.partner.tolist() == [0, 1, 2, 3, 4, 5, 8, 9]
    assert choice.weight.tolist() == [1] * 7 + [0.75]
    # At the second ranking those dropped at the first are gone, but for what the record says of them.
    assert method.choose(2, made).partner.tolist() == [0, 1, 2, 3, 6, 7]
    # Nothing is dropped any more.
    assert method.choose(3, made).weight.tolist() == [1] * 6


def test_blends_on_a_whole_number_are_those_of_double_precision():
    """Every pair of levels at the shares of fifty mixed images, against the published formula in Python's floats."""
    mixed = 50
    method, made = KCD(every_epochs=1, final_share=0.5, parts=1), history(*range(2 * mixed, 0, -1))
    method.begin_epoch(1, made)
    weights = method.choose(1, made).weight
    published = [(1 - 0.7) * ((mixed - i) / mixed) + 0.7 for i in range(mixed)]
    assert weights.tolist() == published
    levels = torch.arange(256, dtype=torch.uint8)
    own, other = torch.meshgrid(levels, levels, indexing="ij")
    for weight in published[::7]:
        share = torch.tensor([weight], dtype=torch.float64)
        wanted = (own.double() * weight + other.double() * (1 - weight)).to(torch.uint8)
        found = TASKS["classification"].blend(own[None, None], other[None, None], share)[0, 0]
        assert torch.equal(found, wanted)


def test_without_mixing_images_are_left_as_they_are():
    method = KCD(every_epochs=1, mixing=False)
    choice = method.choose(1, history(*range(10)))
    assert choice.partner is None
    assert choice.weight is None


def test_certain_and_uncertain_predictions(pair):
    made = pair(KCD())
    batch = made.batch()
    logits = torch.zeros(8, 10)
    logits[0, 3] = 1000
    outputs = {key: replace(value, logits=logits) for key, value in batch.outputs.items()}
    made.method.update(replace(batch, outputs=outputs), made.method_state.modules)
    found = made.method_state.modules.sums_M[batch.indices]
    assert found[0] == 0
    torch.testing.assert_close(found[1:], torch.full((7,), 10.0).log())
    assert made.method_state.modules.counts_M.sum() == 7


def test_too_few_images_in_the_end(pair):
    setup = replace(pair(KCD()).student_state.setup, epochs=10)
    with pytest.raises(MethodError, match="of 40 training images 1 would be kept in the end; at least 2 are needed"):
        KCD(every_epochs=1, final_share=0.03).check(setup)
    KCD(every_epochs=1, final_share=0.05).check(setup)
    KCD(every_epochs=10, final_share=0.03).check(setup)
