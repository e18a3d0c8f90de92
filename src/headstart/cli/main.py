"""The entry point: runs a command and turns whatever goes wrong into one line and an exit code."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
from collections.abc import Iterator, Sequence

import typer

from headstart.cli.together import own_rank, taking_part
from headstart.errors import HeadstartError
from headstart.training.interrupts import Terminated, second_signal_ends, termination_raised

# typer carries a click of its own, whose exceptions it names only in part: all that is wrong with
# arguments descends from the parent of BadParameter.
BadArguments = typer.BadParameter.__bases__[0]

EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143
EXIT_IO = 74
EXIT_USAGE = 2
EXIT_INTERNAL = 70


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    # Threads that wait by spinning starve those that read pictures: with other work on two cores a
    # training step of mobilenetv2_100 took 2.8-5.8 s spinning and 0.6-1.3 s waiting. Torch reads this
    # when it is first imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    given = list(sys.argv[1:] if arguments is None else arguments)
    with _with_streams():
        code = run(given)
    sys.exit(code)


@contextlib.contextmanager
def _with_streams() -> Iterator[None]:
    """Let output go nowhere where a shell has closed stdout or stderr: Python has None there then."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.ExitStack() as stack:
        if sys.stdout is None:
            stack.enter_context(contextlib.redirect_stdout(nowhere))
        if sys.stderr is None:
            stack.enter_context(contextlib.redirect_stderr(nowhere))
        yield


def run(arguments: list[str]) -> int:
    """Run the command line and return its exit code; errors become one line, without a traceback."""
    from headstart.cli.commands import app

    debug = "--debug" in arguments
    as_json = "--json" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"] or ["--help"]
    try:
        with second_signal_ends(), termination_raised(), taking_part(arguments):
            code = app(arguments, standalone_mode=False)
        if sys.stdout is not None:
            # Here, and not at the interpreter's exit, where a reader that has gone is a complaint.
            sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except HeadstartError as error:
        if debug:
            raise
        return _fail(error.code, error.message, _with_notes(error.hint, error), error.exit_code, as_json)
    except typer.Exit as stop:
        return stop.exit_code
    except (typer.Abort, KeyboardInterrupt) as error:
        terminated = Terminated in (type(error), type(error.__cause__))
        code = EXIT_TERMINATED if terminated else EXIT_INTERRUPTED
        hint = "a run that has begun goes on with: headstart resume RUN"
        return _fail("INTERRUPTED", "stopped before the end", hint, code, as_json)
    except BrokenPipeError:
        # The reader of our output has gone; the interpreter must not complain about it at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if debug:
            raise
        machine = _fault_of_the_machine(error)
        if machine is not None:
            return _fail(machine.code, _first_line(error), machine.hint, machine.exit_code, as_json)
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        hint = "free some disk space" if full else "run again with --debug to see where"
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        return _fail("IO", what, hint, EXIT_IO, as_json)
    except Exception as error:
        if isinstance(error, BadArguments):
            names = [command.name for command in app.registered_commands]
            names += [group.name for group in app.registered_groups]
            known = arguments[0] in names
            hint = f"see headstart {arguments[0]} --help" if known else "see headstart --help"
            return _fail("USAGE", str(error), hint, EXIT_USAGE, as_json)
        if debug:
            raise
        machine = _fault_of_the_machine(error)
        if machine is not None:
            hint = _with_notes(machine.hint, error)
            return _fail(machine.code, _first_line(error), hint, machine.exit_code, as_json)
        return _fail(
            "INTERNAL",
            _first_line(error),
            _with_notes("this is a fault of headstart: run again with --debug", error),
            EXIT_INTERNAL,
            as_json,
        )


def _with_notes(hint: str, error: Exception) -> str:
    """Return a hint, and what was noted on the error on its way: where training is kept, perhaps."""
    return "; ".join(filter(None, (hint, *getattr(error, "__notes__", ()))))


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]


def _fault_of_the_machine(error: Exception) -> HeadstartError | None:
    """Return what to say of memory that ran out or a device that failed outside of training's own care."""
    from headstart.errors import DeviceLostError, OutOfMemoryError
    from headstart.faults import is_device_failure, is_out_of_memory

    if is_out_of_memory(error):
        return OutOfMemoryError(
            "",
            "allow more memory (ulimit -v), or ask for less: --batch-size 8, --threads 1, --cache none",
        )
    if is_device_failure(error):
        return DeviceLostError("", "run again in a new process, if need be with --device cpu")
    return None


def _fail(code: str, message: str, hint: str, exit_code: int, as_json: bool) -> int:
    rank = own_rank()
    if as_json and rank == 0:
        print(json.dumps({"error": {"code": code, "message": message, "hint": hint}}))
    who = f"[rank {rank}] " if rank else ""
    print(_printable(f"{who}error[{code}]: {message}"), file=sys.stderr)
    if hint:
        print(_printable(f"hint: {hint}"), file=sys.stderr)
    return exit_code


def _printable(text: str) -> str:
    """Return text on one line that any terminal can print: names may hold line breaks and worse."""
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    encoding = sys.stderr.encoding or "utf-8"
    return text.encode(encoding, errors="backslashreplace").decode(encoding)
