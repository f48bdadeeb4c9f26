"""Runs Python commands in forked copies of one process that has the slow imports behind it.

Fifty commands that each import torch and diffusers would take minutes before they did anything.
A command here starts as `python` would start it: by its file, its module or `-c`, as `__main__`,
with its own arguments, folder, environment, and standard streams.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import signal
import socket
import sys
import traceback
from pathlib import Path


def main() -> None:
    """Serve at the socket named by the first argument until the process is ended."""
    import matplotlib

    matplotlib.use("Agg")
    for name in ("ris.cli", "ris.engine.train", "ris.engine.evaluate", "ris.predictor"):
        importlib.import_module(name)

    # Children clear up after themselves.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(sys.argv[1])
        door.listen(16)
        while True:
            line, _ = door.accept()
            if os.fork() == 0:
                door.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                answer(line)
                os._exit(0)
            line.close()


def answer(line: socket.socket) -> None:
    """Run one command in a child, wait for it, and send its exit code as one byte."""
    head, streams, _, _ = socket.recv_fds(line, 8, 3)
    left, text = int.from_bytes(head, "big"), b""
    while len(text) < left:
        text += line.recv(left - len(text))
    asked = json.loads(text)
    child = os.fork()
    if child == 0:
        for place, stream in enumerate(streams):
            os.dup2(stream, place)
        os._exit(run(asked))
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    line.sendall(bytes([code if code >= 0 else 128 - code]))


def run(asked: dict) -> int:
    """The exit code of `python ARGV...`."""
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    first, *rest = asked["argv"]
    code = 0
    try:
        if first == "-m":
            sys.argv = rest
            sys.path.insert(0, asked["cwd"])
            sys.modules.pop(rest[0], None)  # imported already: runpy would warn
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        elif first == "-c":
            sys.argv = ["-c", *rest[1:]]
            sys.path.insert(0, asked["cwd"])
            exec(compile(rest[0], "<snippet>", "exec"), {"__name__": "__main__"})
        else:
            sys.argv = [first, *rest]
            sys.path.insert(0, str(Path(first).resolve().parent))
            runpy.run_path(first, run_name="__main__")
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code


if __name__ == "__main__":
    main()
