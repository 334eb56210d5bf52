"""Command line: every module of this package is one command, but those whose names begin with ``_``."""

from __future__ import annotations

import argparse
import functools
import importlib
import os
import pkgutil
import signal
import sys
import warnings
from collections.abc import Callable, Sequence

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``vidops COMMAND ...`` and return its exit status.

    Each module ``vidops/cli/<command>.py`` gives ``HELP``, ``add_arguments(parser)`` and ``run(args)``.
    Errors a user can mend are one line on standard error and status 2; ``--traceback`` shows where they arose.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="vidops", description="Fused video operators and action-recognition models."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    names = sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))
    # A command's module is imported only when it is called or when help over all of them is asked for.
    chosen = [argv[0]] if argv and argv[0] in names else names
    modules = {}
    for name in chosen:
        module = importlib.import_module(f"{__name__}.{name}")
        command = commands.add_parser(name, help=module.HELP, description=module.HELP)
        command.add_argument("--traceback", action="store_true", help="show where an error arose")
        module.add_arguments(command)
        modules[name] = module
    args, unknown = parser.parse_known_args(argv)
    if hasattr(
        args, "overrides"
    ):  # argparse takes the first run of key=value alone, not those behind a later option
        args.overrides += [word for word in unknown if "=" in word and not word.startswith("-")]
        unknown = [word for word in unknown if "=" not in word or word.startswith("-")]
    if unknown:  # with the usage of the command itself, where the options are
        chosen_parser = getattr(args, "parser", commands.choices[args.command])
        chosen_parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    format_others = warnings.formatwarning
    warnings.formatwarning = functools.partial(_format_warning, args.command, format_others)
    try:
        status = int(modules[args.command].run(args))
        sys.stdout.flush()  # or a closed pipe would be told by the interpreter's end
        return status
    except BrokenPipeError:  # who read the output, such as head, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt as interrupt:
        print(": ".join([f"vidops {args.command}: interrupted", *map(str, interrupt.args)]), file=sys.stderr)
        return 130
    except (ValueError, TypeError, OSError, ImportError, RuntimeError) as error:
        if args.traceback:
            raise
        print(f"vidops {args.command}: error: {error}", file=sys.stderr)
        return 2
    except Exception as error:
        # What fails when CUDA starts, as VIDOPS_TUNING of another GPU; behind the first line PyTorch tells who asked.
        if args.traceback or type(error).__name__ != "DeferredCudaCallError":
            raise
        print(f"vidops {args.command}: error: {str(error).splitlines()[0]}", file=sys.stderr)
        return 2
    finally:
        warnings.formatwarning = format_others


def _format_warning(
    command: str,
    others: Callable[..., str],
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,
) -> str:
    """Give a warning of vidops as one line without its place in the code; others as they are."""
    if os.path.abspath(filename).startswith(os.path.join(_PACKAGE, "")):
        return f"vidops {command}: warning: {message}\n"
    return others(message, category, filename, lineno, line)
