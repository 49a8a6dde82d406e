"""How a command ends when it cannot do what was asked: one sentence and an exit code.

0 done; 1 refused, or the job did not succeed; 2 the command was typed wrongly; 3 nothing answers;
130 interrupted.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn, ParamSpec, TypeVar

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from retort.client import Problem

REFUSED, USAGE, UNREACHABLE, INTERRUPTED = 1, 2, 3, 130

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class CommandError(Exception):
    """A command cannot go on; its text is one sentence for people."""

    def __init__(self, sentence: str, code: int = REFUSED) -> None:
        super().__init__(sentence)
        self.code = code


def speaks(command: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Make a command end with a sentence and an exit code where it would end with a trace."""

    @functools.wraps(command)
    def spoken(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        from retort.client import ApiError, ConnectionFailed, RetortError

        try:
            return command(*args, **kwargs)
        except ApiError as error:
            tell(str(error), error.errors)
            raise typer.Exit(REFUSED) from None
        except ConnectionFailed as error:
            leave(str(error), UNREACHABLE)
        except RetortError as error:
            leave(str(error), REFUSED)
        except CommandError as error:
            leave(str(error), error.code)
        except KeyboardInterrupt:
            leave("interrupted", INTERRUPTED)

    return spoken


def leave(sentence: str, code: int) -> NoReturn:
    """Say why on stderr, and end the command."""
    tell(sentence)
    raise typer.Exit(code)


def tell(sentence: str, problems: Sequence[Problem] = ()) -> None:
    """Say on stderr what is wrong, and each wrong field under it."""
    typer.echo(f"retort: {sentence}", err=True)
    for problem in problems:
        if problem.detail != sentence:  # one problem alone is the sentence itself
            typer.echo(f"  {problem.parameter or problem.pointer or '/'}: {problem.detail}", err=True)
