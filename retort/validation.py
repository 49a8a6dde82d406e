"""Validation of a recipe before anything is built: resolved values, all that is wrong, all that is odd.

The API's `validate` and `create` and the engine call it alike, so that they refuse with the same sentence.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from retort.architecture import Card
from retort.architectures import CARDS
from retort.dataset import DataFacts
from retort.method import STUDENT, TEACHER, Method, MethodError, NetworkSpec, Setup
from retort.outputs import READS
from retort.recipe import BASELINE_NAME, SGD, Recipe, Student, Teacher, Training
from retort.task import Task
from retort.tasks import TASKS
from retort.user_model import ONNX, UserModel

REFERENCE_BATCH = 64
"""The batch for which the papers' CIFAR protocol gives its learning rate."""


TWO = 2
"""Classes of which one is known from the other."""
MAPS = frozenset({"maps", "preactivations", "class_maps"})
"""Readings that have positions."""
CHECKPOINT_COPIES = 5
"""Copies of a trained network's parameters in a checkpoint: the newest, the best, the average, two of the optimizer."""
CHECKPOINT_FILES = 3
"""Checkpoints on a worker's disk while one is written."""
EXPORT_COPIES = 2
"""Copies of a trained network's parameters that are exported."""
FLOAT_BYTES = 4


@dataclass(frozen=True)
class Problem:
    """Something that keeps a recipe from running."""

    pointer: str
    """JSON pointer to the field in the stored form of the recipe."""
    detail: str
    """One sentence: what was found, what was wanted."""


@dataclass(frozen=True)
class RecipeValidation:
    """All findings about a recipe."""

    resolved: Recipe
    problems: tuple[Problem, ...]
    warnings: tuple[str, ...]
    sharing: tuple[tuple[str, ...], ...]
    """Names of the students that share one pass over the data and one of the teacher, a group each."""


def validate(
    recipe: Recipe,
    facts: DataFacts | None,
    cards: Mapping[str, Card] = CARDS,
    models: Mapping[str, UserModel] | None = None,
) -> RecipeValidation:
    """Resolve what is `auto` and find all that is wrong, as far as facts, cards and user models are known."""
    models = models or {}
    task = TASKS[recipe.task]
    problems = [*_label_problems(recipe, task), *_teacher_problems(recipe, task)]
    if facts is not None and not isinstance(facts, task.facts_type):
        found = f"data set {recipe.dataset.name} does not hold examples of the task {task.name} ({task.title})"
        problems.append(Problem("/dataset", found))
        facts = None
    problems += _model_problems(recipe, task, facts, models)
    if facts is not None:
        unfit = [*task.data_problems(facts)]
        problems += _data_problems(recipe, task, facts, cards, unfit)
        if not unfit:
            problems += _method_problems(recipe, task, facts, cards)
    return RecipeValidation(
        resolved=recipe if problems else resolve(recipe),
        problems=tuple(problems),
        warnings=(*_warnings(recipe, task, facts, cards, models), *model_warnings(recipe, facts, models)),
        sharing=tuple(tuple(recipe.students[i].name for i in group) for group in sharing_groups(recipe)),
    )


def resolve(recipe: Recipe) -> Recipe:
    """Replace every `auto` but what only a worker knows (precision, threads). Doing it twice changes nothing."""
    students = tuple(
        student.model_copy(update={"labels": student.labels.model_copy(update={"weight": label_weight(student)})})
        for student in recipe.students
    )
    teacher = recipe.teacher
    if teacher is not None and teacher.teach is not None:
        teacher = teacher.model_copy(update={"teach": _resolve_training(teacher.teach)})
    return recipe.model_copy(
        update={"students": students, "teacher": teacher, "training": _resolve_training(recipe.training)}
    )


def disk_bytes(recipe: Recipe, cards: Mapping[str, Card] = CARDS) -> int:
    """Bytes of checkpoints and exports on a worker's disk, as far as cards tell: a lower bound, without the data set,
    the memories of methods and classifiers."""
    trained = [student.architecture for student in recipe.students]
    if recipe.teacher is not None and recipe.teacher.teach is not None:
        trained.append(recipe.teacher.architecture)
    parameters = sum(cards[name].body_parameters for name in trained if name in cards)
    return parameters * FLOAT_BYTES * (CHECKPOINT_COPIES * CHECKPOINT_FILES + EXPORT_COPIES)


def label_weight(student: Student) -> float:
    """The weight of the student's cross-entropy. Raises MethodError where `auto` cannot be resolved."""
    if student.labels.weight != "auto":
        return student.labels.weight
    named = {method.label_weight for method in student.methods}
    published = {weight for weight in named if weight is not None}
    if len(published) > 1:
        weights = ", ".join(f"{m.name} {m.label_weight:g}" for m in student.methods if m.label_weight is not None)
        raise MethodError(
            f"the methods of student {student.name!r} were published with different label weights "
            f"({weights}); give labels.weight as a number"
        )
    return published.pop() if published and None not in named else 1.0


def sharing_groups(recipe: Recipe) -> list[list[int]]:
    """Positions of the students that share one pass over the data: all but those that choose their own images."""
    choose = [any(method.chooses_images for method in student.methods) for student in recipe.students]
    together = [i for i, alone in enumerate(choose) if not alone]
    return [group for group in (together, *([i] for i, alone in enumerate(choose) if alone)) if group]


def setup_for(student: Student, recipe: Recipe, facts: DataFacts, cards: Mapping[str, Card]) -> Setup | None:
    """The facts that the student's methods check; None while a card is not known."""
    card = cards.get(student.architecture)
    teacher = cards.get(recipe.teacher.architecture) if recipe.teacher else None
    if card is None or (recipe.teacher is not None and teacher is None):
        return None
    outputs = TASKS[recipe.task].outputs(facts)
    return Setup(facts, outputs, card, teacher, recipe.training.batch_size, recipe.training.epochs, cards)


def check_methods(methods: tuple[Method, ...], setup: Setup, task: Task) -> Iterator[tuple[int, str]]:
    """Whatever keeps each method from serving that setup: (position, sentence)."""
    unserved = [(i, lack) for i, method in enumerate(methods) if (lack := lacking(method, setup, task))]
    if unserved:
        yield from unserved
        return
    choosers = [method.name for method in methods if method.chooses_images]
    if len(choosers) > 1:
        yield 0, f"{' and '.join(choosers)} both choose the images of an epoch; at most one of a student's methods may"
    refused = False
    if setup.teacher is not None and setup.teacher.logits_only:
        wanting = [(i, more) for i, method in enumerate(methods) if (more := _reads_beyond_logits(method, setup))]
        if wanting:
            for i, more in wanting:
                yield i, f"{methods[i].name}: it needs the teacher's {more}, and an ONNX file gives logits alone"
            return
    for i, method in enumerate(methods):
        try:
            method.check(setup)
        except MethodError as error:
            refused = True
            yield i, f"{method.name}: {error}"
    # A method that refuses a setup need not be able to wrap it.
    wraps = [method.name for method in methods if not refused and method.wrapper(setup) is not None]
    if len(wraps) > 1:
        yield 0, f"{' and '.join(wraps)} both replace the student's head; at most one of a student's methods may"


def lacking(method: Method, setup: Setup, task: Task) -> str:
    """A sentence on what a method reads that networks of the task do not offer; empty where it serves the task."""
    if method.reads_labels and not task.class_targets:
        return f"{method.name}: it reads class labels, and the targets of the task {task.name} are not classes"
    if task.reads >= READS.keys():
        return ""
    try:
        phases = method.phases(setup)
        taps = method.taps(setup).union(*(phase.taps for phase in phases))
    except MethodError:
        return ""  # `check` gives the reason
    missing = task.missing_reads(tap.reads for tap in taps)
    if missing:
        return f"{method.name}: it reads {' and '.join(missing)}, which networks of the task {task.name} do not offer"
    return ""


def _reads_beyond_logits(method: Method, setup: Setup) -> str:
    """Readings that a method needs of a teacher besides its logits, in words; empty where it needs no more."""
    if not method.needs_teacher:
        return ""
    # With a teacher like the student, of which everything can be read.
    twin = replace(setup, teacher=setup.student)
    try:
        taps = method.taps(twin).union(*(phase.taps for phase in method.phases(twin)))
        if method.networks(twin):
            return "weights"
        changes = method.wrapper_type is not None and method.wrapper(twin) is not None
    except MethodError:
        return "maps or embedding"
    reads = {READS[tap.reads] for tap in taps if tap.network == TEACHER and tap.reads != "logits"}
    return " and ".join(sorted(reads | ({"classifier"} if changes else set())))


def _resolve_training(training: Training) -> Training:
    optimizer = training.optimizer
    if optimizer.learning_rate == "auto":
        sgd_rate = 0.05 * training.batch_size / REFERENCE_BATCH
        rate = sgd_rate if isinstance(optimizer, SGD) else 1e-3
        optimizer = optimizer.model_copy(update={"learning_rate": rate})
    return training.model_copy(update={"optimizer": optimizer})


def _label_problems(recipe: Recipe, task: Task) -> Iterator[Problem]:
    for i, student in enumerate(recipe.students):
        for name in sorted(type(student.labels).model_fields.keys() - {"weight"} - task.label_fields):
            if getattr(student.labels, name) != type(student.labels).model_fields[name].default:
                yield Problem(f"/students/{i}/labels/{name}", f"{name} means nothing for the task {task.name}")
        try:
            weight = label_weight(student)
        except MethodError as error:
            yield Problem(f"/students/{i}/labels/weight", str(error))
            continue
        if weight == 0 and not student.methods:
            yield Problem(
                f"/students/{i}/labels/weight",
                f"student {student.name!r} has no methods and a label weight of 0: nothing would train it",
            )


def _teacher_problems(recipe: Recipe, task: Task) -> Iterator[Problem]:
    wanted, metric = recipe.require_teacher, task.headline
    low, high = metric.lowest, metric.highest
    if wanted is not None and ((low is not None and wanted < low) or (high is not None and wanted > high)):
        bounds = " and ".join(
            f"{word} {bound:g}" for word, bound in (("at least", low), ("at most", high)) if bound is not None
        )
        yield Problem("/require_teacher", f"require_teacher is {wanted:g}; {metric.name} is {bounds}")


def model_warnings(recipe: Recipe, facts: DataFacts | None, models: Mapping[str, UserModel]) -> Iterator[str]:
    """Sentences about what is odd about the user models of a recipe for its data."""
    task = TASKS[recipe.task]
    for role, network in _user_models(recipe):
        model = models.get(network.model or "")
        if model is None:
            continue
        for sentence in model.warnings:
            yield f"{role} ({model.id}): {sentence}"
        if isinstance(facts, task.facts_type):
            yield from task.model_warnings(role, model, facts)
            if network is recipe.teacher and model.expects is not None:
                yield from teacher_warnings(recipe, model.expects.size, facts)


def teacher_warnings(recipe: Recipe, size: int, facts: DataFacts | None) -> Iterator[str]:
    """Sentences about what is odd about the data for the recipe's teacher, which came trained on inputs of that
    size; none where it is taught further, or nothing is known of the data."""
    task = TASKS[recipe.task]
    if recipe.teacher is not None and recipe.teacher.teach is None and isinstance(facts, task.facts_type):
        yield from task.teacher_warnings(size, facts)


def _user_models(recipe: Recipe) -> Iterator[tuple[str, Teacher | Student]]:
    """The networks that are user models, each with its role in words."""
    students = [(f"student {student.name!r}", student) for student in recipe.students]
    for role, network in [("the teacher", recipe.teacher), *students]:
        if network is not None and network.model is not None:
            yield role, network


def _model_problems(
    recipe: Recipe, task: Task, facts: DataFacts | None, models: Mapping[str, UserModel]
) -> Iterator[Problem]:
    teacher = recipe.teacher
    for pointer, network in [("/teacher", teacher), *((f"/students/{i}", s) for i, s in enumerate(recipe.students))]:
        if network is None:
            continue
        if network.architecture == ONNX and network is not teacher:
            yield Problem(pointer, f"{network.model} is an ONNX file, which cannot be trained; it can be a teacher")
        model = models.get(network.model or "")
        if model is not None and network.architecture not in ("auto", model.architecture):
            found = f"{model.id} is a {model.architecture}; the recipe says {network.architecture}"
            yield Problem(f"{pointer}/architecture", found)
    if teacher is None:
        return
    if teacher.architecture == ONNX and teacher.teach is not None:
        yield Problem("/teacher/teach", f"{teacher.model} is an ONNX file, which cannot be taught; teach must be null")
    model = models.get(teacher.model or "")
    if model is not None and facts is not None and teacher.teach is None:
        for sentence in output_problems(model, task, facts):
            yield Problem("/teacher/model", f"the teacher {sentence}; give teach, to tune it on the data set")


def output_problems(model: UserModel, task: Task, facts: DataFacts) -> Iterator[str]:
    """A sentence where a user model does not give as many outputs as such data have."""
    if model.outputs != task.outputs(facts):
        yield f"{model.id} gives {model.outputs} {task.output_word}, the data set has {task.outputs(facts)}"


def _data_problems(
    recipe: Recipe, task: Task, facts: DataFacts, cards: Mapping[str, Card], unfit: Iterable[str]
) -> Iterator[Problem]:
    for split in ("train", "validation", "test"):
        if getattr(facts, split) == 0:
            yield Problem("/dataset", f"the data set's {split} split is empty; each split needs an example")
    for sentence in unfit:
        yield Problem("/dataset", sentence)
    named = [(f"/students/{i}/architecture", s.architecture) for i, s in enumerate(recipe.students)]
    if recipe.teacher:
        named.append(("/teacher/architecture", recipe.teacher.architecture))
    for pointer, name in named:
        if name in cards:
            for sentence in task.network_problems(facts, cards[name]):
                yield Problem(pointer, sentence)


def _method_problems(recipe: Recipe, task: Task, facts: DataFacts, cards: Mapping[str, Card]) -> Iterator[Problem]:
    for i, student in enumerate(recipe.students):
        setup = setup_for(student, recipe, facts, cards)
        if setup is None:
            continue
        problems = [*check_methods(student.methods, setup, task), *_micro_batch_problems(student, recipe.training)]
        for j, sentence in problems:
            yield Problem(f"/students/{i}/methods/{j}", sentence)
        reads = problems or not student.methods or any(method.taps(setup) for method in student.methods)
        if student.labels.weight == 0 and not reads:
            names = ", ".join(method.name for method in student.methods)
            yield Problem(
                f"/students/{i}/labels/weight",
                f"student {student.name!r} has a label weight of 0, and {names} only trains before the loop: nothing "
                "would train it there",
            )


def _micro_batch_problems(student: Student, training: Training) -> Iterator[tuple[int, str]]:
    """Methods whose terms or memories need the whole batch, where it may be computed in micro-batches."""
    if training.gradient_accumulation == 1 and training.on_out_of_memory == "fail":
        return
    for j, method in enumerate(student.methods):
        if method.couples_batch or type(method).update is not Method.update:
            yield (
                j,
                f"{method.name}: its terms need the whole batch at once; training may compute it in micro-batches "
                "(gradient_accumulation or on_out_of_memory)",
            )


def _warnings(
    recipe: Recipe, task: Task, facts: DataFacts | None, cards: Mapping[str, Card], models: Mapping[str, UserModel]
) -> Iterator[str]:
    outputs = task.outputs(facts) if facts else 1000
    teacher = cards.get(recipe.teacher.architecture) if recipe.teacher else None
    for student in recipe.students:
        card = cards.get(student.architecture)
        if card and teacher and student.name != BASELINE_NAME:
            small, large = card.parameters(outputs), teacher.parameters(outputs)
            if small > large:
                yield (
                    f"student {student.name!r} ({student.architecture}, {small:,} parameters) is larger than its "
                    f"teacher ({teacher.architecture}, {large:,})"
                )
    yield from _mix_warnings(recipe)
    if teacher and recipe.teacher and recipe.teacher.weights == "published":
        yield from teacher_warnings(recipe, teacher.image_size, facts)
    if recipe.teacher is not None and not any(m.needs_teacher for s in recipe.students for m in s.methods):
        yield "a teacher is given, but no method reads it"
    if facts is not None and facts.train and facts.train < recipe.training.batch_size:
        yield (
            f"the batch ({recipe.training.batch_size} examples) is larger than the training split "
            f"({facts.train}): an epoch is one step"
        )
    if facts is not None:
        yield from _training_warnings(recipe, task, facts)
        yield from _method_warnings(recipe, task, facts, cards, models)


def _training_warnings(recipe: Recipe, task: Task, facts: DataFacts) -> Iterator[str]:
    """Networks that start from random weights, and settings of their trainings."""
    trainings = [("training", recipe.training)]
    started: list[tuple[str, Teacher | Student]] = [
        (f"student {student.name!r}", student) for student in recipe.students
    ]
    if recipe.teacher is not None and recipe.teacher.teach is not None:
        trainings.append(("teacher.teach", recipe.teacher.teach))
        started.append(("the teacher", recipe.teacher))
    random = [role for role, network in started if network.weights is None and network.model is None]
    if random:
        verb = "starts" if len(random) == 1 else "start"
        yield from task.random_start_warnings(f"{', '.join(random)} {verb}", facts)
    for pointer, training in trainings:
        yield from task.augmentation_warnings(f"{pointer}.augmentation", training.augmentation, facts)


def _method_warnings(
    recipe: Recipe, task: Task, facts: DataFacts, cards: Mapping[str, Card], models: Mapping[str, UserModel]
) -> Iterator[str]:
    """Methods that have little or nothing to teach on such data with such networks."""
    for student in recipe.students:
        setup = setup_for(student, recipe, facts, cards)
        if setup is None or not student.methods:
            continue
        sides: dict[NetworkSpec, int] = {STUDENT: _last_side(student, setup.student, task, facts, models)}
        if recipe.teacher is not None and setup.teacher is not None:
            sides[TEACHER] = _last_side(recipe.teacher, setup.teacher, task, facts, models)
        for method in student.methods:
            name = f"{method.name} of student {student.name!r}"
            if setup.outputs == TWO and task.class_targets and method.with_two_classes:
                yield f"{name}: the data set has two classes, and {method.with_two_classes}"
            small = {network: sides.get(network, 0) for network in _read_by_maps(method, setup)}
            for network, side in small.items():
                if 0 < side < method.smallest_map:
                    card = setup.student if network == STUDENT else setup.teacher
                    assert card is not None, "a network that is read has a card"
                    yield (
                        f"{name} reads maps, and the last one of {card.architecture} has {side} x {side} positions; "
                        f"{method.smallest_map} x {method.smallest_map} or more are wanted: take larger images, or an "
                        "architecture with a smaller stride"
                    )


def _read_by_maps(method: Method, setup: Setup) -> list[NetworkSpec]:
    """Teacher and student, as far as a method reads their maps."""
    try:
        taps = method.taps(setup).union(*(phase.taps for phase in method.phases(setup)))
    except MethodError:
        return []  # `check` gives the reason
    read = {tap.network for tap in taps if tap.reads in MAPS}
    return [network for network in (STUDENT, TEACHER) if network in read]


def _last_side(
    network: Teacher | Student, card: Card, task: Task, facts: DataFacts, models: Mapping[str, UserModel]
) -> int:
    """Side of a network's last map, in positions, by its card; 0 where it is not known."""
    if not card.stages:
        return 0
    pixels = task.input_size(facts)
    if network.model is not None:
        model = models.get(network.model)
        pixels = model.expects.size if model is not None and model.expects is not None else 0
    elif network.weights == "published":
        pixels = card.image_size
    return -(-pixels // card.stages[-1].stride)


def _mix_warnings(recipe: Recipe) -> Iterator[str]:
    mix = recipe.training.augmentation.mix
    if mix is None:
        return
    for student in recipe.students:
        names = [method.name for method in student.methods if method.reads_labels]
        if names:
            yield (
                f"training.augmentation.mix ({mix.name}) makes one image of two; {', '.join(names)} of student "
                f"{student.name!r} read one label or position for each, that of the larger share"
            )
