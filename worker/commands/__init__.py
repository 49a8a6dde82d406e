"""The operators' commands, which run beside the service and its database."""

from __future__ import annotations

from importlib.util import find_spec

import typer


def join(app: typer.Typer) -> None:
    """Add the operators' commands to the users' ones, where what they need is installed (`retort[service]`)."""
    if find_spec("sqlalchemy") is None:
        return
    from worker.commands import backup, demo, doctor, keys, up

    app.command(rich_help_panel=PANEL)(up.up)
    app.command(rich_help_panel=PANEL)(demo.demo)
    app.command(rich_help_panel=PANEL)(doctor.doctor)
    app.command(rich_help_panel=PANEL)(backup.backup)
    app.command(rich_help_panel=PANEL)(backup.restore)
    app.command(rich_help_panel=PANEL)(backup.disown)
    keys.join()


PANEL = "For operators, beside the service"
