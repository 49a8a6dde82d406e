from copy import deepcopy
from dataclasses import replace
from math import log

import pytest
import torch

from retort.method import MethodError
from retort.methods._embeddings import EmbeddingQueue, MemoryBanks
from retort.methods.rrd import RRD
from tests.retort.methods.goldens import batch_of, fill
from tests.retort.methods.test_crd import golden_banks


def golden(case, given):
    h, batch = case["hyperparameters"], batch_of(given)
    temperatures = {name: h[name] for name in ("student_temperature", "teacher_temperature")}
    if "queue_size" in h:
        queue = golden_queue(given, h)
        method = RRD(**temperatures)
        loss = method.terms(batch, queue)["relation"]
        method.update(batch, queue)
        return {
            "loss": loss,
            "queue_position_after": queue.position.double(),
            "out.memory.teacher": queue.queue_QD,
        }
    banks = golden_banks(given, h, temperature=h["score_temperature"])
    method = RRD(memory="momentum", **temperatures)
    loss = method.terms(batch, banks)["relation"]
    # A copy, as the gradient still needs the memory as it was.
    banks = deepcopy(banks)
    method.update(batch, banks)
    return {"loss": loss, "out.memory.student": banks.student_MD, "out.memory.teacher": banks.teacher_MD}


def golden_queue(given, h):
    widths = given["student.embedding"].shape[1], given["teacher.embedding"].shape[1]
    queue = EmbeddingQueue(*widths, h["embed_dim"], h["queue_size"]).double()
    queue.queue_QD.copy_(given["memory.teacher"])
    queue.position.fill_(h["queue_position"])
    return fill(queue, given, "aux")


def test_the_queue_goes_round_for_any_batch_size():
    queue = EmbeddingQueue(3, 3, 3, 5)
    queue.embed_student = queue.embed_teacher = torch.nn.Identity()
    x, y, z = torch.eye(3)
    before = queue.queue_QD.clone()
    queue.push(x.expand(3, 3), x.expand(3, 3))
    assert queue.position == 3
    assert torch.equal(queue.queue_QD, torch.cat([x.expand(3, 3), before[3:]]))
    queue.push(y.expand(3, 3), y.expand(3, 3))
    assert queue.position == 1
    assert torch.equal(queue.queue_QD, torch.stack([y, x, x, y, y]))
    queue.push(z.expand(5, 3), z.expand(5, 3))
    assert torch.equal(queue.queue_QD, z.expand(5, 3))


def test_the_batch_stands_in_the_queue_before_it_is_pushed(pair):
    made = pair(RRD(queue_size=20))
    state, batch = made.method_state.modules, made.batch()
    read = batch.student().embedding, batch.teacher().embedding
    before = state.similarities(*read)
    assert torch.allclose(before[1].diagonal(), torch.ones(8))
    state.push(*read)
    state.position.zero_()
    assert torch.equal(torch.stack(before), torch.stack(state.similarities(*read)))


def test_at_a_high_temperature_all_of_the_queue_looks_alike(pair):
    made = pair(RRD(student_temperature=100, teacher_temperature=100, queue_size=20))
    assert made.terms(made.batch())["relation"].item() == pytest.approx(log(20), rel=1e-3)


@pytest.mark.parametrize(("memory", "kind"), [("fifo", EmbeddingQueue), ("momentum", MemoryBanks)])
def test_the_teachers_map_is_frozen(pair, memory, kind):
    made = pair(RRD(memory=memory))
    state = made.method_state.modules
    assert isinstance(state, kind)
    weight = state.embed_teacher.weight.clone()
    before = state.embed_student.weight.clone()
    made.step(0)
    assert torch.equal(state.embed_teacher.weight, weight)
    assert not torch.equal(state.embed_student.weight, before)


def test_the_initial_queue_has_rows_of_length_one():
    torch.testing.assert_close(EmbeddingQueue(3, 3, 8, 50).queue_QD.norm(dim=1), torch.ones(50))


def test_a_queue_shorter_than_a_batch(pair):
    setup = pair(RRD()).student_state.setup
    with pytest.raises(MethodError, match="the queue holds 7 embeddings, less than a batch of 8"):
        RRD(queue_size=7).check(setup)
    RRD(queue_size=8).check(setup)
    RRD(memory="momentum", queue_size=7).check(setup)


def test_images_of_one_class_have_no_negatives(pair):
    setup = replace(pair(RRD()).student_state.setup, targets=torch.zeros(40, dtype=torch.int64))
    with pytest.raises(MethodError, match="all training images are of one class"):
        RRD(memory="momentum").modules(setup)
