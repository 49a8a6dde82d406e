"""A small pair of networks on random images, set up as the engine sets up a student."""

from dataclasses import replace

import pytest
import torch

from retort.architectures import ARCHITECTURES, CARDS
from retort.dataset import ImageClassFacts
from retort.engine.networks import freeze
from retort.engine.students import StudentFactory, make_student_state, phase_train_state
from retort.images.views import DrawContext, make
from retort.input import Input
from retort.method import Batch, MethodError, Setup
from retort.recipe import SGD, Student, Training
from retort.tasks import TASKS
from retort.view import CLEAN

CLASSES, IMAGES, SIDE = 10, 40, 8
FACTS = ImageClassFacts(
    classes=CLASSES,
    class_names=tuple("0123456789"),
    image_size=SIDE,
    train=IMAGES,
    validation=1,
    test=1,
    mean=(0.4, 0.5, 0.6),
    std=(0.2, 0.3, 0.4),
)


TEACHERS = ("resnet8x4", "resnet14")
"""The first one that a method accepts: another width than the student's, or the same."""


def serves(method, student, teacher):
    try:
        method.check(Setup(FACTS, FACTS.classes, CARDS[student], CARDS[teacher], 8, 2, CARDS))
    except MethodError:
        return False
    return True


class Pair:
    """A student with one method, its teacher, and batches that both have read."""

    def __init__(self, method, *, student="resnet8", teacher=None, seed=0, side=SIDE):
        teacher = teacher or next(name for name in TEACHERS if serves(method, student, name))
        generator = torch.Generator().manual_seed(seed)
        self.images = torch.rand(IMAGES, 3, side, side, generator=generator)
        self.targets = torch.arange(IMAGES) % CLASSES
        self.teacher = freeze(self.build(teacher, side))
        self.factory = StudentFactory(
            task=TASKS["classification"],
            facts=FACTS.model_copy(update={"image_size": side}),
            training=Training(epochs=2, batch_size=8, optimizer=SGD(learning_rate=0.02)),
            device=torch.device("cpu"),
            teacher=self.teacher,
            teacher_card=CARDS[teacher],
            targets=self.targets,
            teacher_pass=self.teacher_pass,
            cards=CARDS,
        )
        self.method = method
        told = Student(architecture=student, methods=(method,), labels={"weight": 0})
        self.student_state = make_student_state(told, self.build(student, side), CARDS[student], self.factory)
        self.train_state = self.student_state.train_state
        (self.method_state,) = self.train_state.method_states
        phases = [
            phase_train_state(self.student_state, state, phase, self.factory)[0]
            for state, phase in self.student_state.phases()
        ]
        self.train_states = [train_state for train_state in (*phases, self.train_state) if train_state.taps]
        """All that trains, in order: the method's phases, then the student; who reads nothing is left out."""

    @staticmethod
    def build(name, side=SIDE):
        torch.manual_seed(len(name))
        network = ARCHITECTURES[name].build(name, CLASSES)
        network.set_input(Input(size=side, mean=FACTS.mean, std=FACTS.std))
        return network

    def teacher_pass(self, *reads, positions=None):
        positions = torch.arange(IMAGES) if positions is None else positions
        with torch.no_grad():
            for part in positions.split(16):
                yield self.teacher.read(self.images[part], reads), self.targets[part], part

    def batch(self, size=8, step=0, change=None, train_state=None):
        """A batch as the engine hands it over, with each output tensor changed by `change`."""
        train_state = train_state or self.train_states[-1]
        indices = (torch.arange(size) * 7 + step * size) % IMAGES
        moment = DrawContext(0, 0, step, indices, torch.zeros(1, 3, 1, 1), lambda images: self.teacher(images))
        views = {
            view: make(view, self.images[indices], moment) for view in {t.view for t in train_state.taps} | {CLEAN}
        }
        outputs = {}
        for tap in train_state.taps:
            key = tap.network, tap.view
            if key in outputs:
                continue
            reads = {t.reads for t in train_state.taps if (t.network, t.view) == key}
            network = train_state.network if tap.network == train_state.spec else self.factory.frozen[tap.network]
            with torch.set_grad_enabled(tap.network == train_state.spec):
                outputs[key] = network.read(views[tap.view].inputs.to(network.get_buffer("mean").dtype), reads)
        if change is not None:
            outputs = {key: changed(value, change) for key, value in outputs.items()}
        mixed = {view: made.mixed for view, made in views.items() if made.mixed is not None}
        # Not the first epoch: there some weights are zero on purpose.
        clock = torch.tensor(step), torch.tensor(1), torch.tensor(0.5)
        return Batch(outputs, self.targets[indices], indices, *clock, torch.tensor(step), mixed)

    def terms(self, batch, train_state=None):
        """The terms of the method's phase that the training state trains, or of the method itself."""
        formula = self.method if train_state is None or train_state.phase is None else train_state.phase
        return formula.terms(batch, self.method_state.modules)

    def step(self, number, train_state=None):
        """One optimizer step as the engine takes it; returns the loss."""
        train_state = train_state or self.train_states[-1]
        for network in self.factory.frozen.values():
            network.eval()
        train_state.network.train()
        batch = self.batch(step=number, train_state=train_state)
        train_state.update(batch, first=True)
        loss = sum(self.terms(batch, train_state).values())
        train_state.optimizer.zero_grad()
        loss.backward()
        train_state.optimizer.step()
        train_state.update(batch, first=False)
        return loss.item()


def changed(outputs, change):
    """The same outputs with each of their tensors changed."""
    return replace(
        outputs,
        logits=change(outputs.logits),
        embedding=None if outputs.embedding is None else change(outputs.embedding),
        maps=tuple(map(change, outputs.maps)),
        preactivations=tuple(map(change, outputs.preactivations)),
        class_maps=None if outputs.class_maps is None else change(outputs.class_maps),
    )


@pytest.fixture
def pair():
    return Pair
