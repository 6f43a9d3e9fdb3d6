"""A debugger's client as an editor has one, over the Debug Adapter Protocol.

https://microsoft.github.io/debug-adapter-protocol
"""

import json
import os
import queue
import shlex
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import IO, Any

Message = dict[str, Any]


class Client:
    """A conversation with a debug adapter; a wait ends after some seconds, with what was said until then."""

    def __init__(self, reader: IO[bytes], writer: IO[bytes], patience: float = 60) -> None:
        """Speak by streams of bytes."""
        self.writer = writer
        self.patience = patience
        self.terminals: list[subprocess.Popen[bytes]] = []
        self.numbers = count(1)
        self.heard: list[Message] = []
        self.inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self.listener = threading.Thread(target=self._listen, args=(reader,), daemon=True)
        self.listener.start()

    def request(self, command: str, **arguments: Any) -> None:  # noqa: ANN401 - JSON
        """Ask for something."""
        self._send({"type": "request", "command": command, "arguments": arguments})

    def wait(self, **wanted: object) -> Message:
        """The next message that has these values; on the way, open the terminals that are asked for."""
        while True:
            try:
                message = self.inbox.get(timeout=self.patience)
            except queue.Empty:
                raise AssertionError(f"no {wanted} in {self.patience} s, but {self.heard}") from None
            self.heard.append(message)
            assert message.get("success", True), message
            assert message.get("event") != "terminated", f"it ended before {wanted}: {self.heard}"
            if message.get("command") == "runInTerminal":
                self._open_terminal(message)
            if wanted.items() <= message.items():
                return message

    def end(self) -> None:
        """End what is debugged, and wait for it."""
        self.request("disconnect", terminateDebuggee=True)
        for process in self.terminals:
            process.wait(timeout=self.patience)

    def _send(self, message: Message) -> None:
        body = json.dumps({"seq": next(self.numbers), **message}).encode()
        self.writer.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
        self.writer.flush()

    def _listen(self, reader: IO[bytes]) -> None:
        with suppress(ConnectionError):  # the process may be killed while it is listened to
            while header := reader.readline():
                reader.readline()
                self.inbox.put(json.loads(reader.read(int(header.partition(b":")[2]))))

    def _open_terminal(self, asked: Message) -> None:
        arguments = asked["arguments"]
        env = {key: value for key, value in {**os.environ, **arguments.get("env", {})}.items() if value is not None}
        quiet = subprocess.DEVNULL
        command = arguments["args"]
        if arguments.get("argsCanBeInterpretedByShell"):
            command = shlex.split(" ".join(command))
        process = subprocess.Popen(command, cwd=arguments["cwd"], env=env, stdout=quiet, stderr=quiet)
        self.terminals.append(process)
        answer = {"type": "response", "request_seq": asked["seq"], "success": True, "command": "runInTerminal"}
        self._send({**answer, "body": {"processId": process.pid}})


@contextmanager
def client(configuration: Mapping[str, Any]) -> Iterator[Client]:
    """A client of the adapter for a configuration: one that waits at an address, else debugpy's own, started here."""
    if "connect" in configuration:
        address = (configuration["connect"]["host"], configuration["connect"]["port"])
        with socket.create_connection(address) as line, line.makefile("rb") as reader, line.makefile("wb") as writer:
            made = Client(reader, writer)
            try:
                yield made
            finally:
                with suppress(OSError):  # the other side has closed it already
                    line.shutdown(socket.SHUT_RDWR)
                made.listener.join()
        return
    command = [sys.executable, "-m", "debugpy.adapter"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        try:
            yield Client(process.stdout, process.stdin)
        finally:
            process.kill()


def first_stop(configuration: Mapping[str, Any], breakpoints: Mapping[Path, int]) -> tuple[Path, int]:
    """Start a configuration with breakpoints, one a file; return the file and the line of the first stop."""
    with client(configuration) as editor:
        try:
            able = {"supportsRunInTerminalRequest": True, "supportsArgsCanBeInterpretedByShell": True}
            editor.request("initialize", adapterID="debugpy", pathFormat="path", **able)
            editor.wait(command="initialize")
            editor.request(configuration["request"], **configuration)
            editor.wait(event="initialized")
            for path, line in breakpoints.items():
                editor.request("setBreakpoints", source={"path": str(path)}, breakpoints=[{"line": line}])
                editor.wait(command="setBreakpoints")
            editor.request("configurationDone")
            stopped = editor.wait(event="stopped")["body"]
            assert stopped["reason"] == "breakpoint", stopped
            editor.request("stackTrace", threadId=stopped["threadId"])
            frame = editor.wait(command="stackTrace")["body"]["stackFrames"][0]
            return Path(frame["source"]["path"]), frame["line"]
        finally:
            editor.end()
