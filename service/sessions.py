"""FastAPI's way to the database. A session takes a connection when it first asks something, not before."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends
from sqlalchemy.orm import Session

from service.db import request_reading, request_transaction

TransactionDep = Annotated[Session, Depends(request_transaction, scope="function")]
"""The request's one transaction, committed before the answer leaves."""
ReadingDep = Annotated[Session, Depends(request_reading, scope="function")]
"""A session for a request that only reads."""
