"""One run of one recipe, from top to bottom: prepare, teach, distil, compress, evaluate, export."""

from __future__ import annotations

from retort.engine.checkpoint import are_there
from retort.engine.compress import compress
from retort.engine.context import prepare, redoing, resolve_for
from retort.engine.distil import distil
from retort.engine.event_log import EventLog
from retort.engine.export import export
from retort.engine.group import ALONE, Group
from retort.engine.interrupt import Interrupt, StudentsFailed
from retort.engine.report import evaluate
from retort.engine.sections import SectionTrainer
from retort.engine.teach import teach, validate_teacher
from retort.order import Paths
from retort.recipe import Recipe


class Run:
    """Carries out a recipe. Raises Impossible, DatasetError or Stopped, or whatever else ended it; StudentsFailed once
    all files are written."""

    def __init__(
        self, recipe: Recipe, paths: Paths, event_log: EventLog, interrupt: Interrupt, group: Group = ALONE
    ) -> None:
        self.recipe = resolve_for(recipe, group.device)
        self.paths = paths
        self.event_log = event_log
        self.interrupt = interrupt
        self.group = group

    def __call__(self) -> None:
        with redoing(self.interrupt, self.group, begun=are_there(self.paths.checkpoints)):
            context, saved = prepare(self.recipe, self.paths, self.event_log, self.interrupt, self.group)
        trainer, saved = SectionTrainer(context, saved), None  # whose tensors go with the first section
        teacher = teach(context, trainer)
        if teacher is not None:
            validate_teacher(context, teacher.network)
        students, lost = distil(context, trainer, teacher)
        self.group.leave()
        if self.group.rank:
            return  # what is left has no steps to share
        results = [teacher, *students] if teacher else students
        with context.redoing(begun=True):
            compress(context, results)
            evaluation = evaluate(context, results, lost)
            export(context, results, evaluation.shipped, evaluation.report)
        if evaluation.failures:
            raise StudentsFailed(evaluation.sentence)
