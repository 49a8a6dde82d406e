"""What is trained before the shared loop and beside it: phases, further networks, students with images of their own."""

import signal

import pytest

from retort.engine.interrupt import FINISHED, STOPPED
from tests.retort.engine.forks import Engine

FLOW = {"name": "information_flow", "auxiliary_epochs": 2}
PLUG_IN = {"name": "nckd", "nc3": False}
SGD = {"name": "sgd", "learning_rate": 0.05}
COMMON = {"batch_size": 16, "threads": 1, "precision": "float32"}
RECIPE = {
    "dataset": {"name": "digits", "label_share": 0.1},
    "teacher": {"architecture": "resnet8x4", "teach": COMMON | {"epochs": 1, "optimizer": SGD}},
    "students": [
        {"name": "kd", "architecture": "resnet8", "methods": [{"name": "kd"}]},
        {"name": "kcd", "architecture": "resnet8", "methods": [{"name": "kcd", "every_epochs": 1, "parts": 2}]},
        {"name": "flow", "architecture": "resnet8", "methods": [FLOW]},
        {"name": "flow_2", "architecture": "resnet8", "seed": 2, "methods": [FLOW, {"name": "ab", "epochs": 1}]},
        {"name": "ft", "architecture": "resnet8", "methods": [{"name": "ft", "epochs": 1}]},
        {"name": "simkd", "architecture": "resnet8", "methods": [{"name": "simkd"}, PLUG_IN]},
        {"name": "crd", "architecture": "resnet8", "methods": [{"name": "crd", "negatives": 64}, PLUG_IN]},
    ],
    "training": COMMON | {"epochs": 3, "augmentation": {"crop_padding": 1}},
    "evaluation": {"every_epochs": 3},
    "exports": [{"name": "safetensors"}],
    "fail_if_worse_than_chance": False,
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Engine:
    engine = Engine(tmp_path_factory.mktemp("sections") / "undisturbed", RECIPE)
    assert engine.run() == FINISHED, (engine.directory / "stderr").read_text()
    return engine


def metrics(engine, student):
    return [event for event in engine.events() if event.kind == "metrics" and event.network == student]


def test_phases_come_before_the_loop_and_an_equal_further_network_is_trained_once(finished):
    phases = [event.phase for event in finished.events() if event.kind == "phase"]
    between = phases[phases.index("preparing the methods") + 1 : phases.index("compressing")]
    assert between[0] == "information_flow auxiliary network"
    assert between.count("information_flow auxiliary network") == 1
    assert between[-1] == "distilling"
    assert {phase.split()[0] for phase in between} == {"information_flow", "ab", "ft", "distilling"}
    assert [event.epoch for event in metrics(finished, "flow") if "auxiliary" in event.phase] == [1, 2]
    assert not [event for event in metrics(finished, "flow_2") if "auxiliary" in event.phase]


def test_a_student_that_chooses_its_images_sees_fewer_of_them(finished):
    steps = [event.step for event in metrics(finished, "kcd")]
    assert len(steps) == 3
    lengths = [after - before for before, after in zip([0, *steps], steps, strict=False)]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[-1] < lengths[0]
    assert [event.step for event in metrics(finished, "kd")] == [lengths[0] * epoch for epoch in (1, 2, 3)]


MOMENTS = [
    (signal.SIGKILL, {"line": "checkpoint", "phase": "information_flow auxiliary network"}),
    (signal.SIGTERM, {"line": "checkpoint", "phase": "ft paraphraser"}),
    (signal.SIGKILL, {"kind": "metrics", "phase": "distilling", "network": "kd", "epoch": 1}),
    (signal.SIGKILL, {"kind": "metrics", "phase": "distilling", "network": "kcd", "epoch": 2}),
]


def test_killed_in_any_section_it_ends_with_the_same_bits(finished, tmp_path):
    engine = Engine(tmp_path / "disturbed", RECIPE)
    for number, moment in MOMENTS:
        code = engine.run_to(number, "--checkpoint-seconds", "0.05", **moment)
        assert code == (STOPPED if number == signal.SIGTERM else -number)
    assert engine.run() == FINISHED
    assert engine.digests() == finished.digests()
    said = {event.key: event for event in engine.events()}
    assert said == {event.key: event for event in finished.events()}


@pytest.mark.parametrize("name", ["kcd", "flow_2"])
def test_no_student_depends_on_what_is_trained_beside_it(finished, tmp_path, name):
    (student,) = [student for student in RECIPE["students"] if student["name"] == name]
    alone = Engine(tmp_path / name, {**RECIPE, "students": [student]})
    assert alone.run() == FINISHED
    assert alone.digests()[f"{name}.safetensors"] == finished.digests()[f"{name}.safetensors"]
