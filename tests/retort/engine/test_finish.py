"""A run that is asked to finish ships the best so far, says how far it came, and does so again from its checkpoint."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from retort.engine.__main__ import _lines, carry_out, read_order
from retort.engine.event_log import EventLog
from retort.engine.interrupt import FINISHED, NOTHING_TO_KEEP, STOPPED, Interrupt
from retort.kinds import DISTILL
from retort.order import Order, Paths
from tests.retort.engine.forks import PATIENCE_SECONDS, Together, WarmEngine
from tests.retort.engine.runs import Ended, recipe_of

STEPS = 4
"""Of an epoch: 126 images in batches of 32."""

When = Callable[[dict], bool]


class Wishing(EventLog):
    """Has a wish as soon as a line is said that calls for it; says after each step where the run stands."""

    def __init__(self, descriptor: int, when: When, wish: Callable[[], None]) -> None:
        super().__init__(descriptor)
        self._when, self._wish = when, wish

    def progress_is_due(self):
        return True

    def replay(self, said):
        when, self._when = self._when, lambda line: False
        super().replay(said)
        self._when = when

    def _write(self, line):
        super()._write(line)
        if self._when(json.loads(line)):
            self._wish()


def attempt(
    recipe: dict, directory: Path, *, finish: When | None = None, stop: When | None = None, ordered: bool = False
) -> int:
    """Run or resume a recipe in this process; returns the exit code."""
    directory.mkdir(exist_ok=True)
    paths = Paths(directory=directory, checkpoints=directory / "checkpoints", weights=directory, checkpoint_seconds=1e9)
    interrupt = Interrupt()
    with (directory / "log.jsonl").open("ab") as out:
        event_log = Wishing(
            out.fileno(), finish or stop or (lambda line: False), interrupt.set if stop else interrupt.set_finish
        )
        return carry_out(Order(kind=DISTILL, spec=recipe, paths=paths, finish=ordered), event_log, interrupt)


def ended(directory: Path) -> Ended:
    return Ended(directory, [json.loads(line) for line in (directory / "log.jsonl").read_text().splitlines()])


def report(directory: Path) -> dict:
    return json.loads((directory / "artifacts/report.json").read_text())


def after_step(step: int, phase: str = "distilling") -> When:
    return lambda line: line["line"] == "progress" and line["phase"] == phase and line["step"] == step


def enters(phase: str) -> When:
    return lambda line: line["line"] == "event" and line["kind"] == "phase" and line["phase"] == phase


def ends_a_section(phase: str) -> When:
    return lambda line: line["line"] == "checkpoint" and line["phase"] == phase


def shipped(directory: Path, network: str = "student") -> dict[str, torch.Tensor]:
    return load_file(directory / f"artifacts/{network}.safetensors")


def steps_of_checkpoints(directory: Path) -> list[int]:
    return [line["step"] for line in ended(directory).lines if line["line"] == "checkpoint"]


def recipe(*methods: dict, ship: str = "best", every_epochs: int = 100, epochs: int = 4) -> dict:
    made = recipe_of(*(methods or ({"name": "kd"},)), epochs=epochs)
    return made | {"evaluation": {"every_epochs": every_epochs, "ship": ship}}


def test_a_student_in_its_first_epoch_is_looked_at_and_shipped_and_one_that_had_not_begun_is_left_out(tmp_path):
    """KCD chooses its images, so that its student has a loop of its own, after the other one's."""
    both = recipe()
    both["students"].append({"name": "later", "architecture": "resnet8", "methods": [{"name": "kcd"}]})
    assert attempt(both, tmp_path / "a", finish=after_step(3)) == FINISHED
    said = report(tmp_path / "a")
    assert (said["stopped_early"], said["left_out"]) == (True, ["later"])
    teacher, student = said["networks"]
    assert teacher["trained"] == {"epochs": 1, "of_epochs": 1, "steps": STEPS, "of_steps": STEPS}
    assert student["trained"] == {"epochs": 0, "of_epochs": 4, "steps": 3, "of_steps": 4 * STEPS}
    assert student["best_epoch"] == 0
    assert {file.name for file in (tmp_path / "a/artifacts").iterdir()} == {
        *("teacher.json", "teacher.safetensors", "student.json", "student.safetensors", "report.json")
    }
    (judged,) = (
        line
        for line in ended(tmp_path / "a").lines
        if line.get("kind") == "evaluation" and line["phase"] == "distilling"
    )
    assert (judged["network"], judged["epoch"], judged["step"]) == ("student", 0, 3)
    assert 0 < judged["values"]["validation.accuracy"] < 1


def test_the_best_epoch_is_kept_and_with_ship_last_the_weights_of_the_last_step(tmp_path):
    for ship in ("best", "last"):
        for step in (2 * STEPS + 1, 2 * STEPS + 2):
            asked = recipe(ship=ship, every_epochs=1)
            directory = tmp_path / f"{ship} {step}"
            assert attempt(asked, directory, finish=after_step(step)) == FINISHED
            (row,) = (row for row in report(directory)["networks"] if row["name"] == "student")
            assert row["trained"]["steps"] == step
            assert row["best_epoch"] in (1, 2)
            newest = max((directory / "checkpoints").iterdir())
            with safe_open(newest, "pt") as opened:
                state = json.loads(opened.metadata()["state"])
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            train_state = part(part(part(state, "trainer"), "train_states"), 0)
            kept = part(part(train_state, "best"), "weights") if ship == "best" else part(train_state, "network")
            kept = {name.removeprefix("body."): tensors[node["tensor"]] for name, node in kept["dict"]}
            found = shipped(directory)
            assert all(torch.equal(found[name], kept[name]) for name in found)
    assert ended(tmp_path / "best 9").digest() == ended(tmp_path / "best 10").digest()
    assert ended(tmp_path / "last 9").digest() != ended(tmp_path / "last 10").digest()


def part(node: dict, key: str | int) -> dict:
    """What a checkpoint's header holds under a key."""
    ((kind, content),) = node.items()
    return content[key] if kind == "list" else next(value for name, value in content if name == key)


def test_killed_while_it_exports_it_wraps_up_again_without_a_step_and_with_the_same_bytes(tmp_path):
    asked, step = recipe({"name": "nckd"}), STEPS + 2
    assert attempt(asked, tmp_path / "at once", finish=after_step(step)) == FINISHED
    twice = tmp_path / "twice"
    assert attempt(asked, twice, stop=after_step(step)) == STOPPED
    assert attempt(asked, twice, ordered=True, stop=enters("exporting")) == STOPPED
    assert not (twice / "artifacts.json").exists()
    assert attempt(asked, twice, ordered=True) == FINISHED
    assert max(steps_of_checkpoints(twice)) == step
    for file in (tmp_path / "at once/artifacts").iterdir():
        assert (twice / "artifacts" / file.name).read_bytes() == file.read_bytes(), file.name


def test_the_checkpoint_of_an_early_end_is_as_if_nobody_had_asked(tmp_path):
    assert attempt(recipe(), tmp_path / "undisturbed") == FINISHED
    assert attempt(recipe(), tmp_path / "a", finish=after_step(3)) == FINISHED
    early = ended(tmp_path / "a").digest()
    assert attempt(recipe(), tmp_path / "a") == FINISHED
    assert ended(tmp_path / "a").digest() == ended(tmp_path / "undisturbed").digest() != early
    assert report(tmp_path / "a") == report(tmp_path / "undisturbed")
    assert (report(tmp_path / "a")["stopped_early"], report(tmp_path / "a")["left_out"]) == (False, [])


def test_a_loop_that_had_ended_is_kept_when_the_next_has_not_begun(tmp_path):
    both = recipe(epochs=1)
    both["students"].append({"name": "later", "architecture": "resnet8", "methods": [{"name": "kcd"}]})
    ends = tmp_path / "a"
    assert attempt(both, ends, stop=ends_a_section("distilling")) == STOPPED
    assert attempt(both, ends, ordered=True) == FINISHED
    said = report(ends)
    assert (said["stopped_early"], said["left_out"]) == (True, ["later"])
    assert said["networks"][1]["trained"] == {"epochs": 1, "of_epochs": 1, "steps": STEPS, "of_steps": STEPS}


@pytest.mark.parametrize(
    ("when", "steps"),
    [
        (enters("preparing"), 0),
        (after_step(1, "teaching"), 0),
        (enters("preparing the methods"), STEPS),
        (after_step(1, "ab boundaries"), STEPS),
        (enters("distilling"), STEPS),
    ],
    ids=["preparing", "teaching", "preparing the methods", "phase", "first step"],
)
def test_before_a_student_is_trained_there_is_nothing_to_keep(tmp_path, when, steps):
    method = {"name": "ab", "epochs": 1}
    assert attempt(recipe(method), tmp_path / "a", finish=when) == NOTHING_TO_KEEP
    last = ended(tmp_path / "a").lines[-1]
    assert (last["kind"], last["text"]) == (
        "failed",
        "asked to finish before any student was trained: there is nothing to keep, and a teacher alone is not enough",
    )
    assert max(steps_of_checkpoints(tmp_path / "a"), default=0) <= steps
    assert not (tmp_path / "a/artifacts").exists()
    # Asked again, it does not even begin where it stood.
    assert attempt(recipe(method), tmp_path / "a", ordered=True) == NOTHING_TO_KEEP


def test_asked_behind_the_training_it_goes_on(tmp_path):
    one = recipe(epochs=1)
    assert attempt(one, tmp_path / "undisturbed") == FINISHED
    assert attempt(one, tmp_path / "asked", finish=enters("evaluating")) == FINISHED
    assert report(tmp_path / "asked") == report(tmp_path / "undisturbed")
    assert not report(tmp_path / "asked")["stopped_early"]


LONG = recipe_of({"name": "kd"}, epochs=2000)


def order(directory: Path, recipe: dict, **more: object) -> bytes:
    paths = {
        "directory": str(directory / "attempt"),
        "checkpoints": str(directory / "checkpoints"),
        "weights": str(directory),
        "run": "7",
        "checkpoint_seconds": 1000,
        "teacher_cache": {"path": str(directory / "cache"), "max_bytes": 10**8},
    }
    return json.dumps({"kind": "distill", "spec": recipe, "paths": paths} | more).encode() + b"\n"


def test_the_parent_asks_by_a_line_and_may_do_so_twice(tmp_path):
    engine = WarmEngine(tmp_path / "warm", LONG)
    process = engine.start()
    engine.orders.write(order(tmp_path, LONG))
    engine.wait_for(process, lambda line: line.get("kind") == "metrics" and line["phase"] == "distilling")
    engine.orders.write(b"finish\nfinish\n")
    assert process.wait(PATIENCE_SECONDS) == FINISHED
    engine.orders.close()
    said = report(tmp_path / "attempt")
    assert said["stopped_early"]
    assert 0 < said["networks"][1]["trained"]["steps"] < 2000 * STEPS


@pytest.mark.parametrize("blocks", [[b'{"recipe"', b": 1}\nfin", b"ish\n", b"fin"], [b'{"recipe": 1}\nfinish\n']])
def test_lines_of_the_parent_come_whole_however_they_were_sent(blocks):
    reading, writing = os.pipe()
    lines = _lines(reading)
    for block in blocks:
        os.write(writing, block)
    os.close(writing)
    assert list(lines) == [b'{"recipe": 1}', b"finish"]
    os.close(reading)


@pytest.mark.parametrize(("more", "wanted"), [({"finish": True}, True), ({"finish": False}, False), ({}, False)])
def test_an_order_may_hold_the_wish(tmp_path, more, wanted):
    found = read_order(order(tmp_path, LONG, **more))
    assert (found.spec, found.paths.run, found.finish) == (LONG, "7", wanted)


def test_a_signal_to_one_process_of_two_ends_the_training_of_both(tmp_path):
    engine = Together(tmp_path / "two", recipe_of({"name": "kd"}, epochs=2000))
    group = engine.start()
    engine.wait_for(group, lambda line: line.get("kind") == "metrics" and line["phase"] == "distilling")
    group.members[1].send_signal(signal.SIGUSR1)
    assert group.wait(PATIENCE_SECONDS) == 0, (engine.directory / "stderr").read_text()
    said = report(engine.directory)
    assert said["stopped_early"]
    assert engine.digests().keys() == {
        *("teacher.json", "teacher.safetensors", "student.json", "student.safetensors", "report.json")
    }
