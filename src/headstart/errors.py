"""The errors that headstart raises: what happened, where, and what to do about it."""

from __future__ import annotations


class HeadstartError(Exception):
    """An error that a person can act on.

    `message` says what happened and where (the file, the row, the class); `hint` says what to do.
    `code` is the stable word that the command line prints in `error[CODE]:`; `exit_code` is what
    the process ends with.
    """

    code = "ERROR"
    exit_code = 1

    def __init__(self, message: str, hint: str = "", *, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if code is not None:
            self.code = code

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class UsageError(HeadstartError):
    """An option or an argument has no meaning here."""

    code = "USAGE"
    exit_code = 2


class DataError(HeadstartError):
    """A picture, a label or a whole collection cannot be used; `code` is a reason code."""

    code = "BAD_DATA"
    exit_code = 65


class InputMissingError(HeadstartError):
    """What was to be read is not there."""

    code = "NO_INPUT"
    exit_code = 66


class OutputError(HeadstartError):
    """The output cannot be created where it was asked for."""

    code = "CANNOT_CREATE"
    exit_code = 73


class StorageError(HeadstartError):
    """Reading or writing failed: a full disk, a device error, a network that does not answer."""

    code = "IO"
    exit_code = 74


class StoppedError(HeadstartError):
    """The work stopped before its end and what was done is kept."""

    code = "STOPPED"
    exit_code = 75


class OutOfMemoryError(StoppedError):
    """Memory ran out and smaller parts do not help; what was done is kept."""

    code = "OUT_OF_MEMORY"


class DeviceLostError(StoppedError):
    """The device failed; this process cannot use it again, and what was saved is kept."""

    code = "DEVICE_LOST"


class LostRankError(StoppedError):
    """Another of the processes that train together has ended; what was saved is kept."""

    code = "RANK_LOST"


class ConfigError(HeadstartError):
    """A plan, a weights file or a bundle is not what it must be."""

    code = "BAD_CONFIG"
    exit_code = 78
