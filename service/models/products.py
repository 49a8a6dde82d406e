"""Models as products: the words of their kind."""

from __future__ import annotations

from service.models.models import ModelRow, ModelState, fault_of
from service.products.models import ProductStage
from service.products.service import ProductKind

PRODUCTS = ProductKind(
    table=ModelRow,
    word="model",
    path="/v1/models",
    states={
        ProductStage.pending: ModelState.checking,
        ProductStage.ready: ModelState.ready,
        ProductStage.failed: ModelState.refused,
    },
    pending="it is still being checked",
    failure=lambda job, detail: detail,
    fault_of=fault_of,
)
