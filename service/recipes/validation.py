"""The validation of a body as a recipe, without running it: for validate and create alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import ValidationError

from retort.architectures import CARDS
from retort.dataset import DataFacts, DatasetError
from retort.recipe import TEACHER_NAME, JobWeights, Recipe, Student, Teacher
from retort.registry import nearest
from retort.student import StudentError, outputs_of, task_of
from retort.task import Task
from retort.tasks import TASKS
from retort.user_model import UserModel
from retort.validation import Problem, teacher_warnings, validate
from service.artifacts.service import read_description
from service.datasets.service import dataset_warnings, facts_of
from service.db import reading
from service.errors import FieldError
from service.fields import field_errors
from service.jobs import repository
from service.jobs.models import JobRow, State
from service.models.models import record_of
from service.models.products import PRODUCTS as MODELS

Network = TypeVar("Network", Teacher, Student)


@dataclass(frozen=True)
class RecipeCheck:
    """The result of a validation."""

    problems: list[FieldError]
    warnings: tuple[str, ...] = ()
    sharing: tuple[tuple[str, ...], ...] = ()
    facts: DataFacts | None = None
    resolved: Recipe | None = None
    """Null when there are problems."""


def check_recipe(project_id: str, body: Any) -> RecipeCheck:
    """Check the body as a recipe, the recipe against its data set, and the earlier jobs that it builds on."""
    try:
        recipe = Recipe.model_validate(body)
    except ValidationError as error:
        return RecipeCheck(field_errors(error, Recipe))
    recipe, models, problems = _with_models(project_id, recipe)
    facts: DataFacts | None = None
    try:
        facts = facts_of(project_id, recipe.dataset)
    except DatasetError as error:
        problems.append(Problem("/dataset", str(error)))
    except OSError as error:
        problems.append(Problem("/dataset", f"the data set cannot be read: {error.strerror}"))
    cards = {model.architecture: model.card for model in models.values() if model.card is not None}
    found = validate(recipe, facts, CARDS | cards, models)
    problems += [*found.problems, *_weight_problems(project_id, recipe, facts)]
    warnings = (
        *dataset_warnings(project_id, recipe.dataset),
        *found.warnings,
        *_weight_warnings(project_id, recipe, facts),
    )
    return RecipeCheck(
        problems=as_sent(problems, body),
        warnings=warnings,
        sharing=found.sharing,
        facts=facts,
        resolved=None if problems else found.resolved,
    )


def _with_models(project_id: str, recipe: Recipe) -> tuple[Recipe, dict[str, UserModel], list[Problem]]:
    """The recipe with the architectures of the models that it names, their records, and what keeps them from use."""
    models: dict[str, UserModel] = {}
    problems: list[Problem] = []

    def known(pointer: str, model_id: str) -> UserModel | None:
        with reading() as session:
            row = MODELS.find(session, project_id, model_id)
        if row is None:
            problems.append(Problem(f"{pointer}/model", f"there is no model {model_id!r}"))
            return None
        if trouble := MODELS.trouble_of(*row):
            problems.append(Problem(f"{pointer}/model", f"model {model_id} cannot be used: {trouble}"))
            return None
        return models.setdefault(model_id, record_of(row[0]))

    def resolved(pointer: str, network: Network) -> Network:
        model = known(pointer, network.model) if network.model is not None else None
        if model is None or network.architecture != "auto":
            return network
        return network.model_copy(update={"architecture": model.architecture})

    teacher = None if recipe.teacher is None else resolved("/teacher", recipe.teacher)
    students = tuple(resolved(f"/students/{i}", student) for i, student in enumerate(recipe.students))
    return recipe.model_copy(update={"teacher": teacher, "students": students}), models, problems


def as_sent(problems: Sequence[Problem], body: dict[str, Any]) -> list[FieldError]:
    """Pointers into the stored form turned into pointers into what was sent; each sentence once."""
    errors: dict[str, FieldError] = {}
    for problem in problems:
        # The baseline is a copy of the first student, whose problem is among them already.
        errors.setdefault(
            problem.detail, FieldError(pointer=_sent_pointer(problem.pointer, body), detail=problem.detail)
        )
    return list(errors.values())


def _sent_pointer(pointer: str, body: dict[str, Any]) -> str:
    _, _, rest = pointer.partition("/students/")
    number, _, field = rest.partition("/")
    if not number:
        return pointer
    if int(number) >= max(1, len(body.get("students") or ())):
        return "/baseline"
    if body.get("student") is None:
        return pointer
    return f"/{field}" if field.partition("/")[0] == "methods" else f"/student/{field}"


def _weight_problems(project_id: str, recipe: Recipe, facts: DataFacts | None) -> Iterator[Problem]:
    """Problems of the networks of earlier jobs that the recipe starts from."""
    networks = [(f"/students/{i}", student) for i, student in enumerate(recipe.students)]
    for pointer, network in [("/teacher", recipe.teacher), *networks]:
        if network is not None and isinstance(network.weights, JobWeights):
            yield from _one_weight_problem(
                f"{pointer}/weights", project_id, network.weights, network.architecture, TASKS[recipe.task], facts
            )


def _weight_warnings(project_id: str, recipe: Recipe, facts: DataFacts | None) -> Iterator[str]:
    """Sentences about what is odd about the data for a teacher that an earlier job made."""
    source = recipe.teacher.weights if recipe.teacher is not None else None
    described = read_description(project_id, source.job, source.network) if isinstance(source, JobWeights) else None
    if described is not None and described.get("input"):
        yield from teacher_warnings(recipe, described["input"]["size"], facts)


def _one_weight_problem(
    pointer: str,
    project_id: str,
    weights: JobWeights,
    architecture: str,
    task: Task,
    facts: DataFacts | None,
) -> Iterator[Problem]:
    with reading() as session:
        job = repository.find(session, project_id, weights.job)
    if job is None:
        yield Problem(f"{pointer}/job", f"there is no job {weights.job!r}")
        return
    if job.state is not State.succeeded:
        yield Problem(f"{pointer}/job", f"job {job.id} is {job.state}; its networks can be used once it has succeeded")
        return
    description = read_description(project_id, job.id, weights.network)
    if description is None:
        known = _networks_of(job)
        left = "; its exports hold no safetensors"
        hint = left if weights.network in known else nearest(weights.network, known)
        yield Problem(f"{pointer}/network", f"job {job.id} left no weights of a network {weights.network!r}{hint}")
        return
    source = f"network {weights.network!r} of job {job.id}"
    if description["architecture"] != architecture:
        yield Problem(pointer, f"{source} is a {description['architecture']}; {architecture} is wanted here")
    if description.get("wrapper") is not None:
        method = description["wrapper"]["method"]
        yield Problem(
            pointer,
            f"the head of {source} was replaced by the method {method}; a network as its architecture gives it is "
            "wanted here",
        )
    if (found := task_of(description)) != task.name:
        yield Problem(pointer, f"{source} is of the task {found}; {task.name} is wanted here")
        return
    try:
        outputs = outputs_of(description)
    except StudentError as error:
        yield Problem(pointer, f"{source} cannot be used: {error}")
        return
    if isinstance(facts, task.facts_type) and outputs != (wanted := task.outputs(facts)):
        yield Problem(pointer, f"{source} gives {outputs} {task.output_word}; the data set has {wanted}")


def _networks_of(job: JobRow) -> list[str]:
    return [TEACHER_NAME, *(student["name"] for student in job.spec.get("students", []))]
