"""A wire between a client and a server, which a test cuts, mends and holds up: real connections that really break."""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import suppress

RESET = struct.pack("ii", 1, 0)
"""Closes a connection as the kernel does for a process that was killed."""


class Wire:
    """Hands bytes on to a server on this machine. url: where clients find it."""

    def __init__(self, port: int) -> None:
        self._far, self._open, self._flows = port, set[socket.socket](), threading.Event()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.flow()
        self._accept()

    def cut(self) -> None:
        """Break all connections and refuse new ones."""
        self._close(self._listening)
        for one in list(self._open):
            with suppress(OSError):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            self._close(one)

    def mend(self) -> None:
        """Take new connections again."""
        self._listening = socket.create_server(("127.0.0.1", self.port))
        self._accept()

    def hold(self) -> None:
        """Let nothing that the server says arrive."""
        self._flows.clear()

    def flow(self) -> None:
        """Let it arrive."""
        self._flows.set()

    def _accept(self) -> None:
        threading.Thread(target=self._take, args=(self._listening,), daemon=True).start()

    def _take(self, listening: socket.socket) -> None:
        while True:
            try:
                near, _ = listening.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._far))
            self._open |= {near, far}
            for source, target in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(source, target, source is far), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, held: bool) -> None:
        try:
            while content := source.recv(1 << 16):
                if held:
                    self._flows.wait()
                target.sendall(content)
        except OSError:
            pass
        self._close(source)
        self._close(target)

    def _close(self, one: socket.socket) -> None:
        self._open.discard(one)
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
        one.close()
