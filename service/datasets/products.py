"""Data sets as products: the words of their kind."""

from __future__ import annotations

from retort.ingest import ARCHIVE
from service.datasets.models import DatasetRow, DatasetState, fault_of
from service.products.models import ProductStage
from service.products.service import ProductKind

PRODUCTS = ProductKind(
    table=DatasetRow,
    word="data set",
    path="/v1/datasets",
    states={
        ProductStage.pending: DatasetState.ingesting,
        ProductStage.ready: DatasetState.ready,
        ProductStage.failed: DatasetState.failed,
    },
    pending="it is still being taken in",
    failure=lambda job, detail: f"its job {job.id} failed: {detail}",
    fault_of=fault_of,
    deletable_while_pending=False,
    shared_artifact=ARCHIVE,
)
