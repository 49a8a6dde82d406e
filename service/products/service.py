"""Reading, listing, deleting and describing products: what all kinds of them have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, TypeVar

from sqlalchemy.orm import Session

from service.access.caller import Caller
from service.artifacts.repository import remove_artifact
from service.blobs.models import BlobRow
from service.blobs.repository import drop_unreferenced
from service.errors import Conflict, FieldError, Invalid, NotFound, quote
from service.job_creation.service import Submission
from service.jobs.models import JobRow
from service.jobs.uses import check_unused
from service.paging import Position
from service.products import repository
from service.products.models import ProductRow, ProductStage, stage_of
from service.products.repository import RowAndJob

Row = TypeVar("Row", bound=ProductRow)
State = TypeVar("State", bound=StrEnum)


@dataclass(frozen=True)
class ProductKind(Generic[Row, State]):
    """A kind of products: its table and its words."""

    table: type[Row]
    word: str
    """The kind's name for people."""
    path: str
    """The address of the list of them."""
    states: Mapping[ProductStage, State]
    pending: str
    """The work of its job, in a sentence that goes on with "by job ...": `it is still being checked`."""
    failure: Callable[[JobRow, str], str]
    """One sentence why it cannot be used, from the job that failed and the detail of its error."""
    deletable_while_pending: bool = True
    fault_of: Callable[[Row], str | None] = lambda product: None
    """One sentence why a product that is ready is of no use: an earlier version may have made its record."""
    shared_artifact: str | None = None
    """Name of the job's artifact that is the same file and is deleted with it."""

    def state_of(self, product: Row, job: JobRow | None) -> State:
        """The state of a product, in the kind's words."""
        return self.states[self._stage_of(product, job)]

    def trouble_of(self, product: Row, job: JobRow | None) -> str | None:
        """One sentence why it cannot be used, if it cannot."""
        match self._stage_of(product, job):
            case ProductStage.ready:
                return None
            case ProductStage.pending:
                return f"{self.pending} by job {product.job_id}"
        if product.report is not None:
            return self.fault_of(product)
        if job is None:
            return "its job was deleted before it was taken in"
        if job.error is not None:
            return self.failure(job, job.error["detail"])
        return f"its job {job.id} was {job.state.value}"

    def _stage_of(self, product: Row, job: JobRow | None) -> ProductStage:
        found = stage_of(product, job)
        return ProductStage.failed if found is ProductStage.ready and self.fault_of(product) else found

    def fields(self, product: Row, job: JobRow | None) -> dict[str, Any]:
        """The fields of a product that the API shows alike for every kind; `links` is a mapping of paths."""
        copied = ("id", "name", "size", "job_id", "created_at")
        return {
            **{name: getattr(product, name) for name in copied},
            "state": self.state_of(product, job),
            "error": self.trouble_of(product, job),
            "links": {
                "self": f"{self.path}/{product.id}",
                "job": None if product.job_id is None else f"/v1/jobs/{product.job_id}",
            },
        }

    def find(self, session: Session, project_id: str, product_id: str) -> RowAndJob[Row] | None:
        """A product of that project with its job."""
        return repository.find(session, self.table, project_id, product_id)

    def find_blob(self, session: Session, project_id: str, product_id: str) -> BlobRow | None:
        """The file of a product of that project, if it has one."""
        return repository.find_blob(session, self.table, project_id, product_id)

    def read(self, session: Session, caller: Caller, product_id: str) -> RowAndJob[Row]:
        """A product and its job. Raises NotFound, for another project's as for none."""
        return self._existing(self.find(session, caller.project_id, product_id), product_id)

    def page(self, session: Session, caller: Caller, after: Position | None, limit: int) -> Sequence[RowAndJob[Row]]:
        """The project's products with their jobs, newest first."""
        return repository.page(session, self.table, caller.project_id, after, limit)

    def made_by(self, session: Session, job: JobRow, submission: Submission) -> RowAndJob[Row]:
        """The product of a job that the same submission made before. Raises Invalid when it was deleted."""
        product = repository.of_job(session, self.table, job.id)
        if product is None:
            key = submission.idempotency_key
            detail = f"the {self.word} that the idempotency key {quote(key)} made was deleted; wanted a new key"
            raise Invalid.of([FieldError(parameter="Idempotency-Key", detail=detail, found=key)])
        return product, job

    def delete(self, session: Session, caller: Caller, product_id: str) -> None:
        """Remove a product that no job goes on to use, with its bytes. Raises NotFound and Conflict."""
        found = repository.lock(session, self.table, caller.project_id, product_id)
        product, job = self._existing(found, product_id)
        if not self.deletable_while_pending and stage_of(product, job) is ProductStage.pending:
            raise Conflict(f"{self.word} {product_id} is being taken in by job {product.job_id}, so cancel that first")
        check_unused(session, caller.project_id, product_id)
        self.forget(session, product)
        if product.blob_id is not None:
            drop_unreferenced(session, [product.blob_id])

    def forget(self, session: Session, product: Row) -> None:
        """Delete a product; its bytes are swept later."""
        repository.remove(session, product)
        if product.job_id is not None and self.shared_artifact is not None:
            remove_artifact(session, product.job_id, self.shared_artifact)

    def _existing(self, found: RowAndJob[Row] | None, product_id: str) -> RowAndJob[Row]:
        if found is None:
            raise NotFound(f"there is no {self.word} {quote(product_id)}")
        return found
