"""A stand-in for ``python3`` that has imported ESPnet already, for tests of the driver.

Importing ESPnet takes longer than all that these tests do with it. :func:`serve` forks
from a process that has it; :func:`write_client` makes a command that takes what python
takes. What imports the plugin (``-m espnet_adastride.bin.run ...``) becomes a fork of
the server, in the caller's folder, with its environment, files and arguments; it is
killed when the command is, and the command ends as it ends. All else is run by python
itself.
"""

import atexit
import ctypes
import fcntl
import json
import os
import select
import signal
import socket
import sys
from contextlib import contextmanager

WARM = tuple(
    f"espnet_adastride.bin.{name}"
    for name in ("run", "asr_inference_ctc", "check_model")
)


def write_client(path, address):
    """Write the command."""
    path.write_text(
        f'#!/bin/sh\nexec "{sys.executable}" "{os.path.abspath(__file__)}" '
        f'"{address}" "$@"\n'
    )
    path.chmod(0o755)
    return path


def die_with_parent():
    """Let Linux kill this process when its parent ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)


def _files():
    """Return the numbers of this process's open files."""
    numbers = []
    for number in range(20):
        try:
            os.fstat(number)
            numbers.append(number)
        except OSError:
            pass
    return numbers


def _module(words):
    words = words[1:] if words[:1] == ["-u"] else words
    return words[1] if words[:1] == ["-m"] and len(words) > 1 else None


def main(address, words):
    """The command: ask the server, or be python."""
    if _module(words) not in WARM:
        os.execv(sys.executable, [sys.executable, *words])
    words = words[1:] if words[0] == "-u" else words
    # locked as long as we or our stand-in live: see wait_idle
    with open(f"{os.path.dirname(address)}/busy", "a") as busy:
        fcntl.flock(busy, fcntl.LOCK_SH)
        _ask(address, words, _files())


def _ask(address, words, files):
    ask = json.dumps([words, dict(os.environ), os.getcwd(), files]).encode()
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        server.sendall(len(ask).to_bytes(8, "big"))
        socket.send_fds(server, [b"f"], files)
        server.sendall(ask)
        status = int(server.recv(16) or b"-9")
    if status < 0:  # it was killed: so be we
        os.kill(os.getpid(), -status)
    sys.exit(status)


@contextmanager
def serving(folder):
    """Fork a server from this process; give the command, named ``python3``."""
    address = str(folder / "socket")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        server = os.fork()
        if server == 0:
            try:
                os.setsid()
                die_with_parent()
                serve(listener)
            finally:
                os._exit(1)
    try:
        yield write_client(folder / "python3", address)
    finally:
        os.kill(server, signal.SIGKILL)
        os.waitpid(server, 0)


def wait_idle(command):
    """Wait until no process that the command stands for lives."""
    with open(command.parent / "busy", "a") as busy:
        fcntl.flock(busy, fcntl.LOCK_EX)


def serve(listener):
    """Answer commands until the listening socket is closed; never returns."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        client, _ = listener.accept()
        if os.fork() == 0:
            try:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                listener.close()
                _attend(client)
            finally:
                os._exit(1)
        client.close()


def _receive(client, size):
    data = b""
    while len(data) < size:
        part = client.recv(size - len(data))
        if not part:
            os._exit(1)
        data += part
    return data


def _attend(client):
    """Run what a command asks for, and watch both."""
    size = int.from_bytes(_receive(client, 8), "big")
    _, files, _, _ = socket.recv_fds(client, 1, 32)
    words, environment, folder, numbers = json.loads(_receive(client, size))
    child = os.fork()
    if child == 0:
        client.close()
        _become(words, environment, folder, dict(zip(numbers, files)))
    for file in files:
        os.close(file)
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        if select.select([client], [], [], 0.02)[0]:  # the command is gone
            try:
                os.killpg(child, signal.SIGKILL)
            except ProcessLookupError:
                os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            os._exit(0)
    client.sendall(str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def _become(words, environment, folder, files):
    """Be the python that was asked for; never returns."""
    import logging
    import runpy
    import traceback
    from multiprocessing import resource_tracker

    atexit._clear()  # what is to be tidied up is the tests', not this process'
    os.setsid()
    for number in files:  # out of the way first
        files[number] = os.dup2(files[number], 100 + number, inheritable=False)
    os.closerange(3, 100)
    for number, file in files.items():
        os.dup2(file, number)
    sys.stdin, sys.stdout, sys.stderr = (open(n, m) for n, m in enumerate("rww"))
    sys.stderr.reconfigure(line_buffering=True)
    logging.root.handlers.clear()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    paths = environment.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [folder, *(p for p in paths if p and p not in sys.path)]
    resource_tracker._resource_tracker._fd = None  # it was closed above
    sys.argv = words[1:]
    status = 0
    try:
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    except SystemExit as error:
        status = error.code
        if isinstance(status, str):
            print(status, file=sys.stderr)
            status = 1
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status or 0)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
