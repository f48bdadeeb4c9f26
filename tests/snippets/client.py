"""Stands in for `python` and `ris` in a sandbox: hands its command to `server.py`, which has torch
and the rest loaded, and ends with that command's code."""

import json
import os
import socket
import sys

with socket.socket(socket.AF_UNIX) as line:
    line.connect(os.environ["SNIPPET_SERVER"])
    asked = {"argv": sys.argv[1:], "cwd": os.getcwd(), "env": dict(os.environ)}
    text = json.dumps(asked).encode()
    socket.send_fds(line, [len(text).to_bytes(8, "big")], [0, 1, 2])
    line.sendall(text)
    code = line.recv(1)
# An empty answer: the process behind it was killed.
sys.exit(code[0] if code else 137)
