"""One run of one recipe, from top to bottom: prepare, teach, distil, compress, evaluate, export."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor

from retort.architectures import CARDS
from retort.engine import networks
from retort.engine import user_weights as user_weights
from retort.engine.artifacts import NetworkResult, Packer, describe_result
from retort.engine.checkpoint import Checkpoints, State, are_there
from retort.engine.epoch_plan import TrainingExtent
from retort.engine.evaluate import Score, neural_collapse, passes, score
from retort.engine.event_log import EventLog
from retort.engine.group import ALONE, Group
from retort.engine.interrupt import NOT_TRAINED, Impossible, Interrupt, NothingToKeep
from retort.engine.loading import on_device
from retort.engine.students import StudentFactory, StudentState, make_student_state, phase_train_state
from retort.engine.teacher_cache import TeacherCache
from retort.engine.train_state import MethodState, TrainState, snapshot
from retort.engine.trainer import Trainer, TrainerContext, epoch_plan_of
from retort.exports.safetensors import Safetensors
from retort.method import STUDENT, NetworkSpec, Outputs, Phase, Read
from retort.network import Network
from retort.order import Paths
from retort.recipe import TEACHER_NAME, Recipe, Training
from retort.validation import class_warnings, resolve, review, sharing_groups

STUDENTS = "students"
"""What the names of sections begin with in which students learn by all their terms."""
DISTILLING = "distilling"
"""The phase of those sections."""


def resolve_for(recipe: Recipe, device: torch.device) -> Recipe:
    """Replace what only a worker knows: arithmetic and threads. Doing it twice changes nothing."""
    # Asked with emulation left out: what only imitates bfloat16 is slower with it.
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
    decides = recipe.model_dump_json(exclude={"name", "tags", "priority", "needs", "deadline"})
    return sha256(decides.encode()).hexdigest()


@dataclass(frozen=True)
class Section:
    """A stretch of the students' training that a checkpoint names."""

    name: str
    phase: str
    """What the job is said to do meanwhile."""
    start: Callable[[], tuple[list[TrainState], Training]]
    """Gives who is trained and how, when it is the section's turn."""
    trains: NetworkSpec | None = None
    """The further network that is trained, if it is one."""


def _start_phase(
    student_state: StudentState, part: MethodState, phase: Phase, factory: StudentFactory
) -> tuple[list[TrainState], Training]:
    train_state, training = phase_train_state(student_state, part, phase, factory)
    return [train_state], training


def _start_group(train_states: list[TrainState], factory: StudentFactory) -> tuple[list[TrainState], Training]:
    return train_states, factory.training


class Run:
    """Carries out a recipe. Raises Impossible, DatasetError or Stopped, or whatever else ended it."""

    def __init__(
        self, recipe: Recipe, paths: Paths, event_log: EventLog, interrupt: Interrupt, group: Group = ALONE
    ) -> None:
        self.paths = paths
        self.event_log = event_log
        self.interrupt = interrupt
        self.group = group
        self.device = group.device
        self.recipe = resolve_for(recipe, self.device)
        self.taught: State | None = None
        """What teaching left: the teacher's last and best weights."""

    def __call__(self) -> None:
        with self._redoing(begun=are_there(self.paths.checkpoints)):
            self._prepare()
        teacher = self._teach()
        students = self._distil(teacher)
        self.group.leave()
        if self.group.rank:
            return  # what is left has no steps to share
        finished = [teacher, *students] if teacher else students
        with self._redoing(begun=True):
            self._compress(finished)
            scores = self._evaluate(finished)
            self._export(finished, scores)

    def _redoing(self, *, begun: bool) -> AbstractContextManager[None]:
        """A stretch outside the training; `begun` says whether a student has been trained before."""
        # Several processes agree on a wish to finish, which they do between steps.
        return self.interrupt.at_once(nothing_to_keep=not begun and self.group.size == 1)

    def _prepare(self) -> None:
        self.event_log.enter("preparing")
        self.event_log.record("resolved", data=self.recipe.model_dump(mode="json"))
        threads = self.recipe.training.threads
        assert threads != "auto", "resolved above"
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(self.device.type == "cpu")
        self.data = self.recipe.dataset.load(self.paths.data_roots)
        for warning in self.data.warnings:
            self._warn(warning)
        models = user_weights.records(self.recipe, self.paths.weights)
        self.cards = user_weights.cards_for(self._architectures(), models)
        problems = review(self.recipe, self.data.facts, self.cards, models).problems
        if problems:
            raise Impossible("; ".join(problem.detail for problem in problems))
        for warning in class_warnings(self.recipe, self.data.facts, models):
            self._warn(warning)
        self.checkpoints = Checkpoints(
            self.paths.checkpoints,
            recipe_digest(self.recipe),
            self.data.digest,
            self.paths.run,
            self.paths.checkpoint_seconds,
        )
        self.train = on_device(self.data.train, self.device)
        self.store = (
            TeacherCache(cache.path, cache.max_bytes, self.paths.run, self._warn)
            if (cache := self.paths.teacher_cache)
            else None
        )
        self.saved = self.checkpoints.newest(self.device)
        self.taught = self.saved["taught"] if self.saved else None
        if self.saved:
            self.event_log.replay(self.saved["said"])
        self.begun = self.saved is not None and self.saved["section"].startswith(STUDENTS)
        self._check_group()

    def _check_group(self) -> None:
        """Raise Impossible where the processes cannot train this as one."""
        if self.group.size == 1:
            return
        teacher = self.recipe.teacher
        for training in (self.recipe.training, teacher.teach if teacher else None):
            if training is None:
                continue
            if training.batch_size < self.group.size:
                raise Impossible(
                    f"batch_size is {training.batch_size}; each of {self.group.size} processes needs an image at least"
                )
            if training.on_out_of_memory == "accumulate":
                raise Impossible(
                    "on_out_of_memory is accumulate, which one process alone can do; give the number of parts as "
                    "accumulate"
                )
        stands = (self.saved["section"], self.saved["trainer"]["step"]) if self.saved else None
        if not self.group.agrees((recipe_digest(self.recipe), self.data.digest, stands)):
            raise Impossible(
                "the processes do not have the same resolved recipe, data and checkpoint; give precision and threads "
                "as values, and a directory that all of them share"
            )

    def _warn(self, text: str) -> None:
        self.event_log.record("warning", text=text)

    def _architectures(self) -> set[str]:
        named = {student.architecture for student in self.recipe.students}
        return named | {self.recipe.teacher.architecture} if self.recipe.teacher else named

    def _teach(self) -> NetworkResult | None:
        teacher = self.recipe.teacher
        if teacher is None:
            return None
        with self._redoing(begun=self.begun):
            network = networks.teacher_network(teacher, self.data.facts, self.paths.weights)
            network = networks.placed(network, self.device)
        finished = NetworkResult(
            TEACHER_NAME,
            "teacher",
            teacher.architecture,
            self.cards[teacher.architecture],
            network,
            snapshot(network),
            snapshot(network),
        )
        if teacher.teach is not None:
            train_state = TrainState(TEACHER_NAME, teacher.seed, network, teacher.teach)
            if self.taught is None:
                self.event_log.enter("teaching")
                self._train("teaching", [train_state], teacher.teach, {})
                self.taught = {
                    "last": snapshot(train_state.judged),
                    "best": train_state.best.weights,
                    "epoch": train_state.best.epoch,
                }
            finished.last, finished.best = self.taught["last"], self.taught["best"]
            finished.best_epoch = self.taught["epoch"]
            epoch_plan = epoch_plan_of([train_state], teacher.teach, self.data.facts)
            finished.reached = epoch_plan.reached(epoch_plan.steps)
            finished.load(self.recipe.evaluation.ship, "float32")
        networks.freeze(network)
        if self.recipe.require_teacher_accuracy is not None and not self.begun:
            self._require(network, self.recipe.require_teacher_accuracy)
        return finished

    def _require(self, teacher: Network, least: float) -> None:
        """Raise Impossible where the teacher is worse on the validation part than the recipe puts up with."""
        self.event_log.enter("examining the teacher")
        size = self.recipe.evaluation.batch_size
        found = score(teacher, self.data.validation, size, self.device, self.interrupt, self.group)
        self.event_log.record("evaluation", network=TEACHER_NAME, values=found.values("validation"))
        if found.accuracy < least:
            raise Impossible(
                f"the teacher guesses {found.accuracy:.4f} of the validation part ({found.correct} of {found.images} "
                f"images); require_teacher_accuracy is {least:g}"
            )

    def _distil(self, teacher: NetworkResult | None) -> list[NetworkResult]:
        factory = StudentFactory(
            facts=self.data.facts,
            training=self.recipe.training,
            device=self.device,
            teacher=teacher.network if teacher else None,
            teacher_card=teacher.card if teacher else None,
            targets=self.data.train.targets,
            teacher_pass=partial(self._teacher_pass, teacher.network if teacher else None),
            cards=CARDS | self.cards,
        )
        if any(student.methods for student in self.recipe.students):
            self.event_log.enter("preparing the methods")
        student_states = []
        with self._redoing(begun=self.begun):
            for student in self.recipe.students:
                network = networks.student_network(student, self.data.facts, self.paths.weights)
                network = networks.placed(network, self.device)
                student_states.append(make_student_state(student, network, self.cards[student.architecture], factory))
        reached = self._train_students(student_states, factory)
        return [
            self._finished(student_state, reached[student_state.train_state.name])
            for student_state in student_states
            if student_state.train_state.name in reached
        ]

    def _train_students(self, student_states: list[StudentState], factory: StudentFactory) -> dict[str, TrainingExtent]:
        """Section by section, from where the checkpoint stands. Returns how far those came that were begun.

        Raises NothingToKeep when asked to finish before that.
        """
        sections = list(self._sections(student_states, factory))
        train_states = {student_state.train_state.name: student_state.train_state for student_state in student_states}
        first = 0
        trained: list[NetworkSpec] = []
        if self.saved and self.saved["section"] != "teaching":
            first = [section.name for section in sections].index(self.saved["section"])
            trained = [section.trains for section in sections[:first] if section.trains is not None]
            for name, state in self.saved["students"].items():
                train_states[name].load(state)
            for spec in trained:
                factory.frozen[spec].load_state_dict(self.saved["networks"][repr(spec)])
        reached: dict[str, TrainingExtent] = {}
        for section in sections[:first]:
            if section.phase == DISTILLING:
                here, training = section.start()
                epoch_plan = epoch_plan_of(here, training, self.data.facts)
                reached |= {train_state.name: epoch_plan.reached(epoch_plan.steps) for train_state in here}
        for section in sections[first:]:
            self.event_log.enter(section.phase)
            here, training = section.start()

            def rest(here: list[TrainState] = here) -> State:
                """What a checkpoint holds besides the section's own learners."""
                return {
                    "students": {
                        name: train_state.state()
                        for name, train_state in train_states.items()
                        if train_state not in here
                    },
                    "networks": {repr(spec): factory.frozen[spec].state_dict() for spec in trained},
                }

            in_loop = section.phase == DISTILLING
            came = self._train(section.name, here, training, factory.frozen, rest, evaluates=in_loop, in_loop=in_loop)
            if in_loop and came.steps:
                reached |= {train_state.name: came for train_state in here}
            if not came.end:
                break
            if section.trains is not None:
                networks.freeze(factory.frozen[section.trains])
                trained.append(section.trains)
        if not reached:
            raise NothingToKeep(NOT_TRAINED)
        return reached

    def _sections(self, student_states: list[StudentState], factory: StudentFactory) -> Iterator[Section]:
        """First what each method trains before the shared loop, then the loop of each sharing group."""
        trained: set[NetworkSpec] = set()
        for i, student_state in enumerate(student_states):
            for j, (part, phase) in enumerate(student_state.phases()):
                further = phase.trains if phase.trains != STUDENT else None
                if further not in trained:
                    start = partial(_start_phase, student_state, part, phase, factory)
                    yield Section(f"phase {j} of student {i}", f"{part.method.name} {phase.name}", start, further)
                if further is not None:
                    trained.add(further)
        for group in sharing_groups(self.recipe):
            train_states = [student_states[i].train_state for i in group]
            yield Section(f"{STUDENTS} {group}", DISTILLING, partial(_start_group, train_states, factory))

    def _train(
        self,
        section: str,
        train_states: list[TrainState],
        training: Training,
        frozen: dict[NetworkSpec, Network],
        rest: Callable[[], State] = dict,
        *,
        evaluates: bool = True,
        in_loop: bool = False,
    ) -> TrainingExtent:
        """Train to the end, from the checkpoint if it is of this section; leaves a checkpoint of the end.

        When asked to finish, students `in_loop` end where they stand; for all else NothingToKeep is raised.
        """

        def save(state: State) -> None:
            if self.group.rank:
                return
            whole = {"section": section, "trainer": state, "taught": self.taught, "said": self.event_log.said} | rest()
            saved = self.checkpoints.write(whole)
            self.event_log.checkpoint(saved, state["step"])

        context = TrainerContext(
            data=self.data,
            device=self.device,
            event_log=self.event_log,
            interrupt=self.interrupt,
            evaluation=self.recipe.evaluation,
            checkpoint_is_due=lambda: self.group.rank == 0 and self.checkpoints.is_due(),
            last_checkpoint=lambda: self.checkpoints.latest,
            train=self.train,
            store=self.store,
            group=self.group,
        )
        trainer = Trainer(train_states, frozen, training, context, save, evaluates=evaluates)
        if self.saved and self.saved["section"] == section:
            trainer.load(self.saved["trainer"])
        self.saved = None
        ends = trainer.run()
        if not ends and not in_loop:
            raise NothingToKeep(NOT_TRAINED)
        if trainer.step:
            save(trainer.state())
            # After the checkpoint, which is as if nobody had asked.
            if not ends:
                trainer.judge()
        return trainer.epoch_plan.reached(trainer.step)

    def _teacher_pass(
        self, teacher: Network | None, *reads: Read, positions: Tensor | None = None
    ) -> Iterator[tuple[Outputs, Tensor, Tensor]]:
        assert teacher is not None, "the recipe's validation asks for a teacher where a method needs one"
        size = self.recipe.evaluation.batch_size
        part = self.data.train
        return passes(teacher, part, size, self.device, *reads, interrupt=self.interrupt, positions=positions)

    def _finished(self, student_state: StudentState, reached: TrainingExtent) -> NetworkResult:
        student, train_state = student_state.student, student_state.train_state
        return NetworkResult(
            student.name,
            "student" if student.methods else "baseline",
            student.architecture,
            student_state.setup.student,
            train_state.network,
            snapshot(train_state.judged),
            train_state.best.weights,
            train_state.best.epoch,
            reached,
            student_state.wrapper,
        )

    def _compress(self, finished: list[NetworkResult]) -> None:
        self.event_log.enter("compressing")
        for one in finished:
            one.load(self.recipe.evaluation.ship, self._weights_dtype(one))
            networks.freeze(one.network)

    def _weights_dtype(self, one: NetworkResult) -> str:
        """The teacher is kept as it taught; only students are compressed."""
        return "float32" if one.role == "teacher" else self.recipe.compression.weights

    def _evaluate(self, finished: list[NetworkResult]) -> dict[str, Score]:
        """Look at the test part, for the first time. Returns the shipped networks' scores.

        The teacher comes first, so that what it guessed is known when the students are tested.
        """
        self.event_log.enter("evaluating")
        ship = self.recipe.evaluation.ship
        shipped: dict[str, Score] = {}
        rows = []
        for one in finished:
            tested: dict[str, Score] = {}
            for which in dict.fromkeys(("best", "last", ship)) if one.best_epoch is not None else (ship,):
                one.load(which, self._weights_dtype(one))
                tested[which] = self._test(one.network)
            one.load(ship, self._weights_dtype(one))
            shipped[one.name] = tested[ship]
            row = self._row(one, tested, shipped.get(TEACHER_NAME) if one.role != "teacher" else None)
            self.event_log.record("evaluation", network=one.name, values=row["test"][ship] | row["collapse"])
            rows.append(row)
        names = {one.name for one in finished}
        left_out = [student.name for student in self.recipe.students if student.name not in names]
        self.report = {
            "stopped_early": bool(left_out) or any(one.reached is not None and not one.reached.end for one in finished),
            "left_out": left_out,
            "ship": ship,
            "classes": list(self.data.facts.class_names),
            "networks": rows,
        }
        self.event_log.record("report", data=self.report)
        return shipped

    def _test(self, network: Network) -> Score:
        return score(network, self.data.test, self.recipe.evaluation.batch_size, self.device, self.interrupt)

    def _row(self, one: NetworkResult, tested: dict[str, Score], teacher: Score | None) -> dict[str, Any]:
        """What the report says of one network; `teacher` is what it is compared with."""
        collapse = {}
        if 0 < one.card.embedding <= LARGEST_COLLAPSE_WIDTH:
            collapse = neural_collapse(
                one.network,
                self.data.train,
                self.data.facts.classes,
                self.recipe.evaluation.batch_size,
                self.device,
                self.interrupt,
            )
        return {
            "name": one.name,
            "role": one.role,
            "architecture": one.architecture,
            "parameters": one.network.parameter_count(),
            "multiply_adds": one.card.multiply_adds,
            "multiply_adds_image_size": one.card.image_size,
            "best_epoch": one.best_epoch,
            "trained": asdict(one.reached) if one.reached else None,
            "test": {
                which: found.values("test") | ({"test.agreement": found.agreement(teacher)} if teacher else {})
                for which, found in tested.items()
            },
            "class_accuracies": {which: found.class_accuracies for which, found in tested.items()},
            "collapse": collapse,
        }

    def _export(self, finished: list[NetworkResult], scores: dict[str, Score]) -> None:
        self.event_log.enter("exporting")
        with Packer(self.paths.directory) as packer:
            for one in finished:
                if one.role == "teacher" and one.best_epoch is None:
                    continue  # it came from elsewhere and goes out unchanged: nothing to hand back
                description = describe_result(one, self.data.facts, self._weights_dtype(one), scores[one.name])
                networks.plain(one.network)
                packer.write_json(f"{one.name}.json", one.name, description)
                # A teacher leaves in the one format from which a later job can start.
                for export in self.recipe.exports if one.role != "teacher" else (Safetensors(),):
                    self.interrupt.check()
                    packer.export(one, description, export)
            packer.write_json("report.json", None, self.report)


LARGEST_COLLAPSE_WIDTH = 4096
"""Features up to which the measures of neural collapse are taken: their pseudo-inverse is cubic in it."""
