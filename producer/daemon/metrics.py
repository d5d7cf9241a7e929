"""Metrics for Prometheus, and a health check, over HTTP.

Metrics are named by the rules of https://prometheus.io/docs/practices/naming/: base units, and `_total` for counters.
All numbers of one answer belong to one instant, as those of a ledger do.
"""

from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Any

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from zbuf import __version__
from zbuf.producer.daemon.http_server import HttpServer, Request, Response
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
            self._server = HttpServer(host, port)
        except OSError as error:
            raise ConfigurationError(f"--metrics {host}:{port}: {error.strerror}: choose another address") from None
        except OverflowError:
            raise ConfigurationError(f"--metrics {host}:{port}: no such port: choose one up to 65535") from None
        self.host = host
        self.port = self._server.port
        self._sick: Callable[[], str | None] = lambda: "starting"
        self._metrics: Any = None

    def start(self, statistics: Callable[[], Statistics], sick: Callable[[], str | None]) -> None:
        """Serve from now on.

        Args:
            statistics: called for each request of /metrics; returns the producer's statistics, or raises TimeoutError.
            sick: called for each request of /healthz; returns what is wrong, or None.
        """
        registry = CollectorRegistry(auto_describe=False)
        registry.register(StatisticsCollector(statistics))
        self._metrics = make_wsgi_app(registry)
        self._sick = sick
        self._server.start(self._answer)

    def close(self) -> None:
        """Stop serving, and give the port back."""
        self._server.close()

    def _answer(self, request: Request) -> Response:
        match request.path:
            case "/metrics":
                try:
                    return self._exposition(request)
                except TimeoutError:
                    return Response.text(HTTPStatus.SERVICE_UNAVAILABLE, "the capture does not answer")
            case "/healthz":
                why = self._sick()
                return Response.text(HTTPStatus.SERVICE_UNAVAILABLE if why else HTTPStatus.OK, why or "ok")
        return Response.text(HTTPStatus.NOT_FOUND, "only /metrics and /healthz are here")

    def _exposition(self, request: Request) -> Response:
        """What the client library makes of the metrics, in the format and the encoding that Prometheus asks for."""
        begun: list[tuple[str, list[tuple[str, str]]]] = []
        environ = {
            "REQUEST_METHOD": "GET",
            "PATH_INFO": request.path,
            "QUERY_STRING": request.query,
            "HTTP_ACCEPT": request.headers.get("accept", ""),
            "HTTP_ACCEPT_ENCODING": request.headers.get("accept-encoding", ""),
        }
        body = b"".join(self._metrics(environ, lambda status, headers: begun.append((status, headers))))
        ((status, headers),) = begun
        return Response(HTTPStatus(int(status.split()[0])), body, headers)
