"""What a service tells systemd (sd_notify(3)): a datagram to the socket that NOTIFY_SOCKET names."""

import contextlib
import os
import socket


class Notifier:
    """Tells systemd the state of this service; does nothing if the service was started by hand."""

    def __init__(self) -> None:
        address = os.environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address

    def send(self, **states: str | int) -> None:
        """Send variables such as READY=1 and STATUS="..."; that nobody listens is not an error."""
        if not self._address:
            return
        message = "\n".join(f"{name}={str(value).replace(chr(10), ' ')}" for name, value in states.items())
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as any_end,
        ):
            any_end.sendto(message.encode(), self._address)

    @property
    def watchdog_s(self) -> float | None:
        """How often systemd wants a sign of life, in seconds; None if it wants none."""
        if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
            return None
        microseconds = os.environ.get("WATCHDOG_USEC", "")
        return int(microseconds) / 1e6 if microseconds.isdecimal() and int(microseconds) else None
