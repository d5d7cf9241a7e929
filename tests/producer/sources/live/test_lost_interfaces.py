"""What counts as the loss of an interface."""

import errno
import os
import socket
from types import SimpleNamespace
from typing import Any

import pytest

from zbuf.producer.sources.live.live_source import _Place


@pytest.mark.parametrize(
    ("number", "there"),
    [
        (errno.ENXIO, False),
        (errno.ENODEV, False),
        (errno.ENETDOWN, False),
        (errno.EMFILE, True),
        (errno.ENFILE, True),
        (errno.EPERM, True),
    ],
)
def test_an_interface_is_gone_only_where_the_kernel_says_so(
    monkeypatch: pytest.MonkeyPatch, number: int, there: bool
) -> None:
    def fail(_: int) -> str:
        raise OSError(number, os.strerror(number))

    opened: Any = SimpleNamespace(name="lo", linktype=1)
    place = _Place(opened)
    assert place.is_there()
    monkeypatch.setattr(socket, "if_indextoname", fail)
    assert place.is_there() == there
