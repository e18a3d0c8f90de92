"""What a piece of work asks of the system, by strace: each call noted, failed, or the process killed there.

The work runs in a child of this process, which waits until strace is attached: so the first call that is
counted is the first of the work.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.unit.training.faulty_disks import File, Folder, PowerLoss

from headstart.errors import HeadstartError

# All that changes a folder, makes it last, or opens something; some processors have not all of them.
CALLS = (
    "open", "openat", "creat", "write", "pwrite64", "ftruncate", "fsync", "fdatasync", "mkdir", "mkdirat",
    "rename", "renameat", "renameat2", "unlink", "unlinkat", "rmdir",
)  # fmt: skip
_LINE = re.compile(r"^\d+\s+(\w+)\((.*)\)\s+= (-?\d+)")
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')


@dataclass(frozen=True)
class Call:
    """A call to the system: its name, the how-manieth of that name it was, its texts, what it returned."""

    name: str
    number: int
    arguments: str
    returned: int

    @property
    def texts(self) -> list[bytes]:
        return [bytes.fromhex(text.replace("\\x", "")) for text in _TEXT.findall(self.arguments)]

    @property
    def handle(self) -> int:
        return int(re.match(r"\d+", self.arguments)[0])


def strace_works() -> str:
    """Return "" where strace can watch a child of this process, else why it cannot."""
    if shutil.which("strace") is None:
        return "strace is not installed (apt-get install strace): calls are failed in the writer alone"
    try:
        return "" if traced(lambda: 0)[0] == 0 else "strace may not watch a process here (ptrace)"
    except OSError as error:
        return f"strace cannot be started: {error}"


def traced(work: Callable[[], int], inject: str = "") -> tuple[int, list[Call]]:
    """Run `work` in a child, under strace with a fault to inject; return how it ended and what it called."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 70
        try:
            os.read(reading, 1)
            code = work()
        except HeadstartError as error:
            code = error.exit_code
        finally:
            os._exit(code)
    names = ",".join(f"?{name}" for name in CALLS)
    command = ["strace", "-f", "-xx", "-s", "10000000", "-o", "/dev/stdout", "-e", f"trace={names}"]
    command += ["-e", "signal=none", *(["-e", f"inject={inject}"] if inject else []), "-p", str(child)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as strace:
        assert strace.stderr is not None
        attached = "attached" in strace.stderr.readline()
        os.write(writing, b"." if attached else b"")
        os.close(writing)
        os.close(reading)
        told, _ = strace.communicate(timeout=60)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return (ended if attached else 70), list(_calls(told))


def _calls(told: str) -> Iterator[Call]:
    counted: Counter[str] = Counter()
    for line in told.splitlines():
        match = _LINE.match(line)
        if match:
            counted[match[1]] += 1
            yield Call(match[1], counted[match[1]], match[2], int(match[3]))


class Replay(PowerLoss):
    """Builds from calls what a loss of power would leave; nothing is done to the disk.

    `files`: what is open, by its handle.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.open: dict[int, Path] = {}

    def _node(self, path: Path) -> File | Folder:
        return self.top if path == self.root else self._folder(path.parent).shown[path.name]

    def apply(self, call: Call) -> bool:
        """Take in one call; return whether it changed anything below the root."""
        if call.returned < 0:
            return False
        if call.name in ("write", "pwrite64", "fsync", "fdatasync", "ftruncate"):
            path = self.open.get(call.handle)
            return path is not None and self._apply_to_file(call, path)
        paths = [self._whole(call, text) for text in call.texts]
        if call.name in ("open", "openat", "creat"):
            self.open[call.returned] = paths[0]
        if self.root not in paths[0].parents:
            return False
        names = self._folder(paths[0].parent).shown
        match call.name:
            case "open" | "openat" | "creat":
                if paths[0].name in names:
                    return False
                names[paths[0].name] = File()
            case "mkdir" | "mkdirat":
                names[paths[0].name] = Folder()
            case "rename" | "renameat" | "renameat2":
                self._folder(paths[1].parent).shown[paths[1].name] = names.pop(paths[0].name)
            case _:
                names.pop(paths[0].name)
        return True

    def _whole(self, call: Call, text: bytes) -> Path:
        """Return the path that a call names, which may begin at an open folder."""
        named = Path(os.fsdecode(text))
        begins = re.match(r"\d+", call.arguments)
        return named if begins is None or named.is_absolute() else self.open[int(begins[0])] / named

    def _apply_to_file(self, call: Call, path: Path) -> bool:
        if path != self.root and self.root not in path.parents:
            return False
        node = self._node(path)
        if isinstance(node, Folder):
            node.synced = dict(node.shown)
        elif call.name in ("fsync", "fdatasync"):
            node.synced = node.content
        else:
            assert call.name == "write", call
            node.content += call.texts[0][: call.returned]
        return True
