"""
What the tests of faults share: programs that run many times with a fault each (fault.c), folders compared but for times, and a disk
that forgets what was not synced.
"""

import array
import errno
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import tool

BUILD, SOURCE = Path(os.environ["BUILD_DIR"]), Path(os.environ["SOURCE_DIR"])
TINY = SOURCE / "tests" / "data" / "tiny"
COMMON = ["--threads", "1", "--device", "cpu"]
AGAIN = {"resume", "overwrite"}     # in a config.json, how the program was started


# ---- programs ----

LIBRARY = BUILD / "tests" / "libfault.so"
if not LIBRARY.exists():
    print(f"skipped: no {LIBRARY.name}, which is for x86-64 alone", file=sys.stderr)
    sys.exit(77)


class Server:
    """A program that is loaded once and runs in a child for each case (fault.c)."""

    def __init__(self, program, scratch):
        self.said, self.calls = scratch / "said", scratch / "calls"
        self.process = subprocess.Popen([program if os.path.isabs(program) else BUILD / program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        env=os.environ | {"OMP_NUM_THREADS": "1", "LD_PRELOAD": str(LIBRARY)})

    def run(self, argv, folder="", calls="", at=0, kind="-"):
        """(exit code, what it said)"""
        fields = [self.said, folder, calls, at, kind, *argv]
        self.process.stdin.write("\t".join(map(str, fields)) + "\n")
        self.process.stdin.flush()
        code = int(self.process.stdout.readline())
        return code, self.said.read_text("utf-8", "replace")

    def record(self, argv, folder):
        """The calls of a run that nothing disturbs."""
        code, said = self.run(argv, folder, self.calls)
        assert code == 0, said
        return list(read_calls(self.calls))

    def allocations(self, argv):
        """Numbers of the first, a middle and the last allocation that each place of a program's code makes."""
        code, said = self.run(argv, "", self.calls, 0, "sites")
        assert code == 0, said
        places = {}
        for n, place in enumerate(array.array("Q", self.calls.read_bytes()), 1):
            places.setdefault(place, []).append(n)
        return sorted({at[i] for at in places.values() for i in (0, len(at) // 2, -1)})

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Call:
    def __init__(self, name, result, path, other, number, data):
        self.name, self.result, self.path, self.other, self.number, self.data = name, int(result), path, other, int(number), data
        self.creates = name == "open" and bool(self.number & os.O_CREAT)
        self.changes = self.creates or name in ("write", "pwrite", "fsync", "ftruncate", "rename", "mkdir", "rmdir", "unlink", "symlink", "link")


def read_calls(path):
    with open(path, "rb") as f:
        while line := f.readline():
            *fields, size = line.decode().rstrip("\n").split("\t")
            yield Call(*fields, f.read(int(size)))


def kinds(call):
    """The faults that a call may meet, as fault.c names them."""
    room = ["ENOSPC", "EDQUOT"] if call.creates or call.name in ("write", "pwrite", "rename", "mkdir", "symlink", "link") else []
    by_name = {"open": ["EIO", "EINTR"], "read": ["EIO", "EINTR", "short"], "write": ["EIO", "EINTR", "short", "full"],
               "pwrite": ["EIO", "EINTR", "short", "full"], "fsync": ["EIO", "EDQUOT", "EINTR"], "ftruncate": ["EIO", "EINTR"],
               "mmap": ["ENOMEM"], "mkdir": ["EIO", "full"]}
    return room + by_name.get(call.name, ["EIO"]) + ["dead"] + (["kill"] if call.changes else [])


def number(kind):
    return getattr(errno, kind) if kind.startswith("E") else kind


def reason(kind):
    """What the system says of a fault."""
    return os.strerror(getattr(errno, {"full": "ENOSPC", "dead": "EIO"}.get(kind, kind)))


# ---- what a program left ----

def without_times(value):
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if not tool.TIMINGS.search(k) and k not in AGAIN}
    return [without_times(v) for v in value] if isinstance(value, list) else value


def content(name, data):
    """What a file says but for times: bytes, or for JSON lines a list. A torn line is a text."""
    if name.endswith(".jsonl"):
        lines = []
        for line in data.splitlines(keepends=True):
            try:
                lines.append(json.dumps(without_times(json.loads(line))) + "\n" * line.endswith(b"\n"))
            except ValueError:
                lines.append(f"torn: {line!r}")
        return lines
    if name.endswith(".json"):
        try:
            return json.dumps(without_times(json.loads(data)))
        except ValueError:
            return data
    return re.sub(rb"; {1,2}\d{1,2} \w+ \d{4}, \d\d:\d\d", b"", data) if name.endswith(".html") else data


def snapshot(folder):
    """{path: content} of everything below a folder but its log."""
    found = {}
    for parent, folders, files in os.walk(folder):
        for name in folders + files:
            path = Path(parent, name)
            key = str(path.relative_to(folder))
            if path.is_symlink():
                found[key] = os.readlink(path)
            elif name != "log.txt":
                found[key] = "a folder" if path.is_dir() else content(name, path.read_bytes())
    return found


def is_final(key):
    """Not a part of something that has its name only when it is whole."""
    return not any(part.startswith(".") or part.endswith((".tmp", ".part")) for part in Path(key).parts)


def difference(one, other):
    return sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))


def restore(folder, start):
    shutil.rmtree(folder, ignore_errors=True)
    if start:
        shutil.copytree(start, folder, symlinks=True)


# ---- a disk ----

class Node:
    """A folder (a dict of nodes), a file (bytes) or a link (str): as programs see it, as the disk has it, and the states between, each
    with the number of the call that made it."""

    def __init__(self, now, kept):
        self.now, self.kept, self.since = now, kept, []

    def change(self, at, now):
        self.now = now
        self.since.append((at, now))

    def sync(self):
        self.kept, self.since = self.now, []


class Disk:
    """What a power cut leaves of a folder. A file's bytes are on the disk when it was synced, a name when its folder was."""

    def __init__(self, folder):
        self.at, self.folder, self.root = 0, Path(folder), self.load(Path(folder))

    def load(self, path):
        if path.is_symlink():
            now = os.readlink(path)
        else:
            now = {p.name: self.load(p) for p in path.iterdir()} if path.is_dir() else path.read_bytes()
        return Node(now, now)

    def find(self, path):
        node = self.root
        for part in Path(path).relative_to(self.folder).parts:
            node = node.now[part]
        return node

    def name(self, path, node):
        """Give a name to a node, or take it away."""
        folder, name = self.find(Path(path).parent), Path(path).name
        now = {k: v for k, v in folder.now.items() if k != name}
        folder.change(self.at, now | {name: node} if node else now)

    def apply(self, call):
        self.at += 1
        if call.result < 0 or not call.changes:
            return
        if call.name == "open":
            if Path(call.path).name not in self.find(Path(call.path).parent).now:
                self.name(call.path, Node(b"", b""))
            elif call.number & os.O_TRUNC:
                self.find(call.path).change(self.at, b"")
        elif call.name in ("write", "pwrite", "ftruncate"):
            file = self.find(call.path)
            start = file.now[:call.number].ljust(call.number, b"\0")
            file.change(self.at, start + call.data + file.now[call.number + len(call.data):] if call.data else start)
        elif call.name == "fsync":
            self.find(call.path).sync()
        elif call.name in ("mkdir", "symlink"):
            now = {} if call.name == "mkdir" else call.other
            self.name(call.path, Node(now, now))
        elif call.name in ("rmdir", "unlink"):
            self.name(call.path, None)
        else:
            node = self.find(call.path)
            self.name(call.other, node)
            if call.name == "rename":
                self.name(call.path, None)

    def write(self, node, path, choose):
        now = choose(node)
        if isinstance(now, dict):
            path.mkdir()
            for name, inner in now.items():
                self.write(inner, path / name, choose)
        elif isinstance(now, bytes):
            path.write_bytes(now)
        else:
            path.symlink_to(now)

    def survive(self, folder, choose):
        """What is left of a folder of this disk takes its place."""
        shutil.rmtree(folder, ignore_errors=True)
        node = choose(self.root).get(Path(folder).name)
        if node:
            self.write(node, Path(folder), choose)

    def below(self, path):
        """(path, bytes) of a file, or of all files in a folder."""
        node = self.find(path)
        if isinstance(node.now, bytes):
            yield str(path), node.now
        elif isinstance(node.now, dict):
            for name in node.now:
                yield from self.below(Path(path, name))

    # ---- what is left of a node ----

    @staticmethod
    def everything(node):
        return node.now

    @staticmethod
    def synced(node):
        """Nothing that was not synced."""
        return node.kept

    @staticmethod
    def names(node):
        """Every name, and of the bytes those that were synced."""
        return node.now if isinstance(node.now, dict) else node.kept

    def some(self, rng):
        """Names as of some moment, as a journal has them, and of each file's bytes none, all or a part, its end perhaps zeros."""
        moment = rng.randint(0, self.at)

        def choose(node):
            states = [node.kept] + [now for at, now in node.since if at <= moment]
            if not isinstance(node.now, bytes):
                return states[-1]
            now = rng.choice([node.kept, node.now, node.now])
            size = rng.choice([len(now), rng.randint(min(len(node.kept), len(now)), len(now))])
            return now[:size] + bytes(rng.choice([0, len(now) - size]))
        return choose
