"""Who is at the other end of a connection, as the kernel says it."""

import os
import socket
from typing import NoReturn

import pytest

from zbuf.producer.serving.access import Access, Grant, Peer, Rule
from zbuf.shared.errors import Refused

HIGH_USER, HIGH_GROUP = 3_000_000_000, 3_000_000_001


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_users_and_groups_from_2_to_the_31_on_are_found_by_the_allow_list(producer_name: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(f"\0{producer_name}")
        listening.listen()
        pid = os.fork()
        if pid == 0:
            _connect_and_wait(f"\0{producer_name}")
        connection, _ = listening.accept()
        with connection:
            peer = Peer.of(connection)
        os.waitpid(pid, 0)
    assert (peer.pid, peer.uid, peer.groups) == (pid, HIGH_USER, frozenset({HIGH_GROUP}))
    for rule in (Rule(users=[str(HIGH_USER)]), Rule(groups=[str(HIGH_GROUP)])):
        assert Access([rule]).grant(peer) == Grant()
    with pytest.raises(Refused, match=f"user {HIGH_USER} is not allowed"):
        Access([Rule(users=["1"])]).grant(peer)


def _connect_and_wait(address: str) -> NoReturn:
    """As that user, connect, and stay until the other end hangs up."""
    try:
        os.setgroups([])
        os.setresgid(HIGH_GROUP, HIGH_GROUP, HIGH_GROUP)
        os.setresuid(HIGH_USER, HIGH_USER, HIGH_USER)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
            client.connect(address)
            client.recv(1)
    finally:
        os._exit(0)
