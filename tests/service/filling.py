"""Rows for every table of a database, made from its reflected schema: no revision needs test code of its own."""

from __future__ import annotations

import random
import string
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Engine

ROWS = 12
CHUNK_BYTES = 1 << 20
TEXTS = ("", "plain", 'quo\'te "double" \\ % ? :name', "Größe 蒸留 🧪 e\u0301", "line\nbreak\ttab", "null", "{}")
JSON_VALUES: tuple[Any, ...] = (
    {}, [], "text", 0, -1.5e-300, 1.7976931348623157e308, 0.1, 2**53 + 1, True, False, {"ü": [None, {"": "🧪"}]},
    {"text": "quo'te \"double\" \\ \n", "deep": {"deeper": [[1], [2.5, "蒸留"]]}},
)  # fmt: skip

RENAMED = {
    "jobs": {"recipe": "spec"},
    "projects": {
        f"keep_{thing}_days": f"{thing}_retention_days" for thing in ("jobs", "datasets", "models", "uploads")
    },
}
"""Columns that migrations gave other names, by table: a snapshot has the newest."""

Rows = list[dict[str, Any]]
Snapshot = dict[str, dict[str, list[Any]]]
"""By table and column, the values of all rows."""


def tables_of(connection: Connection) -> sa.MetaData:
    """All tables but the migrations' own, as the database describes them."""
    tables = sa.MetaData()

    @sa.event.listens_for(tables, "column_reflect")
    def reflect(inspector: Any, table: sa.Table, column: Any) -> None:
        if isinstance(column["type"], sa.JSON):
            column["type"] = sa.JSON(none_as_null=column["nullable"])

    tables.reflect(connection, only=lambda name, _: name != "alembic_version")
    return tables


def fill(engine: Engine, seed: int = 0) -> None:
    """Put rows into every table: values of every kind, nulls wherever they may be, references to rows that exist."""
    chance = random.Random(seed)
    with engine.begin() as connection:
        tables = tables_of(connection)
        made: dict[str, Rows] = {}
        for table in tables.sorted_tables:
            made[table.name] = [_row(table, number, made, chance) for number in range(ROWS)]
            for row in made[table.name]:
                connection.execute(sa.insert(table), row)


def snapshot(engine: Engine) -> Snapshot:
    """All values of all tables, in the order of their primary keys; columns by their newest names."""
    with engine.connect().execution_options(retort_reads=True) as connection:
        return {table.name: _columns(connection, table) for table in tables_of(connection).sorted_tables}


def shared(snapshot: Snapshot, other: Snapshot) -> Snapshot:
    """As much of a snapshot as the other has tables and columns for."""
    return {
        name: {column: values for column, values in columns.items() if column in other[name]}
        for name, columns in snapshot.items()
        if name in other
    }


def _columns(connection: Connection, table: sa.Table) -> dict[str, list[Any]]:
    keys = [key.name for key in table.primary_key.columns]
    rows = sorted(connection.execute(sa.select(table)).mappings(), key=lambda row: [row[key] for key in keys])
    names = RENAMED.get(table.name, {})
    return {names.get(column.name, column.name): [row[column.name] for row in rows] for column in table.columns}


def _row(table: sa.Table, number: int, made: dict[str, Rows], chance: random.Random) -> dict[str, Any]:
    return {column.name: _value(table, column, number, made, chance) for column in table.columns}


def _value(
    table: sa.Table, column: sa.Column[Any], number: int, made: dict[str, Rows], chance: random.Random
) -> object:
    if column.nullable and number % 3 == 0:
        return None
    for key in column.foreign_keys:
        # Each parent once, in turn: pairs of a parent and a number are unique, whatever else is.
        return made[key.column.table.name][number][key.column.name]
    match column.type:
        case sa.Boolean():
            return bool(number % 2)
        case sa.BigInteger():
            return chance.choice((0, -1, 2**63 - 1, -(2**63))) if number % 2 else number
        case sa.Integer():
            return chance.choice((number, -number, 10**9, -(10**9)))
        case sa.Float():
            return chance.choice((0.0, -1.5, 0.1, 1.7e308, 5e-324, 1.7e9 + number / 3))
        case sa.JSON():
            return JSON_VALUES[number % len(JSON_VALUES)]
        case sa.LargeBinary():
            return chance.randbytes((0, 1, CHUNK_BYTES)[number % 3])
        case sa.String():
            mark = "".join(chance.choices(string.ascii_letters, k=8))
            return f"{mark}{number}{TEXTS[number % len(TEXTS)]}"[: column.type.length]
    raise TypeError(f"{table.name}.{column.name} is {column.type!r}; wanted a kind that rows can be made for")
