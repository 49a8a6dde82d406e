"""What can be said of a recipe before anything is built: resolved values, all that is wrong, what is odd.

Read by the API's `validate` and `create` and by the engine alike, so that they refuse with the same sentence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from retort.architecture import Card
from retort.architectures import CARDS
from retort.dataset import DataFacts
from retort.method import READS, TEACHER, Method, MethodError, Setup
from retort.recipe import BASELINE_NAME, SGD, Recipe, Student, Teacher, Training
from retort.user_model import ONNX, UserModel, class_sentence

FEWEST_CLASSES = 2
"""There is nothing to tell apart in one; methods are not asked about it."""
REFERENCE_BATCH = 64
"""The batch for which the papers' CIFAR protocol gives its learning rate."""


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
class Review:
    """All that can be said of a recipe without building anything."""

    resolved: Recipe
    problems: tuple[Problem, ...]
    warnings: tuple[str, ...]
    sharing: tuple[tuple[str, ...], ...]
    """Names of the students that share one pass over the data and one of the teacher, a group each."""


def review(
    recipe: Recipe,
    facts: DataFacts | None,
    cards: Mapping[str, Card] = CARDS,
    models: Mapping[str, UserModel] | None = None,
) -> Review:
    """Resolve what is `auto` and find all that is wrong, as far as facts, cards and the users' models are known."""
    models = models or {}
    problems = [*_label_problems(recipe), *_model_problems(recipe, facts, models)]
    if facts is not None:
        problems += _data_problems(recipe, facts, cards)
        if facts.classes >= FEWEST_CLASSES:
            problems += _method_problems(recipe, facts, cards)
    return Review(
        resolved=recipe if problems else resolve(recipe),
        problems=tuple(problems),
        warnings=(*_warnings(recipe, facts, cards), *class_warnings(recipe, facts, models)),
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
    """What checkpoints and exports take on a worker's disk, as far as cards tell: a lower bound, without the data set,
    the memories of methods and classifiers."""
    trained = [student.architecture for student in recipe.students]
    if recipe.teacher is not None and recipe.teacher.teach is not None:
        trained.append(recipe.teacher.architecture)
    parameters = sum(cards[name].body_parameters for name in trained if name in cards)
    return parameters * FLOAT_BYTES * (CHECKPOINT_COPIES * CHECKPOINT_FILES + EXPORT_COPIES)


def label_weight(student: Student) -> float:
    """The weight of the student's cross-entropy. Raises MethodError when `auto` cannot be told."""
    if student.labels.weight != "auto":
        return student.labels.weight
    named = {method.label_weight for method in student.methods}
    published = {weight for weight in named if weight is not None}
    if len(published) > 1:
        said = ", ".join(f"{m.name} {m.label_weight:g}" for m in student.methods if m.label_weight is not None)
        raise MethodError(
            f"the methods of student {student.name!r} were published with different label weights "
            f"({said}); give labels.weight as a number"
        )
    return published.pop() if published and None not in named else 1.0


def sharing_groups(recipe: Recipe) -> list[list[int]]:
    """Positions of the students that share one pass over the data: all but those that choose their own images."""
    choose = [any(method.chooses_images for method in student.methods) for student in recipe.students]
    together = [i for i, alone in enumerate(choose) if not alone]
    return [group for group in (together, *([i] for i, alone in enumerate(choose) if alone)) if group]


def setup_for(student: Student, recipe: Recipe, facts: DataFacts, cards: Mapping[str, Card]) -> Setup | None:
    """What the student's methods may check; None while a card is not known."""
    card = cards.get(student.architecture)
    teacher = cards.get(recipe.teacher.architecture) if recipe.teacher else None
    if card is None or (recipe.teacher is not None and teacher is None):
        return None
    return Setup(facts, card, teacher, recipe.training.batch_size, recipe.training.epochs, cards)


def check_methods(methods: tuple[Method, ...], setup: Setup) -> Iterator[tuple[int, str]]:
    """What is wrong with each method for that setup: (position, sentence)."""
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
    # What a method refuses it need not know how to wrap.
    wraps = [method.name for method in methods if not refused and method.wrapper(setup) is not None]
    if len(wraps) > 1:
        yield 0, f"{' and '.join(wraps)} both replace the student's head; at most one of a student's methods may"


def _reads_beyond_logits(method: Method, setup: Setup) -> str:
    """What a method needs of a teacher besides its logits, in words; empty where it needs no more."""
    if not method.needs_teacher:
        return ""
    # It is asked what it would read of a teacher like the student, of which everything can be read.
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


def _label_problems(recipe: Recipe) -> Iterator[Problem]:
    for i, student in enumerate(recipe.students):
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


def class_warnings(recipe: Recipe, facts: DataFacts | None, models: Mapping[str, UserModel]) -> Iterator[str]:
    """What is odd about the order of the classes of networks that users brought."""
    for role, network in _brought(recipe):
        model = models.get(network.model or "")
        if facts is not None and model is not None and model.classes == facts.classes:
            sentence = class_sentence(f"{role} ({model.id})", model.class_names, facts.class_names)
            if sentence is not None:
                yield sentence


def _brought(recipe: Recipe) -> Iterator[tuple[str, Teacher | Student]]:
    """The networks that users brought, with what they are called."""
    students = [(f"student {student.name!r}", student) for student in recipe.students]
    for role, network in [("the teacher", recipe.teacher), *students]:
        if network is not None and network.model is not None:
            yield role, network


def _model_problems(recipe: Recipe, facts: DataFacts | None, models: Mapping[str, UserModel]) -> Iterator[Problem]:
    teacher = recipe.teacher
    for pointer, network in [("/teacher", teacher), *((f"/students/{i}", s) for i, s in enumerate(recipe.students))]:
        if network is None:
            continue
        if network.architecture == ONNX and network is not teacher:
            yield Problem(pointer, f"{network.model} is an ONNX file, which cannot be trained; it can be a teacher")
        model = models.get(network.model or "")
        if model is not None and network.architecture not in ("auto", model.architecture):
            said = f"{model.id} is a {model.architecture}; the recipe says {network.architecture}"
            yield Problem(f"{pointer}/architecture", said)
    if teacher is None:
        return
    if teacher.architecture == ONNX and teacher.teach is not None:
        yield Problem("/teacher/teach", f"{teacher.model} is an ONNX file, which cannot be taught; teach must be null")
    model = models.get(teacher.model or "")
    if model is not None and facts is not None and teacher.teach is None and model.classes != facts.classes:
        yield Problem(
            "/teacher/model",
            f"the teacher {model.id} gives {model.classes} classes, the data set has {facts.classes}; "
            "give teach, to tune it on the data set",
        )


def _data_problems(recipe: Recipe, facts: DataFacts, cards: Mapping[str, Card]) -> Iterator[Problem]:
    for part in ("train", "validation", "test"):
        if getattr(facts, part) == 0:
            yield Problem("/dataset", f"the data set's {part} part is empty; each part needs an image")
    if facts.classes < FEWEST_CLASSES:
        yield Problem("/dataset", f"the data set has {facts.classes} class; at least {FEWEST_CLASSES} are needed")
    named = [(f"/students/{i}/architecture", s.architecture) for i, s in enumerate(recipe.students)]
    if recipe.teacher:
        named.append(("/teacher/architecture", recipe.teacher.architecture))
    for pointer, name in named:
        card = cards.get(name)
        if card is not None and facts.image_size < card.smallest_image:
            yield Problem(
                pointer,
                f"{name} reads images of {card.smallest_image} pixels a side at least; "
                f"the data set's have {facts.image_size}",
            )


def _method_problems(recipe: Recipe, facts: DataFacts, cards: Mapping[str, Card]) -> Iterator[Problem]:
    for i, student in enumerate(recipe.students):
        setup = setup_for(student, recipe, facts, cards)
        if setup is None:
            continue
        problems = [*check_methods(student.methods, setup), *_part_problems(student, recipe.training)]
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


def _part_problems(student: Student, training: Training) -> Iterator[tuple[int, str]]:
    """Methods whose terms or memories need the whole batch, where it may be computed in parts."""
    if training.accumulate == 1 and training.on_out_of_memory == "fail":
        return
    for j, method in enumerate(student.methods):
        if method.couples_batch or type(method).update is not Method.update:
            yield (
                j,
                f"{method.name}: its terms need the whole batch at once; training says to compute it in parts "
                "(accumulate or on_out_of_memory)",
            )


def _warnings(recipe: Recipe, facts: DataFacts | None, cards: Mapping[str, Card]) -> Iterator[str]:
    classes = facts.classes if facts else 1000
    teacher = cards.get(recipe.teacher.architecture) if recipe.teacher else None
    for student in recipe.students:
        card = cards.get(student.architecture)
        if card and teacher and student.name != BASELINE_NAME:
            small, large = card.parameters(classes), teacher.parameters(classes)
            if small > large:
                yield (
                    f"student {student.name!r} ({student.architecture}, {small:,} parameters) is larger than its "
                    f"teacher ({teacher.architecture}, {large:,})"
                )
    yield from _mix_warnings(recipe)
    if recipe.teacher is not None and not any(m.needs_teacher for s in recipe.students for m in s.methods):
        yield "a teacher is given, but no method reads it"
    if facts is not None and facts.train and facts.train < recipe.training.batch_size:
        yield (
            f"the batch ({recipe.training.batch_size} images) is larger than the training part "
            f"({facts.train}): an epoch is one step"
        )


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
