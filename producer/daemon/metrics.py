"""Metrics for Prometheus, and a health check, over HTTP.

Metrics are named by the rules of https://prometheus.io/docs/practices/naming/: base units, and `_total` for counters.
All numbers of one answer belong to one instant, as those of a ledger do.
"""

import socket
import socketserver
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from zbuf import __version__
from zbuf.shared.control.statistics import Ledger, Statistics
from zbuf.shared.errors import ConfigurationError

_LEDGER_HELP = {
    "received": "Packets given to a descriptor.",
    "filtered": "Packets that a descriptor's filter refused.",
    "accepted": "Packets that a descriptor's filter let pass.",
    "delivered": "Packets acknowledged by a descriptor's readers.",
    "dropped": "Packets lost because no buffer of the descriptor was free.",
    "abandoned": "Packets assigned to readers that left without acknowledging them.",
    "truncated": "Packets cut short to the snaplen or to the size of a buffer.",
}
_DESCRIPTOR = ["descriptor", "join"]
_READER = [*_DESCRIPTOR, "reader", "user"]


class StatisticsCollector(Collector):
    """Turns a producer's statistics into metrics, each time that Prometheus asks."""

    def __init__(self, statistics: Callable[[], Statistics]) -> None:
        self._statistics = statistics

    def collect(self) -> Iterator[Metric]:
        """All metrics, of one instant."""
        now = self._statistics()
        yield from _of_producer(now)
        yield from _of_interfaces(now)
        yield from _of_descriptors(now)
        yield from _of_readers(now)


def _of_producer(now: Statistics) -> Iterator[Metric]:
    yield InfoMetricFamily("zbuf_build", "Version.", {"version": __version__})
    yield InfoMetricFamily("zbuf_producer", "Name.", {"name": now.producer})
    yield GaugeMetricFamily("zbuf_uptime_seconds", "Seconds since the producer started.", now.uptime_s)
    yield CounterMetricFamily("zbuf_offered_packets", "Packets that the source gave.", now.offered)
    yield CounterMetricFamily("zbuf_evicted_readers", "Readers evicted for holding up others.", now.evicted)
    yield CounterMetricFamily("zbuf_refused_connections", "Connections refused.", now.refused)
    yield GaugeMetricFamily("zbuf_descriptors", "Descriptors that are open.", len(now.descriptors))
    readers = sum(len(one.readers) for one in now.descriptors)
    yield GaugeMetricFamily("zbuf_readers", "Readers that are connected.", readers)


def _of_interfaces(now: Statistics) -> Iterator[Metric]:
    label = ["interface"]
    counters = {
        "received_packets": "Packets that passed the capture's filter, with those dropped later.",
        "taken_packets": "Packets read from the kernel.",
        "taken_bytes": "Bytes on the wire of packets read from the kernel.",
        "losses": "Times that the interface failed or went away.",
    }
    values = {"received_packets": "received", "taken_packets": "taken", "taken_bytes": "taken_bytes", "losses": "lost"}
    for name, text in counters.items():
        family = CounterMetricFamily(f"zbuf_interface_{name}", text, labels=label)
        for one in now.live:
            family.add_metric([one.interface], getattr(one, values[name]))
        yield family
    dropped = CounterMetricFamily("zbuf_interface_dropped_packets", "Packets lost before zbuf.", labels=[*label, "by"])
    up = GaugeMetricFamily("zbuf_interface_up", "1 if the interface exists and is up, else 0.", labels=label)
    for one in now.live:
        dropped.add_metric([one.interface, "kernel"], one.dropped_by_kernel)
        dropped.add_metric([one.interface, "interface"], one.dropped_by_interface)
        up.add_metric([one.interface], one.state == "up")
    yield dropped
    yield up


def _of_descriptors(now: Statistics) -> Iterator[Metric]:
    """A ledger for each open descriptor; under the number "closed", the sum for descriptors that are closed."""
    ledgers: list[tuple[list[str], Ledger]] = [([str(one.descriptor), one.join or ""], one) for one in now.descriptors]
    for count, text in _LEDGER_HELP.items():
        family = CounterMetricFamily(f"zbuf_descriptor_{count}_packets", text, labels=_DESCRIPTOR)
        for labels, ledger in [*ledgers, (["closed", ""], now.closed)]:
            family.add_metric(labels, getattr(ledger, count))
        yield family
        if f"{count}_bytes" in Ledger.__struct_fields__:
            octets = CounterMetricFamily(
                f"zbuf_descriptor_{count}_bytes",
                text.replace("Packets", "Bytes on the wire of packets"),
                labels=_DESCRIPTOR,
            )
            for labels, ledger in [*ledgers, (["closed", ""], now.closed)]:
                octets.add_metric(labels, getattr(ledger, f"{count}_bytes"))
            yield octets
    buffered = GaugeMetricFamily(
        "zbuf_descriptor_buffered_packets", "Packets in buffers, which are not acknowledged yet.", labels=_DESCRIPTOR
    )
    for labels, ledger in ledgers:
        buffered.add_metric(labels, ledger.buffered)
    yield buffered


def _of_readers(now: Statistics) -> Iterator[Metric]:
    delivered = CounterMetricFamily(
        "zbuf_reader_delivered_packets", "Packets that this reader has acknowledged.", labels=_READER
    )
    stalls = CounterMetricFamily(
        "zbuf_reader_stalls", "Times that this reader kept its descriptor from writing.", labels=_READER
    )
    holding = GaugeMetricFamily(
        "zbuf_reader_held_buffers", "Buffers that this reader has not given back.", labels=_READER
    )
    for descriptor in now.descriptors:
        for one in descriptor.readers:
            labels = [str(descriptor.descriptor), descriptor.join or "", str(one.reader), str(one.user)]
            delivered.add_metric(labels, one.delivered)
            stalls.add_metric(labels, one.stalls)
            holding.add_metric(labels, one.holding)
    yield from (delivered, stalls, holding)


# ---- over HTTP ------------------------------------------------------------------------------------------------------


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    """Has a thread for each request, so that a slow client keeps nobody else waiting."""

    daemon_threads = True
    request_queue_size = 16

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore errors of a connection: a client that hangs up does no harm."""


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    timeout = 10  # seconds for a request to arrive

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (its name in the library)
        """Log nothing."""


class MetricsServer:
    """Serves /metrics and /healthz from start() to close().

    Args:
        host: the name or address to listen on.
        port: the port to listen on; 0 for any free port.

    Raises:
        ConfigurationError: this address can't be used.
    """

    def __init__(self, host: str, port: int) -> None:
        try:
            kind = _Server6 if ":" in host else _Server
            self._server = make_server(host, port, self._answer, kind, _Handler)
        except OSError as error:
            raise ConfigurationError(f"--metrics {host}:{port}: {error.strerror}: choose another address") from None
        except OverflowError:
            raise ConfigurationError(f"--metrics {host}:{port}: no such port: choose one up to 65535") from None
        self.host = host
        self.port = self._server.server_port
        self._thread: threading.Thread | None = None
        self._sick: Callable[[], str | None] = lambda: "starting"
        self._metrics: Any = None

    def start(self, statistics: Callable[[], Statistics], sick: Callable[[], str | None]) -> None:
        """Serve from now on.

        Args:
            statistics: called for each request of /metrics; returns the producer's statistics.
            sick: called for each request of /healthz; returns what is wrong, or None.
        """
        registry = CollectorRegistry(auto_describe=False)
        registry.register(StatisticsCollector(statistics))
        self._metrics = make_wsgi_app(registry)
        self._sick = sick
        self._thread = threading.Thread(target=self._server.serve_forever, name="zbuf-metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop serving, and give the port back."""
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path == "/metrics":
            found: Iterable[bytes] = self._metrics(environ, start_response)
            return found
        if path == "/healthz":
            why = self._sick()
            status, text = ("503 Service Unavailable", why) if why else ("200 OK", "ok")
        else:
            status, text = "404 Not Found", "only /metrics and /healthz are here"
        start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
        return [f"{text}\n".encode()]
