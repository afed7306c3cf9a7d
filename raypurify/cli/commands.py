"""How a command is made: its help ends with its exit codes and an example, and programs can read what it made."""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from raypurify.cli.outcome import tell

DONE = "all done"
PARTLY = "done, but images failed or files of the input are damaged, and are named"


def _hush(quiet: bool) -> bool:
    from raypurify.runtime.events import quieten

    quieten(quiet)
    return quiet


# Whether it is there ``main`` looks itself: a command line that is wrong is answered in JSON too.
Json = Annotated[
    bool, typer.Option("--json", help="Print one line of JSON on standard output, and all else on standard error.")
]
Quiet = Annotated[
    bool, typer.Option("--quiet", callback=_hush, help="Show no progress: warnings, errors and the result alone.")
]


class Commands(TyperGroup):
    """All commands; what is wrong with a command line, which ends the process where it is found, is told before."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command of a context, as its base does."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            # Typer has these from Click, or its own copies of them.
            if hasattr(error, "format_message"):
                tell(error=" ".join(error.format_message().split()))
            raise


def command(
    app: typer.Typer,
    function: Callable[..., None],
    example: str,
    *,
    done: str = DONE,
    partly: str = "",
    again: str = "",
    progress: bool = True,
    result: bool = True,
) -> None:
    """Add a command to ``app``: a function with an example of its call.

    ``done`` and ``partly`` say what the exit codes 0 and 1 mean (without ``partly`` there is no 1), ``again`` what the
    same command does after an interruption. A command with a ``result`` takes ``--json``, one that shows ``progress``
    ``--quiet``.
    """
    codes = [f"0 {done}", *[f"1 {partly}"] * bool(partly), "2 not done, one line says why"]
    codes.append(f"130 interrupted{', ' * bool(again)}{again}")
    options = {"as_json": Json} if result else {}
    options |= {"quiet": Quiet} if progress else {}
    epilog = f"Exit codes: {'; '.join(codes)}.\n\nExample: {example}"
    app.command(function.__name__.replace("_", "-"), epilog=epilog)(_with(function, options))


def _with(function: Callable[..., None], options: dict[str, Any]) -> Callable[..., None]:
    """The function with more options, which it is not given: they act by themselves."""

    @wraps(function)
    def called(**given: Any) -> None:
        function(**{name: value for name, value in given.items() if name not in options})

    signature = inspect.signature(function)
    more = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False) for name in options]
    more = [one.replace(annotation=options[one.name]) for one in more]
    called.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *more])  # type: ignore[attr-defined]
    called.__annotations__ = function.__annotations__ | options
    return called
