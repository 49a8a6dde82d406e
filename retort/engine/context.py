"""The context of a run: everything that its stages share, and how it is prepared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from hashlib import sha256

import torch

from retort.architecture import Card
from retort.architectures import CARDS
from retort.dataset import LoadedDataset, Split
from retort.engine import user_weights
from retort.engine.checkpoint import Checkpoints, State
from retort.engine.event_log import EventLog
from retort.engine.group import Group
from retort.engine.interrupt import Impossible, Interrupt
from retort.engine.loading import on_device
from retort.engine.teacher_cache import TeacherCache
from retort.engine.trainer import TrainerContext
from retort.engine.version_1 import Version1
from retort.order import Paths
from retort.recipe import Recipe, Training
from retort.task import Task
from retort.tasks import TASKS
from retort.validation import resolve, validate

STUDENTS = "students"
"""Beginning of the names of sections in which students are trained on all their terms."""


@dataclass(frozen=True)
class RunContext:
    """A recipe, resolved, with its data and with all that its stages read and write."""

    recipe: Recipe
    task: Task
    paths: Paths
    event_log: EventLog
    interrupt: Interrupt
    group: Group
    data: LoadedDataset
    train: Split
    """The training split where it is read from: on the device if it fits there."""
    cards: Mapping[str, Card]
    """Every card that is known, those of this recipe's networks among them."""
    checkpoints: Checkpoints
    cache: TeacherCache | None
    begun: bool
    """Whether a student was trained before the checkpoint that the run goes on from."""

    @property
    def device(self) -> torch.device:
        return self.group.device

    def warn(self, text: str) -> None:
        """Put a warning into the event log."""
        self.event_log.record("warning", text=text)

    def redoing(self, *, begun: bool) -> AbstractContextManager[None]:
        """A stretch outside the training; `begun` says whether a student has been trained before."""
        return redoing(self.interrupt, self.group, begun=begun)

    def trainer_context(
        self, checkpoint_is_due: Callable[[], bool], interrupt: Interrupt, cache: TeacherCache | None
    ) -> TrainerContext:
        """The context of a trainer of this run."""
        return TrainerContext(
            task=self.task,
            data=self.data,
            device=self.device,
            event_log=self.event_log,
            interrupt=interrupt,
            evaluation=self.recipe.evaluation,
            checkpoint_is_due=checkpoint_is_due,
            last_checkpoint=lambda: self.checkpoints.latest,
            train=self.train,
            cache=cache,
            group=self.group,
        )


def redoing(interrupt: Interrupt, group: Group, *, begun: bool) -> AbstractContextManager[None]:
    """A stretch outside the training, which a request to stop may end wherever it stands."""
    # Several processes agree on a request to finish, which they do between steps.
    return interrupt.at_once(nothing_to_keep=not begun and group.size == 1)


def resolve_for(recipe: Recipe, device: torch.device) -> Recipe:
    """Replace the fields that only a worker knows: arithmetic and threads. Doing it twice changes nothing."""
    # With emulation left out: hardware that only imitates bfloat16 is slower with it.
    has_bfloat16 = (
        torch.cuda.is_bf16_supported(including_emulation=False)
        if device.type == "cuda"
        else torch.cpu._is_avx512_bf16_supported()
    )

    def settle(training: Training) -> Training:
        precision = ("bfloat16" if has_bfloat16 else "float32") if training.precision == "auto" else training.precision
        threads = torch.get_num_threads() if training.threads == "auto" else training.threads
        return training.model_copy(update={"precision": precision, "threads": threads})

    recipe = resolve(recipe)
    teacher = recipe.teacher
    if teacher is not None and teacher.teach is not None:
        teacher = teacher.model_copy(update={"teach": settle(teacher.teach)})
    return recipe.model_copy(update={"teacher": teacher, "training": settle(recipe.training)})


def recipe_digest(recipe: Recipe) -> str:
    """sha256, hex, of all that decides a run's result."""
    return sha256(_deciding_json(recipe).encode()).hexdigest()


def _deciding_json(recipe: Recipe) -> str:
    found = recipe.model_dump_json(
        exclude={"name", "tags", "priority", "needs", "deadline", "fail_if_worse_than_chance"}
    )
    # As versions up to 0.2 wrote it, whose checkpoints bear the digest.
    for steps, weights in (("[]", "float32"), ('[{"name":"float16"}]', "float16")):
        found = found.replace(f'"compression":{steps}', f'"compression":{{"weights":"{weights}"}}')
    return found


def prepare(
    recipe: Recipe, paths: Paths, event_log: EventLog, interrupt: Interrupt, group: Group
) -> tuple[RunContext, State | None]:
    """Load the data, validate the resolved recipe against them, and read the newest checkpoint, if there is one.

    Raises Impossible, or DatasetError.
    """
    event_log.enter("preparing")
    event_log.record("resolved", data=recipe.model_dump(mode="json"))
    threads = recipe.training.threads
    assert threads != "auto", "the recipe is resolved for this machine"
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(group.device.type == "cpu")

    def warn(text: str) -> None:
        event_log.record("warning", text=text)

    data = recipe.dataset.load(paths.data_roots)
    for warning in data.warnings:
        warn(warning)
    models = user_weights.records(recipe, paths.weights)
    cards = CARDS | user_weights.cards_for(_architectures(recipe), models)
    found = validate(recipe, data.facts, cards, models)
    if found.problems:
        raise Impossible("; ".join(problem.detail for problem in found.problems))
    for warning in found.warnings:
        warn(warning)
    checkpoints = Checkpoints(
        paths.checkpoints,
        recipe_digest(recipe),
        data.digest,
        paths.run,
        paths.checkpoint_seconds,
        Version1.of(_deciding_json(recipe), len(data.validation)),
    )
    train = on_device(data.train, group.device)
    cached = paths.teacher_cache
    cache = TeacherCache(cached.path, cached.max_bytes, paths.run, warn) if cached else None
    saved = checkpoints.newest(group.device)
    if saved:
        event_log.replay(saved["events"])
    _check_group(recipe, data, group, saved)
    begun = saved is not None and saved["section"].startswith(STUDENTS)
    context = RunContext(
        recipe, TASKS[recipe.task], paths, event_log, interrupt, group, data, train, cards, checkpoints, cache, begun
    )
    return context, saved


def _architectures(recipe: Recipe) -> set[str]:
    named = {student.architecture for student in recipe.students}
    return named | {recipe.teacher.architecture} if recipe.teacher else named


def _check_group(recipe: Recipe, data: LoadedDataset, group: Group, saved: State | None) -> None:
    """Raise Impossible where the processes cannot train this as one."""
    if group.size == 1:
        return
    teacher = recipe.teacher
    for training in (recipe.training, teacher.teach if teacher else None):
        if training is None:
            continue
        if training.batch_size < group.size:
            raise Impossible(
                f"batch_size is {training.batch_size}; each of {group.size} processes needs an example at least"
            )
        if training.on_out_of_memory == "accumulate":
            raise Impossible(
                "on_out_of_memory is accumulate, which one process alone can do; give the number of micro-batches as "
                "gradient_accumulation"
            )
    stands = (saved["section"], saved["trainer"]["step"]) if saved else None
    if not group.agrees((recipe_digest(recipe), data.digest, stands)):
        raise Impossible(
            "the processes do not have the same resolved recipe, data and checkpoint; give precision and threads "
            "as values, and a directory that all of them share"
        )
