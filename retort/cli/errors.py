"""Errors of commands: one sentence on stderr and an exit code.

0 done; 1 refused, or the job did not succeed; 2 wrong usage; 3 the service cannot be reached; 130 interrupted.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn, ParamSpec, TypeVar

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from retort.client import ProblemInfo

REFUSED, USAGE, UNREACHABLE, INTERRUPTED = 1, 2, 3, 130

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class CommandError(Exception):
    """A command cannot go on; the text is one sentence."""

    def __init__(self, sentence: str, code: int = REFUSED) -> None:
        super().__init__(sentence)
        self.code = code


def report_errors(command: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Decorate a command: an error ends it with a sentence and an exit code, not with a traceback."""

    @functools.wraps(command)
    def wrapper(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        from retort.client import ApiError, RetortError, UnreachableError

        try:
            return command(*args, **kwargs)
        except ApiError as error:
            print_error(str(error), error.errors)
            raise typer.Exit(REFUSED) from None
        except UnreachableError as error:
            exit_with(str(error), UNREACHABLE)
        except RetortError as error:
            exit_with(str(error), REFUSED)
        except CommandError as error:
            exit_with(str(error), error.code)
        except KeyboardInterrupt:
            exit_with("interrupted", INTERRUPTED)

    return wrapper


def exit_with(sentence: str, code: int) -> NoReturn:
    """Print a sentence on stderr and end the command. Raises typer.Exit."""
    print_error(sentence)
    raise typer.Exit(code)


def print_error(sentence: str, problems: Sequence[ProblemInfo] = ()) -> None:
    """Print a sentence on stderr, and each wrong field under it."""
    from retort.cli.screen import print_line

    print_line(f"retort: {sentence}", err=True)
    for problem in problems:
        if problem.detail != sentence:  # one problem alone is the sentence itself
            print_line(f"  {problem.parameter or problem.pointer or '/'}: {problem.detail}", err=True)
