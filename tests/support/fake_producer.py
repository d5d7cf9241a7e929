"""A minimal producer, which can be made to misbehave."""

import contextlib
import json
import os
import socket
from pathlib import Path

from support.rig import ETHERNET, PAGE
from zbuf.shared.memory.layout import Layout
from zbuf.shared.memory.pcapng import Interface, prologue
from zbuf.shared.memory.reader_pages import make_ack_page, make_doorbell
from zbuf.shared.memory.segment import Segment


class FakeProducer:
    """A producer with one segment and one reader; a test can change its answer and its file descriptors."""

    def __init__(self, name: str, run_dir: Path) -> None:
        self.cleaning = contextlib.ExitStack()
        blocks = prologue([Interface("lab0", ETHERNET)], 262_144, "a test")
        self.segment = Segment(Layout(name, "1", 7, PAGE, len(blocks), 262_144), blocks)
        self.cleaning.callback(self.segment.remove)
        self.segment.open()
        self.ack_fd, _ = make_ack_page()
        self.bell, self.doorbell = make_doorbell()
        self.listening = self.cleaning.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        (run_dir / name).mkdir()
        self.listening.bind(str(run_dir / name / "control.sock"))
        self.listening.listen()
        self.answer = {
            "type": "connected",
            "producer": name,
            "descriptor": 1,
            "reader": 2,
            "sequence": 0,
            "snaplen": 262_144,
            "filter": "",
            "interfaces": ["lab0"],
        }
        self.fds = [self.segment.reader_fd(), self.ack_fd, self.bell]
        self.connection: socket.socket | None = None

    def serve(self, raw: bytes | None = None) -> None:
        """Accept one client, and answer its connect request."""
        self.connection, _ = self.listening.accept()
        self.cleaning.callback(self.connection.close)
        self.connection.recv(65536)
        socket.send_fds(self.connection, [json.dumps(self.answer).encode() if raw is None else raw], self.fds)

    def close(self) -> None:
        self.cleaning.close()
        for fd in {*self.fds, self.ack_fd, self.bell}:
            os.close(fd)
        if self.doorbell >= 0:
            os.close(self.doorbell)
