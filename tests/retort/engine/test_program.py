"""The engine as a program: records, artifacts, exit codes, and the same bits after it was killed."""

import json
import re
import signal
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
import torch

from retort.datasets.digits import Digits
from retort.engine.interrupt import FINISHED, IMPOSSIBLE, STOPPED
from retort.engine.run import resolve_for
from retort.recipe import Recipe
from retort.student import load_student
from tests.retort.engine.forks import PATIENCE_SECONDS, Engine, WarmEngine
from tests.retort.engine.runs import PRECISIONS, recipe_of
from tests.retort.engine.test_finish import attempt, ended, order

SGD = {"name": "sgd", "learning_rate": 0.05}
DIGITS = {"name": "digits", "label_share": 0.2}
NAMES = ["kd", "nckd", "r2kd", "baseline"]


def recipe_in(precision: str) -> dict:
    common = {"precision": precision, "epochs": 2}
    return {
        "dataset": DIGITS,
        "teacher": {"architecture": "resnet20", "teach": common | {"optimizer": SGD}},
        "students": [
            {"name": "kd", "architecture": "resnet8", "methods": [{"name": "kd"}]},
            {"name": "nckd", "architecture": "resnet8", "methods": [{"name": "nckd", "projection": "linear"}]},
            {"name": "r2kd", "architecture": "resnet8", "seed": 3, "methods": [{"name": "r2kd"}]},
        ],
        "baseline": True,
        "training": common | {"augmentation": {"crop_padding": 1}, "threads": 1},
        "exports": [{"name": "safetensors"}],
    }


RECIPE = recipe_in("float32")


@pytest.fixture(scope="module", params=PRECISIONS)
def finished(request, tmp_path_factory) -> Engine:
    engine = Engine(tmp_path_factory.mktemp("engine") / "undisturbed", recipe_in(request.param))
    assert engine.run() == FINISHED, (engine.directory / "stderr").read_text()
    return engine


@pytest.fixture(scope="module")
def with_onnx(tmp_path_factory) -> Engine:
    training = RECIPE["training"] | {"epochs": 1}
    recipe = RECIPE | {
        "teacher": {"architecture": "resnet8", "teach": training},
        "students": RECIPE["students"][:2],
        "baseline": False,
        "training": training,
        "exports": [{"name": "onnx"}],
    }
    engine = Engine(tmp_path_factory.mktemp("engine") / "onnx", recipe)
    assert engine.run() == FINISHED, (engine.directory / "stderr").read_text()
    return engine


def test_phases_come_in_their_order(finished):
    phases = [event.phase for event in finished.events() if event.kind == "phase"]
    assert phases == [
        "preparing",
        "teaching",
        "preparing the methods",
        "distilling",
        "compressing",
        "evaluating",
        "exporting",
    ]


def test_each_record_is_said_once(finished):
    keys = [event.key for event in finished.events()]
    assert len(keys) == len(set(keys))


def test_every_epoch_of_every_student_has_its_metrics(finished):
    said = {
        (event.network, event.kind, event.epoch)
        for event in finished.events()
        if event.phase == "distilling" and event.kind != "phase"
    }
    assert said == {(name, kind, epoch) for name in NAMES for kind in ("metrics", "evaluation") for epoch in (1, 2)}


def test_terms_add_up_to_the_loss(finished):
    for event in finished.events():
        if event.kind == "metrics":
            terms = [v for name, v in event.values.items() if name not in {"loss", "learning_rate"}]
            assert sum(terms) == pytest.approx(event.values["loss"]), event


def test_the_resolved_recipe_holds_no_auto(finished):
    (event,) = [event for event in finished.events() if event.kind == "resolved"]
    assert "auto" not in json.dumps(event.data)


def test_the_artifacts_are_all_there_and_listed(finished):
    listed = json.loads((finished.directory / "artifacts.json").read_text())
    wanted = {f"{name}{suffix}" for name in NAMES for suffix in (".json", ".safetensors")}
    assert {entry["name"] for entry in listed} == wanted | {"teacher.json", "teacher.safetensors", "report.json"}
    assert all((finished.directory / entry["file"]).is_file() for entry in listed)


@pytest.mark.parametrize(("has_bfloat16", "precision"), [(True, "bfloat16"), (False, "float32")])
def test_the_processor_decides_what_auto_computes_in(monkeypatch, has_bfloat16, precision):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_bfloat16)
    recipe = recipe_of()
    del recipe["training"]["precision"], recipe["teacher"]["teach"]["precision"]
    found = resolve_for(Recipe.model_validate(recipe), torch.device("cpu"))
    assert (found.training.precision, found.teacher.teach.precision) == (precision, precision)


def test_best_is_chosen_on_validation_and_the_report_tells_best_and_last(finished):
    report = json.loads((finished.directory / "artifacts/report.json").read_text())
    by_name = {row["name"]: row for row in report["networks"]}
    for name in NAMES:
        accuracies = {
            event.epoch: event.values["validation.accuracy"]
            for event in finished.events()
            if event.network == name and event.phase == "distilling" and event.kind == "evaluation"
        }
        assert accuracies[by_name[name]["best_epoch"]] == max(accuracies.values())
        assert by_name[name]["test"].keys() == {"best", "last"}
    assert "test.agreement" not in by_name["teacher"]["test"]["best"]
    assert by_name["nckd"]["role"] == "student"
    assert by_name["baseline"]["role"] == "baseline"
    assert by_name["kd"]["diagnostics"].keys() == {"nc1", "nc2_norms", "nc2_angles", "nc3"}


def test_the_report_tells_agreement_calibration_and_classes_of_what_is_shipped(finished):
    report = json.loads((finished.directory / "artifacts/report.json").read_text())
    rows = {row["name"]: row for row in report["networks"]}
    test = Digits().load([]).test
    images = test.inputs(torch.arange(len(test))).float() / 255
    said = {}
    for name in rows:
        network, _ = load_student(*(finished.directory / f"artifacts/{name}{s}" for s in (".json", ".safetensors")))
        with torch.no_grad():
            said[name] = network(images).argmax(1)
    for name in NAMES:
        shipped = rows[name]["test"][report["ship"]]
        assert shipped["test.agreement"] == pytest.approx(float((said[name] == said["teacher"]).double().mean()))
        assert 0 < shipped["test.calibration_error"] < 1
        shares = rows[name]["class_accuracies"][report["ship"]]
        assert shares == pytest.approx([float((said[name] == k)[test.targets == k].double().mean()) for k in range(10)])
    (event,) = [event for event in finished.events() if event.kind == "evaluation" and event.network == "kd"][-1:]
    assert event.values["test.agreement"] == rows["kd"]["test"][report["ship"]]["test.agreement"]


@pytest.mark.parametrize("name", [*NAMES, "teacher"])
def test_a_rebuilt_network_gives_the_reported_accuracy_to_the_image(finished, name):
    network, description = load_student(
        *(finished.directory / f"artifacts/{name}{s}" for s in (".json", ".safetensors"))
    )
    test = Digits().load([]).test
    images = test.inputs(torch.arange(len(test))).float() / 255
    with torch.no_grad():
        guesses = network(images).argmax(1)
    assert (guesses == test.targets).sum() == description["test"]["correct"]
    assert network.parameter_count() == description["parameters"]


@pytest.mark.parametrize("name", ["kd", "nckd"])
def test_onnx_gives_the_reported_accuracy_to_the_image(with_onnx, name):
    session = onnxruntime.InferenceSession(with_onnx.directory / f"artifacts/{name}.onnx")
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["class_names"]) == list("0123456789")
    assert json.loads(metadata["input"])["size"] == 8
    test = Digits().load([]).test
    images = test.inputs(torch.arange(len(test))).float().numpy() / 255
    guesses = session.run(["logits"], {"images": images.astype(np.float32)})[0].argmax(1)
    assert (guesses == test.targets.numpy()).sum() == json.loads(metadata["retort"])["test"]["correct"]


MOMENTS = [
    (signal.SIGKILL, {"line": "checkpoint", "phase": "teaching", "step": 3}),
    (signal.SIGTERM, {"line": "checkpoint", "phase": "distilling", "step": 2}),
    (signal.SIGKILL, {"line": "checkpoint", "phase": "distilling", "step": 5}),
    (signal.SIGKILL, {"line": "event", "phase": "exporting"}),
]


@pytest.mark.long
def test_killed_and_started_again_it_ends_with_the_same_bits(finished, tmp_path):
    engine = Engine(tmp_path / "disturbed", recipe_of_run(finished))
    for number, moment in MOMENTS:
        code = engine.run_to(number, "--checkpoint-seconds", "0", **moment)
        assert code == (STOPPED if number == signal.SIGTERM else -number)
    assert engine.run() == FINISHED
    assert engine.digests() == finished.digests()
    # What a resumed run says again is what was said before.
    said = {}
    for event in engine.events():
        assert said.setdefault(event.key, event) == event
    assert said == {event.key: event for event in finished.events()}


def recipe_of_run(engine: Engine) -> dict:
    return json.loads((engine.directory / "recipe.json").read_text())


def test_students_do_not_depend_on_what_is_trained_beside_them(finished, tmp_path):
    recipe = recipe_of_run(finished)
    alone = Engine(tmp_path / "alone", {**recipe, "students": [recipe["students"][2]], "baseline": False})
    assert alone.run() == FINISHED
    name = "r2kd.safetensors"
    assert alone.digests()[name] == finished.digests()[name]


def test_an_impossible_recipe_says_why(tmp_path):
    """Started as its users start it."""
    teacher = {"architecture": "resnet20", "weights": {"job": "job_0", "network": "kd"}}
    (tmp_path / "recipe.json").write_text(json.dumps({**RECIPE, "teacher": teacher}))
    command = [sys.executable, "-m", "retort.engine", str(tmp_path / "recipe.json"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == IMPOSSIBLE
    last = json.loads(done.stdout.splitlines()[-1])
    assert last["kind"] == "failed"
    assert last["text"].startswith("the weights of kd from job_0 cannot be used")
    assert last["text"] in done.stderr


def test_a_network_whose_head_was_replaced_is_no_start(finished, tmp_path):
    kept = tmp_path / "weights/job_1"
    kept.parent.mkdir()
    kept.symlink_to(finished.directory / "artifacts")
    student = {"architecture": "resnet8", "weights": {"job": "job_1", "network": "nckd"}}
    engine = Engine(tmp_path / "x", {"dataset": DIGITS, "student": student})
    assert engine.run("--weights", str(tmp_path / "weights")) == IMPOSSIBLE
    assert "the head of nckd of job_1 was replaced by the method nckd" in engine.events()[-1].text


def exploding(precision: str, **training: object) -> dict:
    """A step makes the weights a hundred times larger and turns them round, in whatever arithmetic."""
    wild = {"name": "sgd", "learning_rate": 100, "weight_decay": 1}
    recipe = recipe_of(precision=precision, optimizer=wild, schedule={"name": "constant"}, **training)
    return recipe | {"teacher": None}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_loss_that_explodes_ends_with_its_step_and_term(tmp_path, precision):
    assert attempt(exploding(precision, batch_size=8, epochs=3), tmp_path / "x") == IMPOSSIBLE
    said = ended(tmp_path / "x").lines[-1]["text"]
    assert re.match(r"student: labels was not a finite number in step \d+, epoch \d; ", said)
    assert said.endswith("the last good checkpoint is none")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_network_that_explodes_in_the_last_step_of_an_epoch_is_found_in_validation(tmp_path, precision):
    recipe = exploding(precision, batch_size=2048, epochs=10) | {"evaluation": {"every_epochs": 1}}
    assert attempt(recipe, tmp_path / "x") == IMPOSSIBLE
    assert "validation.loss was not a finite number in step" in ended(tmp_path / "x").lines[-1]["text"]


def test_weights_of_an_earlier_run_are_a_teacher_and_a_start(finished, tmp_path):
    kept = tmp_path / "weights/job_1"
    kept.parent.mkdir()
    kept.symlink_to(finished.directory / "artifacts")
    recipe = {
        "dataset": DIGITS,
        "teacher": {"architecture": "resnet20", "weights": {"job": "job_1", "network": "teacher"}},
        "student": {"architecture": "resnet8", "weights": {"job": "job_1", "network": "kd"}},
        "methods": [{"name": "kd"}],
        "training": RECIPE["training"] | {"epochs": 1, "optimizer": {"name": "sgd", "learning_rate": 1e-6}},
        "compression": [{"name": "float16"}, {"name": "quantize", "calibration_examples": 64}],
        "exports": [{"name": "safetensors"}],
    }
    engine = Engine(tmp_path / "second", recipe)
    assert engine.run("--weights", str(tmp_path / "weights")) == FINISHED
    rows = {
        row["name"]: row for row in json.loads((engine.directory / "artifacts/report.json").read_text())["networks"]
    }
    before = json.loads((finished.directory / "artifacts/teacher.json").read_text())["test"]
    assert rows["teacher"]["test"]["best"]["test.correct"] == before["correct"]
    assert not (engine.directory / "artifacts/teacher.safetensors").exists()
    small, whole = (
        d / "artifacts" / f
        for d, f in ((engine.directory, "student.safetensors"), (finished.directory, "kd.safetensors"))
    )
    assert small.stat().st_size < 0.6 * whole.stat().st_size
    network, description = load_student(small.with_suffix(".json"), small)
    test = Digits().load([]).test
    with torch.no_grad():
        guesses = network(test.inputs(torch.arange(len(test))).float() / 255).argmax(1)
    assert (guesses == test.targets).sum() == description["test"]["correct"]
    int8 = rows["student"]["compression"]["quantize"]
    file = engine.directory / "artifacts" / int8["artifact"]
    assert (file.name, file.stat().st_size) == ("student.int8.onnx", int8["bytes"])
    assert file.name in {each["name"] for each in json.loads((engine.directory / "artifacts.json").read_text())}
    images = test.inputs(torch.arange(len(test))).float().numpy() / 255
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    in_int8 = session.run(["logits"], {"images": images.astype(np.float32)})[0].argmax(1)
    assert (in_int8 == test.targets.numpy()).sum() == int8["test"]["test.correct"]
    assert (in_int8 == guesses.numpy()).mean() == pytest.approx(int8["test"]["test.student_agreement"])
    assert int8["tried"][int8["form"]] == int8["validation"] == max(int8["tried"].values())
    assert rows["teacher"]["compression"] == {}


def test_a_warm_engine_ends_with_its_parent(tmp_path):
    engine = WarmEngine(tmp_path / "warm", RECIPE)
    process = engine.start()
    engine.orders.close()
    assert process.wait(PATIENCE_SECONDS) == STOPPED


def test_a_running_engine_stops_with_its_parent(tmp_path):
    engine = WarmEngine(tmp_path / "warm", RECIPE)
    process = engine.start()
    engine.orders.write(order(tmp_path, {**RECIPE, "training": RECIPE["training"] | {"epochs": 1000}}))
    engine.wait_for(process, lambda line: line["line"] == "progress")
    engine.orders.close()
    assert process.wait(PATIENCE_SECONDS) == STOPPED
    assert engine.lines()[-1]["line"] == "checkpoint"
    assert len(list((tmp_path / "checkpoints").iterdir())) >= 1
