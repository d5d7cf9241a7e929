"""scapy on a reader: sniff(), AsyncSniffer, sessions."""

import gc
import threading
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal

import pytest
from scapy.config import conf
from scapy.layers.dns import DNS, DNSQR
from scapy.layers.inet import IP, TCP, UDP, fragment
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw
from scapy.sendrecv import AsyncSniffer, sniff
from scapy.sessions import IPSession
from support.processes import LIMIT_S, Lab, Remote

from zbuf.consumer import connect
from zbuf.consumer.scapy import ScapySocket
from zbuf.shared.errors import ValueRefused

TIME_NS = 1_700_000_000_123_456_789


@pytest.fixture
def socket(lab: Lab) -> Iterator[ScapySocket]:
    with ScapySocket(connect(lab.name, immediate=True)) as socket:
        yield socket


def publish(lab: Lab, *packets: object, **options: object) -> None:
    lab.process.do(
        "for data in packets: producer.append(data, **options)",
        packets=[bytes(packet) for packet in packets],  # type: ignore[call-overload]
        options=options,
    )


def dns(number: int) -> Ether:
    return Ether() / IP(src="10.0.0.1") / UDP(dport=53) / DNS(id=number, qd=DNSQR(qname=f"h{number}.example"))


def test_sniff_gets_every_packet_dissected_to_the_end_of_the_stream(lab: Lab, socket: ScapySocket) -> None:
    sent = [dns(number) for number in range(200)]
    publish(lab, *sent)
    lab.process.begin("producer.close()")
    found = sniff(opened_socket=socket)
    lab.process.result()
    assert [bytes(packet) for packet in found] == [bytes(packet) for packet in sent]
    assert [packet[DNS].id for packet in found] == list(range(200))
    assert socket.closed


def test_time_is_exact_and_the_metadata_are_there(lab: Lab, socket: ScapySocket) -> None:
    publish(lab, Ether() / ARP(), time_ns=TIME_NS, wirelen=900, direction="out")
    packet = socket.recv()
    assert packet.time == Decimal("1700000000.123456789")
    assert (packet.wirelen, packet.direction) == (900, 2)
    assert ARP in packet


def test_raw_packets_come_with_class_bytes_and_time(lab: Lab, socket: ScapySocket) -> None:
    publish(lab, dns(1), time_ns=TIME_NS)
    layer, data, moment = socket.recv_raw(20)
    assert (layer, data, moment) == (Ether, bytes(dns(1))[:20], Decimal("1700000000.123456789"))


@pytest.mark.parametrize(("linktype", "layer"), [(101, IP), (1, Ether), (229, IPv6), (65000, conf.raw_layer)])
def test_layer_is_that_of_the_link_type(
    remote: Callable[[], Remote], producer_name: str, linktype: int, layer: type[Packet]
) -> None:
    lab = Lab(remote(), producer_name, linktype=linktype)
    packet = {IP: IP() / UDP(), Ether: Ether() / IP(), IPv6: IPv6() / UDP()}.get(layer, Raw(b"rubbish"))
    with ScapySocket(connect(lab.name, immediate=True)) as socket:
        publish(lab, packet)
        assert type(socket.recv()) is layer


def test_count_and_filters_of_sniff_work(lab: Lab, socket: ScapySocket) -> None:
    publish(lab, *[dns(number) for number in range(10)])
    found = sniff(opened_socket=socket, count=3, lfilter=lambda packet: packet[DNS].id % 2)
    assert [packet[DNS].id for packet in found] == [1, 3, 5]
    assert socket.recv()[DNS].id == 6  # nothing was taken that sniff() did not give


def test_timeout_of_sniff_ends_it_where_nothing_comes(socket: ScapySocket) -> None:
    assert len(sniff(opened_socket=socket, timeout=0.1)) == 0
    assert not socket.closed


def test_asynchronous_sniffer_starts_and_stops(lab: Lab, socket: ScapySocket) -> None:
    came = threading.Semaphore(0)
    sniffer = AsyncSniffer(opened_socket=socket, prn=lambda _: came.release())
    sniffer.start()
    for number in range(3):
        publish(lab, dns(number))
        assert came.acquire(timeout=LIMIT_S)
    sniffer.stop()
    assert sniffer.results is not None
    assert [packet[DNS].id for packet in sniffer.results] == [0, 1, 2]


def test_session_puts_fragments_together(lab: Lab, socket: ScapySocket) -> None:
    whole = IP(src="10.0.0.1", dst="10.0.0.2", id=7) / UDP(sport=1, dport=2) / Raw(b"x" * 3000)
    publish(lab, *[Ether() / part for part in fragment(whole, 1000)])  # type: ignore[no-untyped-call]
    lab.process.begin("producer.close()")
    found = sniff(opened_socket=socket, session=IPSession)
    lab.process.result()
    assert [len(packet[UDP].payload) for packet in found if UDP in packet] == [3000]


def test_several_sockets_are_sniffed_at_once(lab: Lab, remote: Callable[[], Remote]) -> None:
    other = Lab(remote(), f"{lab.name}.2")
    sockets = [ScapySocket(connect(one.name, immediate=True)) for one in (lab, other)]
    publish(lab, dns(1))
    publish(other, dns(2))
    found = sniff(opened_socket={sockets[0]: "one", sockets[1]: "two"}, count=2)
    assert sorted((packet.sniffed_on, packet[DNS].id) for packet in found) == [("one", 1), ("two", 2)]
    for socket in sockets:
        socket.close()


def test_rubbish_is_a_raw_packet_and_not_an_end(lab: Lab, socket: ScapySocket) -> None:
    publish(lab, b"\xff" * 13, Ether() / IP() / TCP() / (b"\0" * 3))
    lab.process.begin("producer.close()")
    assert len(sniff(opened_socket=socket)) == 2
    lab.process.result()


def test_lost_packets_are_a_comment(lab: Lab) -> None:
    with ScapySocket(connect(lab.name, buffer_size=4096, timeout_ms=0)) as socket:
        publish(lab, *[b"x" * 1500] * 6)  # two fit into each of two buffers: the last two are lost
        comments = [socket.recv().comment for _ in range(3)]  # the third gives the first buffer back
        lab.process.begin("[producer.append(b'y' * 1500) for _ in range(2)]; producer.close()")
        comments += [packet.comment for packet in sniff(opened_socket=socket)]
        lab.process.result()
        assert [comment for comment in comments if comment] == [b"2 packets lost just before this one"]


def test_sniffing_goes_on_with_a_producer_that_comes_back(
    lab: Lab, remote: Callable[[], Remote], producer_name: str
) -> None:
    with ScapySocket(connect(lab.name, immediate=True, reconnect=True)) as socket:
        came = threading.Semaphore(0)
        sniffer = AsyncSniffer(opened_socket=socket, prn=lambda _: came.release())
        sniffer.start()
        publish(lab, dns(1))
        assert came.acquire(timeout=LIMIT_S)
        lab.close()
        again = Lab(remote(), producer_name)
        assert again.process.ask("producer.wait_readers(1, timeout_s=20)")
        publish(again, dns(2))
        assert came.acquire(timeout=LIMIT_S)
        sniffer.stop()
        assert sniffer.results is not None
        assert [packet[DNS].id for packet in sniffer.results] == [1, 2]


def test_recv_at_the_end_is_the_end_of_the_file(lab: Lab, socket: ScapySocket) -> None:
    lab.kill()
    with pytest.raises(EOFError, match="producer died"):
        socket.recv()


def test_sending_is_an_error(socket: ScapySocket) -> None:
    with pytest.raises(OSError, match="can't send"):
        socket.send(Ether())


def test_closing_leaves_the_capture(lab: Lab, socket: ScapySocket) -> None:
    lab.wait_descriptors(1)
    socket.close()
    lab.wait_descriptors(0)


# ---- one reader, one sniff() after the other ------------------------------------------------------------------------


def ids(packets: Iterable[Packet]) -> list[int]:
    return [packet[DNS].id for packet in packets]


@pytest.mark.parametrize("reconnect", [False, True])
def test_sniffing_again_on_the_same_reader_goes_on_with_the_next_packet(lab: Lab, reconnect: bool) -> None:
    with connect(lab.name, timeout_ms=0, reconnect=reconnect) as reader:
        publish(lab, *[dns(number) for number in range(10)])
        reader.rotate()
        assert ids(sniff(opened_socket=ScapySocket(reader), count=3)) == [0, 1, 2]
        gc.collect()
        assert ids(sniff(opened_socket=ScapySocket(reader), count=2, timeout=LIMIT_S)) == [3, 4]
        assert Ether(bytes(next(iter(reader))))[DNS].id == 5
        assert len(sniff(opened_socket=ScapySocket(reader), count=4, timeout=LIMIT_S)) == 4
        assert len(sniff(opened_socket=ScapySocket(reader), timeout=0.05)) == 0
        publish(lab, dns(10))
        reader.rotate()
        assert ids(sniff(opened_socket=ScapySocket(reader), count=1, timeout=LIMIT_S)) == [10]
        assert not reader.finished


def test_sniffing_the_same_socket_again_goes_on(lab: Lab, socket: ScapySocket) -> None:
    publish(lab, *[dns(number) for number in range(4)])
    assert ids(sniff(opened_socket=socket, count=2)) == [0, 1]
    assert ids(sniff(opened_socket=socket, count=2, timeout=LIMIT_S)) == [2, 3]


def test_sniffing_a_closed_reader_is_an_error_and_no_empty_list(lab: Lab) -> None:
    with connect(lab.name) as reader:
        socket = ScapySocket(reader)
    for one in (socket, ScapySocket(reader)):
        with pytest.raises(ValueRefused, match="is closed: connect again"):
            sniff(opened_socket=one, timeout=LIMIT_S)
        with pytest.raises(ValueRefused, match="is closed: connect again"):
            one.recv()


def test_sniffing_ends_with_the_stream_whatever_its_callback_keeps(lab: Lab) -> None:
    with connect(lab.name, timeout_ms=10) as reader:
        kept: list[object] = []
        publish(lab, *[dns(number) for number in range(3)])
        lab.process.begin("producer.close()")
        sniff(opened_socket=ScapySocket(reader), prn=kept.append, store=False)
        lab.process.result()
        assert (len(kept), reader.end_reason) == (3, "closed")
