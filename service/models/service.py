"""Taking in a user model, and checking one on a data set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError
from sqlalchemy.orm import Session

from retort.architectures import ARCHITECTURES
from retort.check import Check
from retort.kinds import CHECK
from retort.registry import nearest
from retort.tasks import TASKS
from retort.tensor_file import TensorFileError, parse_metadata, read_header
from retort.user_model import ONNX, expects_in, from_description, parsed_class_names, parsed_expects
from retort.validation import output_problems
from service.access.caller import Caller
from service.artifacts.repository import find_artifact
from service.artifacts.service import read_description
from service.blobs.models import BlobRow
from service.blobs.repository import BlobDraft, BlobGone, refer
from service.blobs.service import read_bytes
from service.datasets.service import dataset_problem, facts_of
from service.db import read_now, reading, transaction
from service.errors import Conflict, FieldError, Invalid, quote
from service.fields import field_errors
from service.ids import new_id
from service.job_creation.service import Submission, enqueue, made_before
from service.jobs import repository as jobs
from service.jobs.models import JobRow, State
from service.jobs.uses import hold
from service.models.models import ModelRow, record_of
from service.models.products import PRODUCTS
from service.models.schemas import ModelCreate
from service.products.repository import RowAndJob, add
from service.uploads.models import UploadKind
from service.uploads.service import use


@dataclass(frozen=True)
class ModelSource:
    """A network that may become a model: the columns of its row."""

    form: str
    architecture: str
    classes: int | None
    class_names: list[str] | None
    expects: dict[str, Any] | None
    blob_id: str
    size: int
    sha256: str


def create(
    session: Session, caller: Caller, body: Any, idempotency_key: str | None
) -> tuple[RowAndJob[ModelRow], bool]:
    """A new model and the queued job that takes it in, or those that the same key and body made before, and whether
    they are those.

    Raises Invalid with all that is wrong, and what enqueue does. The session takes no connection before the file's
    header has been read.
    """
    try:
        asked = ModelCreate.model_validate(body)
    except ValidationError as error:
        raise Invalid.of(field_errors(error, ModelCreate)) from None
    sent = Submission(CHECK, body, idempotency_key)
    try:
        source = _source(caller.project_id, asked)
    except Invalid:
        made = made_before(session, caller, sent)
        if made is None:
            raise
        return PRODUCTS.made_by(session, made, sent), True
    made = made_before(session, caller, sent)
    if made is not None:
        return PRODUCTS.made_by(session, made, sent), True
    source = replace(source, blob_id=_held(session, source))
    model_id = new_id("model", read_now(session))
    job, replayed = enqueue(session, caller, sent, Check(model=model_id), name=f"takes in {asked.name}"[:200])
    if replayed:
        return PRODUCTS.made_by(session, job, sent), True
    model = ModelRow(
        id=model_id,
        project_id=caller.project_id,
        name=asked.name,
        job_id=job.id,
        created_at=job.created_at,
        **vars(source),
    )
    add(session, model)
    return (model, job), False


def check(
    session: Session, caller: Caller, model_id: str, body: Any, idempotency_key: str | None
) -> tuple[JobRow, bool]:
    """A queued job that tries the model on a data set, or the one that the same key and body made before, and whether
    it is that one. Raises NotFound, Conflict and Invalid."""
    model, job = PRODUCTS.read(session, caller, model_id)
    if trouble := PRODUCTS.trouble_of(model, job):
        raise Conflict(f"model {model_id} cannot be checked: {trouble}")
    sent = Submission(CHECK, {"model": model_id, "asked": body}, idempotency_key)
    given = body if isinstance(body, dict) else {}
    errors = [] if isinstance(body, dict) else [FieldError(pointer="", detail="the body is no object")]
    if given.get("dataset") is None:
        errors.append(FieldError(pointer="/dataset", detail="dataset is missing"))
    if "model" in given:
        errors.append(FieldError(pointer="/model", detail="the address says which model; wanted no field model"))
    if errors:
        raise Invalid.of(errors)
    whole = given | {"model": model_id}
    try:
        spec = Check.model_validate(whole)
    except ValidationError as error:
        raise Invalid.of(field_errors(error, Check)) from None
    assert spec.dataset is not None
    if problem := _check_problem(caller.project_id, spec, model):
        raise Invalid.of([FieldError(pointer="/dataset", detail=problem)])
    made = made_before(session, caller, sent)
    if made is not None:
        return made, True
    needs = hold(session, caller.project_id, CHECK, spec.model_dump(mode="json"))
    return enqueue(session, caller, sent, spec, name=f"checks {model.name}"[:200], needs_disk_bytes=needs)


def _check_problem(project_id: str, spec: Check, model: ModelRow) -> str | None:
    """One sentence why the model cannot be tried on the data set, if that shows here."""
    assert spec.dataset is not None
    if problem := dataset_problem(project_id, spec.dataset):
        return problem
    facts, task = facts_of(project_id, spec.dataset), TASKS[spec.task]
    if facts is None:
        return None
    if not isinstance(facts, task.facts_type):
        return f"data set {spec.dataset.name} does not hold examples of the task {task.name} ({task.title})"
    return next(output_problems(record_of(model), task, facts), None)


def _held(session: Session, source: ModelSource) -> str:
    """The id of the bytes that were checked, which no sweep takes until the transaction ends. Raises Invalid."""
    blob_id = refer(session, BlobDraft(source.blob_id, source.sha256, source.size))
    if blob_id is None:
        raise Invalid("the file was deleted while it was looked at")
    return blob_id


def _source(project_id: str, asked: ModelCreate) -> ModelSource:
    """The network that is asked for, as far as it is known without torch. Raises Invalid."""
    if (asked.upload is None) == (asked.job is None):
        found = "neither upload nor job is given" if asked.upload is None else "both upload and job are given"
        raise Invalid.of([FieldError(pointer="/upload", detail=f"{found}; wanted one of them")])
    return _of_job(project_id, asked) if asked.job is not None else _of_upload(project_id, asked)


def _of_job(project_id: str, asked: ModelCreate) -> ModelSource:
    assert asked.job is not None
    given = [name for name in ("form", "architecture", "classes", "class_names") if getattr(asked, name) is not None]
    if given or asked.expects.model_dump(exclude_none=True):
        detail = f"{(given or ['expects'])[0]} is given beside job, which says all of that itself"
        raise Invalid.of([FieldError(pointer=f"/{(given or ['expects'])[0]}", detail=detail)])
    if asked.network is None:
        raise Invalid.of([FieldError(pointer="/network", detail="network is missing: the job may have several")])
    with reading() as session:
        job = jobs.find(session, project_id, asked.job)
        found = find_artifact(session, project_id, asked.job, f"{asked.network}.safetensors")
    if job is None:
        raise Invalid.of([FieldError(pointer="/job", detail=f"there is no job {quote(asked.job)}", found=asked.job)])
    if job.state is not State.succeeded:
        raise Invalid.of([FieldError(pointer="/job", detail=f"job {job.id} is {job.state}; wanted one that succeeded")])
    student = read_description(project_id, asked.job, asked.network)
    if student is None or found is None:
        detail = f"job {job.id} left no weights of a network {quote(asked.network)}"
        raise Invalid.of([FieldError(pointer="/network", detail=detail, found=asked.network)])
    if student.get("wrapper") is not None:
        detail = f"the head of {asked.network} was replaced by the method {student['wrapper']['method']}"
        wanted = "a network as its architecture gives it is wanted here"
        raise Invalid.of([FieldError(pointer="/network", detail=f"{detail}; {wanted}")])
    known = from_description(student)
    return _merged("safetensors", known, found[1], asked)


def _of_upload(project_id: str, asked: ModelCreate) -> ModelSource:
    assert asked.upload is not None
    if asked.network is not None:
        raise Invalid.of([FieldError(pointer="/network", detail="network is given, which belongs to job")])
    if asked.form is None:
        raise Invalid.of([FieldError(pointer="/form", detail="form is missing; wanted safetensors or onnx")])
    with transaction() as session:
        upload = use(session, project_id, asked.upload, UploadKind.model, "/upload")
        blob = session.get_one(BlobRow, upload.blob_id)
    known: dict[str, Any] = {}
    if asked.form == "safetensors":
        known = expects_in(_metadata(blob))
    return _merged(asked.form, known, blob, asked)


def _metadata(blob: BlobRow) -> Mapping[str, str]:
    """The metadata of a safetensors file. Raises Invalid where the upload is none."""
    try:
        header = read_header(lambda begin, end: b"".join(read_bytes(blob.id, range(begin, end))), blob.size or 0)
        return parse_metadata(header)
    except TensorFileError as error:
        raise Invalid.of([FieldError(pointer="/upload", detail=f"the upload cannot be used: {error}")]) from None
    except BlobGone:
        raise Invalid.of([FieldError(pointer="/upload", detail="the upload was given up meanwhile")]) from None


def _merged(form: str, known: Mapping[str, Any], blob: BlobRow, asked: ModelCreate) -> ModelSource:
    """The source from the user's fields and, where those are missing, the file's. Raises Invalid."""
    names, name_errors = _class_names(known, asked)
    classes = asked.classes if names is None else len(names)
    architecture = asked.architecture or _text(known.get("architecture"))
    given = {**known.get("expects", {}), **asked.expects.model_dump(exclude_none=True)}
    expects, wrong = parsed_expects(given)
    if form == ONNX:
        architecture = architecture or ONNX
        # What is missing the file may say, which a worker looks into.
        wrong = {} if not given else wrong
    errors = [
        *_architecture_errors(form, architecture),
        *name_errors,
        *_class_errors(form, asked, classes, named=not name_errors),
        *(_expects_error(name, reason, given) for name, reason in wrong.items()),
    ]
    if errors or architecture is None:
        raise Invalid.of(errors)
    return ModelSource(
        form=form,
        architecture=architecture,
        classes=classes,
        class_names=names,
        expects=expects.model_dump(mode="json") if expects else None,
        blob_id=blob.id,
        size=blob.size or 0,
        sha256=blob.sha256 or "",
    )


def _text(found: Any) -> str | None:
    return found if isinstance(found, str) else None


def _class_names(known: Mapping[str, Any], asked: ModelCreate) -> tuple[list[str] | None, list[FieldError]]:
    """The names that the user gives or, where there are none, the file; and what is wrong in the file's."""
    if asked.class_names is not None:
        return list(asked.class_names), []
    if "class_names" not in known:
        return None, []
    try:
        return list(parsed_class_names(known["class_names"])), []
    except ValueError as error:
        return None, [FieldError(pointer="/class_names", detail=str(error))]


def _architecture_errors(form: str, architecture: str | None) -> Iterator[FieldError]:
    if form == ONNX:
        if architecture != ONNX:
            yield FieldError(
                pointer="/architecture", detail=f"architecture is {quote(architecture)}; an ONNX file has its own"
            )
    elif architecture is None:
        yield FieldError(
            pointer="/architecture",
            detail="architecture is missing, and the file does not say it; wanted a name of the catalogue",
        )
    elif architecture not in ARCHITECTURES:
        hint = nearest(architecture, ARCHITECTURES)
        yield FieldError(pointer="/architecture", detail=f"no architecture {quote(architecture)}{hint}")


def _class_errors(form: str, asked: ModelCreate, classes: int | None, *, named: bool) -> Iterator[FieldError]:
    if classes is None and form != ONNX and named:
        yield FieldError(pointer="/class_names", detail="class_names are missing, or their number as classes")
    if asked.classes is not None and classes != asked.classes:
        yield FieldError(pointer="/classes", detail=f"classes is {asked.classes}, but there are {classes} class_names")


def _expects_error(name: str, reason: str, given: Mapping[str, Any]) -> FieldError:
    wanted = {
        "size": "the side of its images in pixels",
        "channel_order": "rgb, bgr or grey",
        "range": "the values of the darkest and the brightest pixel, such as [0, 1] or [0, 255]",
        "mean": "the number that is subtracted from each channel",
        "std": "the number that each channel is divided by",
    }
    field = name.partition("/")[0]
    detail = (
        f"expects.{field} is missing, and the file does not say it; wanted {wanted[field]}"
        if field in wanted and given.get(field) is None
        else f"expects is wrong in {name}: {reason}"
    )
    return FieldError(pointer=f"/expects/{name}" if field in wanted else "/expects", detail=detail)
