"""The job spec: one definition, read by the API's validation, its OpenAPI page, the command line and the engine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from retort.architectures import ARCHITECTURES
from retort.augmentation import Augmentation
from retort.compressions import AnyCompression
from retort.datasets import AnyDataset
from retort.exports import EXPORTS, AnyExport
from retort.methods import AnyMethod
from retort.protocols import PROTOCOLS, expand
from retort.registry import LONGEST_NAME, nearest
from retort.spec import AtMost, Spec
from retort.tasks import TaskName
from retort.user_model import ONNX, ModelId

Auto = Literal["auto"]

TEACHER_NAME = "teacher"
BASELINE_NAME = "baseline"
NETWORK_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")

NetworkName = Annotated[str, StringConstraints(pattern=rf"^{NETWORK_NAME.pattern}$")]
Tag = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}$")]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


def _known_architecture(name: str) -> str:
    if name not in ARCHITECTURES and name not in ("auto", ONNX):
        raise PydanticCustomError(
            "unknown_architecture",
            "no architecture {name}{hint}",
            {"name": repr(name), "hint": nearest(name, ARCHITECTURES)},
        )
    return name


ArchitectureName = Annotated[str, StringConstraints(max_length=LONGEST_NAME), AfterValidator(_known_architecture)]


class JobWeights(Spec):
    """The weights of a network that an earlier job trained."""

    job: str = Field(pattern=r"^job_[0-9a-z]+$")
    """Id of the job; it must have succeeded."""
    network: NetworkName
    """Name of the student in that job, or `teacher` for the teacher that it taught."""


Weights = Literal["published"] | JobWeights | None


def _check_origin(network: Teacher | Student | StudentShorthand) -> None:
    """Raise PydanticCustomError unless the recipe names the network's origin, and once."""
    if network.model is None and network.architecture == "auto":
        raise PydanticCustomError("missing_architecture", "architecture is missing", {"field": "architecture"})
    if network.model is None and network.architecture == ONNX:
        raise PydanticCustomError(
            "onnx_without_model", "architecture is onnx, which comes with a model; model is null", {"field": "model"}
        )
    if network.model is not None and network.weights is not None:
        raise PydanticCustomError(
            "two_origins", "both model and weights are given; give one of them", {"field": "weights"}
        )


class SGD(Spec):
    """Stochastic gradient descent with momentum."""

    name: Literal["sgd"] = "sgd"
    learning_rate: Auto | Annotated[float, Field(gt=0, le=100)] = "auto"
    """Per step, before the schedule; `auto` is 0.05 for a batch of 64, and in proportion to the batch."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Share of the last step's direction that is kept, a pure number."""
    nesterov: bool = False
    """Whether momentum looks ahead."""
    weight_decay: float = Field(default=5e-4, ge=0, le=1)
    """L2 penalty's factor in the gradient, per unit of weight."""


class AdamW(Spec):
    """Adam with decoupled weight decay."""

    name: Literal["adamw"] = "adamw"
    learning_rate: Auto | Annotated[float, Field(gt=0, le=100)] = "auto"
    """Per step, before the schedule; `auto` is 0.001 for any batch."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of the gradient's running mean, a pure number."""
    beta2: float = Field(default=0.999, ge=0, lt=1)
    """Decay of the squared gradient's running mean, a pure number."""
    weight_decay: float = Field(default=0.01, ge=0, le=1)
    """Share of a weight taken off at learning rate 1, a pure number."""


class Constant(Spec):
    """The same learning rate throughout."""

    name: Literal["constant"] = "constant"


class Cosine(Spec):
    """Half a cosine from the learning rate down to nearly zero, a value a step."""

    name: Literal["cosine"] = "cosine"


class Steps(Spec):
    """A factor after each of some epochs."""

    name: Literal["steps"] = "steps"
    milestones: Annotated[tuple[Annotated[int, Field(ge=1)], ...], AtMost(64)] = (150, 180, 210)
    """Epochs after which the learning rate falls, counted from 1, rising."""
    factor: float = Field(default=0.1, gt=0, le=1)
    """Factor of the learning rate at each, a pure number."""


class WeightAverage(Spec):
    """An exponential moving average of the weights, taken after each step; the average is evaluated and shipped."""

    decay: float = Field(default=0.999, gt=0, lt=1)
    """Share of the old average that is kept in a step, a pure number."""


class Training(Spec):
    """Settings of a training."""

    epochs: int = Field(default=100, ge=1, le=100_000)
    """Passes over the training split."""
    batch_size: int = Field(default=64, ge=2, le=65_536)
    """Examples per optimizer step."""
    optimizer: Annotated[SGD | AdamW, Field(discriminator="name")] = SGD()
    """Turns gradients into steps."""
    schedule: Annotated[Constant | Cosine | Steps, Field(discriminator="name")] = Cosine()
    """Course of the learning rate."""
    warmup_epochs: int = Field(default=0, ge=0)
    """Epochs over which the learning rate rises linearly from nearly zero, before the schedule's own course."""
    augmentation: Augmentation = Augmentation()
    """Changes to the training images."""
    clip_gradient_norm: float | None = Field(default=None, gt=0)
    """Largest Euclidean norm of all gradients of a student; longer ones are scaled down to it. Null leaves them."""
    weight_average: WeightAverage | None = None
    """Averages the weights over the steps; null ships them as they are."""
    gradient_accumulation: int = Field(default=1, ge=1, le=1024)
    """Micro-batches in which a batch is computed, one after the other, their gradients added up: less memory for the
    same step, but for batch norm, which sees a micro-batch at a time."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the networks in training; losses are float32 at least, and so is all evaluation. `auto` is
    bfloat16 on a GPU or a CPU that computes in it, else float32."""
    cache_teacher_outputs: bool = True
    """Whether the logits and embeddings of frozen networks are rounded to float16 and cached on the worker, for later
    jobs of the same teacher, data, augmentation, data_seed and batch. The result is the same whether they were cached
    or computed."""
    data_seed: Seed = 0
    """Rules the order of the examples and the views of them."""
    threads: Auto | Annotated[int, Field(ge=1, le=1024)] = "auto"
    """Threads of the arithmetic on a CPU, which change the last bits of sums. `auto` takes what the first worker
    has."""
    on_out_of_memory: Literal["fail", "accumulate"] = "fail"
    """Behaviour when the first batch does not fit the device's memory: fail and name a batch that fits, or compute it
    in as many micro-batches as it takes (see `gradient_accumulation`)."""

    @model_validator(mode="after")
    def _times_fit(self) -> Training:
        if self.warmup_epochs >= self.epochs:
            raise PydanticCustomError(
                "warmup_too_long",
                "warmup_epochs is {warmup}; it must be less than epochs, which is {epochs}",
                {"warmup": self.warmup_epochs, "epochs": self.epochs, "field": "warmup_epochs"},
            )
        if self.gradient_accumulation > self.batch_size // 2:
            raise PydanticCustomError(
                "micro_batches_too_small",
                "gradient_accumulation is {count}; each micro-batch of a batch of {batch} needs at least 2 examples",
                {"count": self.gradient_accumulation, "batch": self.batch_size, "field": "gradient_accumulation"},
            )
        if isinstance(self.schedule, Steps):
            wrong = [m for m in self.schedule.milestones if m >= self.epochs]
            if wrong or list(self.schedule.milestones) != sorted(set(self.schedule.milestones)):
                raise PydanticCustomError(
                    "milestones",
                    "milestones are {found}; they must rise and be less than epochs, which is {epochs}",
                    {"found": list(self.schedule.milestones), "epochs": self.epochs, "field": "schedule/milestones"},
                )
        return self


class Teacher(Spec):
    """The network to imitate."""

    architecture: ArchitectureName = "auto"
    """Name in the catalogue of architectures; `auto` is that of `model`."""
    model: ModelId | None = None
    """A user model (see /v1/models), instead of weights. One that is an ONNX file gives logits alone and cannot be
    taught."""
    weights: Weights = None
    """`published`, or a network of an earlier job; null starts from a random initialisation and needs `teach`."""
    seed: Seed = 0
    """Rules the initialisation when there are no weights."""
    teach: Training | None = None
    """Settings of a training on the labels that comes first; null takes the teacher as it is."""

    @model_validator(mode="after")
    def _knows_something(self) -> Teacher:
        _check_origin(self)
        if self.weights is None and self.model is None and self.teach is None:
            raise PydanticCustomError(
                "untrained_teacher", "the teacher has neither weights nor teach nor a model; it needs one of them", {}
            )
        return self


class Labels(Spec):
    """The labels' share in the loss, beside the methods."""

    weight: Auto | Annotated[float, Field(ge=0, le=1000)] = "auto"
    """Weight of cross-entropy on the clean images. `auto` is 1, unless all methods name the same published weight."""
    smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of each label that is spread over all classes, a pure number."""


class Student(Spec):
    """A network to train."""

    name: NetworkName = "student"
    """Names its metrics and files; unique in the job."""
    architecture: ArchitectureName = "auto"
    """Name in the catalogue of architectures; `auto` is that of `model`."""
    model: ModelId | None = None
    """A user model that training starts from, instead of weights."""
    weights: Weights = None
    """Weights that training starts from; null is a random initialisation."""
    seed: Seed = 0
    """Rules the initialisation and the methods' draws."""
    labels: Labels = Labels()
    """The labels' share in the loss."""
    methods: Annotated[tuple[AnyMethod, ...], AtMost(64)] = ()
    """The distillation objectives, added up; none is plain training on the labels."""

    @model_validator(mode="after")
    def _is_something(self) -> Student:
        _check_origin(self)
        return self

    @model_validator(mode="after")
    def _methods_differ(self) -> Student:
        names = [method.name for method in self.methods]
        for name in names:
            if names.count(name) > 1:
                raise PydanticCustomError(
                    "same_method",
                    "method {method} stands twice in student {student}; once is enough",
                    {"method": name, "student": repr(self.name)},
                )
        return self


class StudentShorthand(Spec):
    """The only student of a job; its methods stand beside it."""

    architecture: ArchitectureName = "auto"
    """Name in the catalogue of architectures; `auto` is that of `model`."""
    name: NetworkName = "student"
    """Names its metrics and files."""
    model: ModelId | None = None
    """A user model that training starts from, instead of weights."""
    weights: Weights = None
    """Weights that training starts from; null is a random initialisation."""
    seed: Seed = 0
    """Rules the initialisation and the methods' draws."""
    labels: Labels = Labels()
    """The labels' share in the loss."""

    @model_validator(mode="after")
    def _is_something(self) -> StudentShorthand:
        _check_origin(self)
        return self


class Evaluation(Spec):
    """Settings of evaluation, and the choice of the epoch that is shipped."""

    every_epochs: int = Field(default=1, ge=1)
    """Epochs from one evaluation on the validation split to the next; the last epoch is always evaluated."""
    batch_size: int = Field(default=256, ge=1, le=65_536)
    """Examples at once; it changes no result that is counted in examples."""
    ship: Literal["best", "last"] = "best"
    """Epoch whose network is exported: the best on the validation split, or the last."""


def _from_weights(sent: Any) -> Any:
    """The steps of `{"weights": "float16"}`, the form in which the precision of the weights stood alone."""
    if not isinstance(sent, Mapping):
        return sent
    weights = sent.get("weights", "float32")
    if sent.keys() <= {"weights"} and weights in ("float32", "float16"):
        return () if weights == "float32" else ({"name": "float16"},)
    raise PydanticCustomError(
        "compression_steps",
        "compression is a list of steps, such as [{step}]; as an object it holds weights, float32 or float16, alone",
        {"step": '{"name": "quantize"}'},
    )


def _all_exports() -> tuple[AnyExport, ...]:
    return tuple(export(name=name) for name, export in EXPORTS.items())


class Needs(Spec):
    """Properties that a worker must have to take the job."""

    gpu: bool = False
    """Whether only a worker with a GPU may run it."""
    memory_gib: float = Field(default=0, ge=0, le=1_000_000)
    """Least memory in GiB: of the GPU where the worker has one, else of the machine."""


class Deadline(Spec):
    """A limit of wall-clock time."""

    seconds: float = Field(gt=0, le=31_536_000)
    """Seconds from the job's first start; what it waits and is paused in between counts too."""
    then: Literal["fail", "stop"] = "fail"
    """Outcome once they are over: the job fails, or it is stopped and keeps the best students so far."""


class Recipe(Spec):
    """All that a distillation job needs, and nothing about where it runs.

    `students` is the only stored form. One `student`, with `methods` beside it, is shorthand for a list of one; a
    `protocol` is shorthand for the fields that it sets.
    """

    recipe_version: Literal[1] = 1
    """Version of this contract."""
    task: TaskName = "classification"
    """The networks' task (see /v1/tasks)."""
    name: str = Field(default="", max_length=200)
    """Name of the job, for people."""
    tags: Annotated[tuple[Tag, ...], AtMost(32)] = ()
    """Words to find the job by."""
    priority: int = Field(default=0, ge=-10, le=10)
    """Jobs of higher priority start first within a project."""
    needs: Needs = Needs()
    """Properties that the worker must have."""
    deadline: Deadline | None = None
    """Limit of its time; null sets none."""
    protocol: Literal["cifar100", "imagenet", "tiny_imagenet"] | None = Field(default=None, exclude=True)
    """Shorthand for the published settings under which papers compare methods on that data: `training` (epochs,
    batch, optimizer, schedule, augmentation), the teacher's `teach` where it is given, and shipping the last epoch,
    with no validation split taken off the data set that it is named for. What else the recipe gives stands over it."""
    dataset: AnyDataset
    """The data set, with the facts that the task needs."""
    teacher: Teacher | None = None
    """The network to imitate; null when no method needs one."""
    require_teacher: float | None = None
    """Headline metric (accuracy, for classification) that the teacher must reach on the validation split before the
    first student's step; otherwise the job fails and names both numbers. Null asks for none."""
    fail_if_worse_than_chance: bool = True
    """Whether the job fails, and keeps its files nonetheless, where a student that was trained to its end is no better
    than chance (for classification, than always guessing the most frequent class) on both the test and the validation
    split. Trainings of fewer than 20 steps, and false, let it succeed with a warning."""
    students: Annotated[tuple[Student, ...], AtMost(64)] = ()
    """The networks to train; they share each pass over the data and each pass of the teacher."""
    student: StudentShorthand | None = Field(default=None, exclude=True)
    """Shorthand for a list of one student."""
    methods: Annotated[tuple[AnyMethod, ...], AtMost(64)] | None = Field(default=None, exclude=True)
    """The methods of that one student."""
    baseline: bool = False
    """Adds a student of the first one's architecture, weights and seed without methods, to compare with."""
    training: Training = Training()
    """Settings of the students' training."""
    evaluation: Evaluation = Evaluation()
    """When networks are evaluated, and which epoch is shipped."""
    compression: Annotated[tuple[AnyCompression, ...], AtMost(16), BeforeValidator(_from_weights)] = ()
    """Steps that make the trained students smaller or quicker, in order (see /v1/compressions). The object
    `{"weights": "float16"}` is shorthand for the one step float16."""
    exports: Annotated[tuple[AnyExport, ...], AtMost(64)] = Field(default_factory=_all_exports, min_length=1)
    """The files to hand back of each student."""

    @model_validator(mode="before")
    @classmethod
    def _expand_protocol(cls, sent: Any) -> Any:
        """Fill in what the protocol sets, once, so that no other code handles it."""
        known = isinstance(sent, Mapping) and isinstance(sent.get("protocol"), str) and sent["protocol"] in PROTOCOLS
        return expand(sent) if known else sent

    @model_validator(mode="after")
    def _expand_shorthand(self) -> Recipe:
        """Turn `student`, `methods` and `baseline` into `students`, once, so that no other code handles them."""
        students = self.students
        if self.student is not None:
            if students:
                raise PydanticCustomError(
                    "two_forms", "both student and students are given; give one of them", {"field": "student"}
                )
            students = (
                Student(
                    **self.student.model_dump(exclude={"labels"}),
                    labels=self.student.labels,
                    methods=self.methods or (),
                ),
            )
        elif self.methods is not None:
            raise PydanticCustomError(
                "methods_without_student",
                "methods at the top belong to student, which is missing; in students each has its own",
                {"field": "methods"},
            )
        if not students:
            raise PydanticCustomError(
                "no_student", "no student is given; give student or students", {"field": "students"}
            )
        if self.baseline:
            first = students[0]
            students += (
                Student(
                    name=BASELINE_NAME,
                    architecture=first.architecture,
                    model=first.model,
                    weights=first.weights,
                    seed=first.seed,
                    labels=Labels(smoothing=first.labels.smoothing),
                ),
            )
        # The model is frozen once it is made; here it is still being made.
        vars(self).update(students=students, student=None, methods=None, baseline=False)
        return self

    @model_validator(mode="after")
    def _names_differ(self) -> Recipe:
        seen: set[str] = set()
        for name in (student.name for student in self.students):
            if name in seen:
                raise PydanticCustomError(
                    "same_name",
                    "two students are named {name}; names must differ",
                    {"name": repr(name), "field": "students"},
                )
            if name == TEACHER_NAME:
                raise PydanticCustomError(
                    "reserved_name", "a student is named 'teacher'; that is the teacher's", {"field": "students"}
                )
            seen.add(name)
        steps = [step.name for step in self.compression]
        if len(steps) != len(set(steps)):
            raise PydanticCustomError(
                "same_compression", "a step stands twice: {found}", {"found": steps, "field": "compression"}
            )
        formats = [export.name for export in self.exports]
        if len(formats) != len(set(formats)):
            raise PydanticCustomError(
                "same_export", "an export stands twice: {found}", {"found": formats, "field": "exports"}
            )
        return self

    @model_validator(mode="after")
    def _teacher_where_needed(self) -> Recipe:
        if self.teacher is None:
            if self.require_teacher is not None:
                raise PydanticCustomError(
                    "no_teacher_to_require",
                    "require_teacher is {least}, but teacher is null",
                    {"least": self.require_teacher, "field": "require_teacher"},
                )
            for student in self.students:
                for method in student.methods:
                    if method.needs_teacher:
                        raise PydanticCustomError(
                            "teacher_missing",
                            "method {method} of student {student} needs a teacher; teacher is null",
                            {"method": method.name, "student": repr(student.name), "field": "teacher"},
                        )
        return self
