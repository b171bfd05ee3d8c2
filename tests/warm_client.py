"""A process in place of a program that `tests.warm` runs as a fork: its streams and exit code."""

import json
import os
import socket
import sys
from pathlib import Path

# The fork is no child of the `ptune repro` that has started this process.
environment = {key: value for key, value in os.environ.items() if key != "PTUNE_REPRO"}
request = {
    "command": sys.argv[1:],
    "folder": str(Path.cwd()),
    "environment": environment,
    "group": os.getpgrp() if os.getsid(0) == os.getsid(os.getppid()) else None,
}
text = json.dumps(request).encode()
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect(f"{environment['PTUNE_TESTS_WARM']}/server")
    socket.send_fds(connection, [len(text).to_bytes(8, "big")], [1, 2])
    connection.sendall(text)
    with connection.makefile() as answers:
        _, code = answers
status = int(code)
sys.exit(status if status >= 0 else 128 - status)
