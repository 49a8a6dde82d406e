"""Models as products: the words of their kind."""

from __future__ import annotations

from service.models.models import ModelRow, ModelState
from service.products.models import Stage
from service.products.service import ProductKind

PRODUCTS = ProductKind(
    table=ModelRow,
    word="model",
    path="/v1/models",
    states={Stage.pending: ModelState.checking, Stage.ready: ModelState.ready, Stage.failed: ModelState.refused},
    pending="it is still being checked",
    failure=lambda job, detail: detail,
)
