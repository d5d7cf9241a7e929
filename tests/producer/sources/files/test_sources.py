"""What packets can be read from: files of every format, damaged ones, standard input, scapy's readers and sockets."""

import contextlib
import gc
import gzip
import io
import os
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.captures import DBUS, ETHERNET, FORMATS, RAW_IP, Record, again, pcap, pcapng, received, sample
from support.processes import LIMIT_S, Remote
from support.reference import interface, option, packet, section

from zbuf.consumer import connect
from zbuf.producer import FileSource, Producer, RawPacket, ScapySource
from zbuf.producer.filters import compile_filter
from zbuf.producer.sources.files.readahead import ReadAhead
from zbuf.producer.sources.files.store import PacketStore
from zbuf.producer.sources.python import linktype_of, packets_of
from zbuf.shared.errors import CaptureFileError, FilterError, ValueRefused

PRELOADED, STREAMED = 1 << 30, 0
Publish = Callable[..., list[Record]]

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can listen on an interface")


@pytest.fixture
def publish(producer_name: str, run_dir: Path) -> Publish:
    """publish(source, loops=1): what a reader receives of it."""
    del run_dir

    def publish_and_read(source: Any, *, loops: int = 1) -> list[Record]:
        interfaces = getattr(source, "interfaces", None)
        linktype = linktype_of(source)
        linktype = ETHERNET if linktype is None else linktype
        with (
            Producer(producer_name, linktype=linktype, interfaces=interfaces) as producer,
            connect(producer_name) as reader,
        ):
            published = producer.publish(source, loops=loops)
            packets = received(reader)
            assert len(packets) == published == producer.offered
            return packets

    return publish_and_read


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., str]:
    """save(image, name): a file with these bytes; returns its path."""

    def save_as(image: bytes, name: str = "lab.pcap") -> str:
        path = tmp_path / name
        path.write_bytes(image)
        return str(path)

    return save_as


@pytest.fixture(scope="module")
def scapy() -> Any:
    """scapy, imported before a test's time counts."""
    import scapy.all

    return scapy.all


@contextlib.contextmanager
def standard_input(fd: int) -> Iterator[None]:
    """Have standard input come from a file descriptor, which is closed."""
    kept = os.dup(0)
    os.dup2(fd, 0)
    os.close(fd)
    try:
        yield
    finally:
        os.dup2(kept, 0)
        os.close(kept)


def pipe_with(image: bytes) -> int:
    """The reading end of a pipe with these bytes in it, and no more to come."""
    reading, writing = os.pipe()
    assert os.write(writing, image) == len(image), "more than a pipe holds"
    os.close(writing)
    return reading


def on_interface(records: list[Record], number: int) -> list[Record]:
    return [Record(one.data, one.time_ns, one.wirelen, number) for one in records]


def join_unpack_threads() -> None:
    """Wait until the threads that decompress are over; an exception in one of them fails the test."""
    for thread in threading.enumerate():
        if thread.name == "zbuf-unpack":
            thread.join(LIMIT_S)
            assert not thread.is_alive()


# ---- whole files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [PRELOADED, STREAMED], ids=["preloaded", "streamed"])
@pytest.mark.parametrize("form", FORMATS)
def test_file_of_any_format_comes_through_byte_for_byte(
    publish: Publish, save: Callable[..., str], form: str, limit: int
) -> None:
    unit, make = FORMATS[form]
    records = sample(unit)
    source = FileSource([save(make(records))], limit)
    assert publish(source) == records
    assert source.linktype == ETHERNET
    assert source.warnings == []


@pytest.mark.parametrize(("limit", "kind"), [(PRELOADED, PacketStore), (STREAMED, ReadAhead), (62, ReadAhead)])
def test_file_is_kept_in_memory_up_to_the_limit_and_read_anew_past_it(
    save: Callable[..., str], limit: int, kind: type
) -> None:
    path = save(pcap(sample(1000, [60, 3])))
    assert [type(one) for one in FileSource([path], limit).passes(1)] == [kind]


def test_file_of_exactly_the_limit_is_kept_in_memory(save: Callable[..., str]) -> None:
    path = save(pcap(sample(1000, [60, 3])))
    assert [type(one) for one in FileSource([path], 63).passes(1)] == [PacketStore]


@pytest.mark.parametrize("limit", [PRELOADED, STREAMED], ids=["preloaded", "streamed"])
@pytest.mark.parametrize("form", ["pcap-le-us", "pcapng-be-ns-gz"])
def test_file_comes_as_often_as_asked(publish: Publish, save: Callable[..., str], form: str, limit: int) -> None:
    unit, make = FORMATS[form]
    records = sample(unit, [1, 60, 1514])
    assert publish(FileSource([save(make(records))], limit), loops=3) == again(records, 3)


@pytest.mark.parametrize("limit", [PRELOADED, STREAMED], ids=["preloaded", "streamed"])
def test_several_files_come_one_after_the_other_each_as_an_interface_of_its_own(
    publish: Publish, save: Callable[..., str], limit: int
) -> None:
    records = sample(1000, [1, 60, 1514])
    first, second = save(pcap(records), "first.pcap"), save(pcapng(records[:2]), "second.pcapng")
    source = FileSource([first, second], limit)
    assert [(one.name, one.linktype) for one in source.interfaces] == [("first.pcap", 1), ("second.pcapng", 1)]
    assert publish(source, loops=2) == again(on_interface(records, 0) + on_interface(records[:2], 1), 2)


def test_same_file_can_be_given_twice(publish: Publish, save: Callable[..., str]) -> None:
    records = sample(1000, [60])
    path = save(pcap(records))
    assert publish(FileSource([path, path])) == on_interface(records, 0) + on_interface(records, 1)


def test_packets_of_several_interfaces_of_a_file_come_each_with_its_own(
    publish: Publish, save: Callable[..., str]
) -> None:
    records = [Record(bytes([number]), (number + 1) * 1_000_000_000, 1, number % 3) for number in range(9)]
    source = FileSource([save(pcapng(records, resolutions=[6, 9, 3]))])
    assert len(source.interfaces) == 3
    assert publish(source) == records


def test_file_without_packets_is_a_capture_all_the_same(publish: Publish, save: Callable[..., str]) -> None:
    assert publish(FileSource([save(pcap([]))])) == []
    assert publish(FileSource([save(pcap([]))], STREAMED), loops=3) == []
    assert publish(FileSource([save(pcap([]))]), loops=0) == []


@pytest.mark.parametrize("limit", [PRELOADED, STREAMED], ids=["preloaded", "streamed"])
def test_first_packet_can_be_empty(
    remote: Callable[[], Remote], producer_name: str, save: Callable[..., str], limit: int
) -> None:
    process = remote()  # it died of this once
    process.do("source = FileSource([path], limit)", path=save(pcap([Record(b"", 1000, 99)])), limit=limit)
    process.do("producer = Producer(name); reader = connect(name); producer.publish(source)", name=producer_name)
    process.do("reader.rotate(); buffer = reader.next_buffer(timeout=20)")
    assert process.ask("[(one.caplen, one.wirelen) for one in buffer]") == [(0, 99)]


def test_files_of_different_link_types_are_carried_each_with_its_own(
    publish: Publish, save: Callable[..., str]
) -> None:
    records = sample(1000, [60])
    source = FileSource([save(pcap(records, linktype=RAW_IP), "ip.pcap"), save(pcap(records), "ether.pcap")])
    assert [(one.name, one.linktype) for one in source.interfaces] == [("ip.pcap", RAW_IP), ("ether.pcap", ETHERNET)]
    assert publish(source) == records + on_interface(records, 1)


def test_addresses_can_t_be_made_unique_in_packets_of_different_link_types(save: Callable[..., str]) -> None:
    records = sample(1000, [60])
    files = [save(pcap(records, linktype=RAW_IP), "ip.pcap"), save(pcap(records), "ether.pcap")]
    with pytest.raises(ValueRefused, match=r"'ether.pcap' has link type 1, where 'ip.pcap' has 101: .*--unique-ip"):
        FileSource(files, unique_ip=True)


def test_interface_of_another_link_type_without_packets_is_no_obstacle(
    publish: Publish, save: Callable[..., str]
) -> None:
    records = sample(1000, [60])
    assert publish(FileSource([save(pcap([], linktype=RAW_IP), "ip"), save(pcap(records), "ether")])) == on_interface(
        records, 1
    )


def test_link_type_with_the_length_of_the_fcs_in_it_is_read_without(publish: Publish, save: Callable[..., str]) -> None:
    records = sample(1000, [60])
    source = FileSource([save(pcap(records, linktype=ETHERNET | 1 << 26 | 4 << 28))])  # an FCS of 4 bytes
    assert source.linktype == ETHERNET
    assert publish(source) == records


def test_snaplen_of_a_file_limits_nothing_that_it_holds(publish: Publish, save: Callable[..., str]) -> None:
    # libpcap cuts packets to the snaplen that the file's header names, and so does tcpdump.
    records = sample(1000, [60, 9000])
    for snaplen in (65535, 61, 0):
        assert publish(FileSource([save(pcap(records, snaplen=snaplen))])) == records


@pytest.mark.parametrize(
    ("image", "limit", "told"),
    [
        (pcap(sample(1000, [60, 96]), snaplen=96), PRELOADED, 96),
        (pcap(sample(1000, [60, 96]), snaplen=0), PRELOADED, 0),
        (pcap(sample(1000, [60, 97]), snaplen=96), PRELOADED, 0),
        (pcap(sample(1000, [60, 96]), snaplen=96), STREAMED, 0),
        (section() + interface("<", ETHERNET, 96) + packet(bytes(97), 5), PRELOADED, 96),
        (section() + interface("<", ETHERNET, 96) + packet(bytes(97), 5), STREAMED, 96),
    ],
)
def test_snaplen_of_a_pcap_file_is_told_where_all_packets_are_known_to_keep_to_it(
    save: Callable[..., str], image: bytes, limit: int, told: int
) -> None:
    assert [one.snaplen for one in FileSource([save(image)], limit).interfaces] == [told]


def test_snaplen_of_a_pipe_is_not_told_since_later_packets_may_be_over_it(publish: Publish) -> None:
    records = sample(1000, [60, 96])
    with standard_input(pipe_with(pcap(records, snaplen=96))):
        source = FileSource(["-"])
        assert [one.snaplen for one in source.interfaces] == [0]
        assert publish(source) == records


@pytest.mark.parametrize("form", ["pcap-le-us", "pcap-be-ns", "pcapng-le-us", "pcapng-be-ns"])
@pytest.mark.parametrize("seconds", [0, 2**31 - 1, 2**31, 2**32 - 1], ids=["1970", "2038", "after 2038", "2106"])
def test_time_comes_through_from_1970_to_2106(
    publish: Publish, save: Callable[..., str], form: str, seconds: int
) -> None:
    unit, make = FORMATS[form]
    records = [Record(b"late", seconds * 1_000_000_000 + 999_999_999 // unit * unit, 4)]
    assert publish(FileSource([save(make(records))])) == records


def test_time_after_2106_comes_through_from_pcapng(publish: Publish, save: Callable[..., str]) -> None:
    records = [Record(b"later", 18_000_000_000 * 1_000_000_000 + 7000, 5)]
    assert publish(FileSource([save(pcapng(records))])) == records


def test_loading_tells_how_far_it_is(save: Callable[..., str]) -> None:
    told: list[tuple[int, int]] = []
    path = save(pcap([Record(b"abc", 0, 3)] * 120_000))
    FileSource([path], progress=lambda packets, size: told.append((packets, size)))
    assert len(told) > 1
    assert told == sorted(told)
    assert all(packets < 120_000 and size == 3 * packets for packets, size in told)


# ---- packets larger than 262,144 bytes, which some link types have -----------------------------------------------


HUGE = 20 << 20
CAP = 262_144


PUBLISH_HUGE = """
source = FileSource([path], limit)
producer = Producer(name, linktype=source.linktype, linger_s=0)
reader = connect(name, filter=expression)
producer.publish(source, loops=2)
reader.rotate()
buffer = reader.next_buffer(timeout=20)
"""


@pytest.fixture
def huge(save: Callable[..., str]) -> str:
    """A D-Bus capture with a packet of 20 MiB, which libpcap reads, between two small ones."""
    records = [
        Record(b"before", 1000, 6),
        Record(bytes(range(256)) * (HUGE // 256), 2000, HUGE),
        Record(b"after", 3000, 5),
    ]
    return save(pcap(records, linktype=DBUS, snaplen=128 << 20))


@pytest.mark.parametrize("limit", [PRELOADED, STREAMED], ids=["preloaded", "streamed"])
def test_packet_of_20_mib_is_cut_and_its_neighbours_are_whole(
    remote: Callable[[], Remote], producer_name: str, huge: str, limit: int
) -> None:
    process = remote()  # an overrun would kill the process that has it
    process.do(PUBLISH_HUGE, name=producer_name, path=huge, limit=limit, expression="")
    assert process.ask("[(one.caplen, one.wirelen) for one in buffer]") == [(6, 6), (CAP, HUGE), (5, 5)] * 2
    assert process.ask("[bytes(one) for one in buffer][1]") == bytes(range(256)) * (CAP // 256)
    assert process.ask("producer.stats().descriptors[0].truncated") == 2


def test_filter_that_looks_far_into_a_huge_packet_finds_the_same_preloaded_and_streamed(
    remote: Callable[[], Remote], producer_name: str, huge: str
) -> None:
    process = remote()
    found = []
    for limit in (PRELOADED, STREAMED):
        process.do(
            PUBLISH_HUGE, name=producer_name, path=huge, limit=limit, expression=f"len < 7 or link[{HUGE - 1}] = 255"
        )
        found.append(process.ask("[(one.caplen, one.wirelen) for one in buffer]"))
        process.do("reader.close(); producer.close()")
    assert found[0] == found[1]
    assert {(6, 6), (5, 5)} <= set(found[0])


# ---- standard input -------------------------------------------------------------------------------------------------


def test_standard_input_can_be_a_file(publish: Publish, save: Callable[..., str]) -> None:
    records = sample(1000)
    with standard_input(os.open(save(pcap(records)), os.O_RDONLY)):
        source = FileSource(["-"])
    assert [one.name for one in source.interfaces] == ["-"]
    assert publish(source, loops=2) == again(records, 2)


def test_standard_input_can_be_a_pipe(publish: Publish) -> None:
    records = sample(1000, [1, 60, 1514])
    with standard_input(pipe_with(pcapng(records))):
        assert publish(FileSource(["-"])) == records


def test_standard_input_can_be_a_gzipped_file(publish: Publish, save: Callable[..., str]) -> None:
    records = sample(1000, [1, 60, 1514])
    with standard_input(os.open(save(gzip.compress(pcap(records))), os.O_RDONLY)):
        assert publish(FileSource(["-"])) == records


def test_standard_input_can_be_a_pipe_with_a_gzipped_capture(publish: Publish) -> None:
    records = sample(1000, [1, 60, 1514])
    with standard_input(pipe_with(gzip.compress(pcap(records)))):
        assert publish(FileSource(["-"])) == records


def test_standard_input_leaves_file_descriptor_0_open(save: Callable[..., str]) -> None:
    with standard_input(os.open(save(pcap(sample(1000, [60]))), os.O_RDONLY)):
        FileSource(["-"])
        assert os.fstat(0).st_size > 0


def test_standard_input_twice_is_refused(save: Callable[..., str]) -> None:
    with (
        standard_input(os.open(save(pcap(sample(1000, [60]))), os.O_RDONLY)),
        pytest.raises(CaptureFileError, match="standard input can be read once: save it to a file"),
    ):
        FileSource(["-", "-"])


def test_standard_input_past_the_limit_is_refused_with_what_to_do() -> None:
    with (
        standard_input(pipe_with(pcap(sample(1000, [60])))),
        pytest.raises(CaptureFileError, match="standard input has more than 59 bytes: raise --preload-limit"),
    ):
        FileSource(["-"], 59, once=False)


def test_pipe_that_is_read_once_may_be_longer_than_any_limit(publish: Publish) -> None:
    records = sample(1000, [60, 1514])
    with standard_input(pipe_with(pcap(records))):
        assert publish(FileSource(["-"], 59)) == records


def test_pipe_that_is_kept_comes_as_often_as_asked(publish: Publish) -> None:
    records = sample(1000, [60, 1514])
    with standard_input(pipe_with(pcap(records))):
        assert publish(FileSource(["-"], once=False), loops=3) == again(records, 3)


@pytest.mark.parametrize("loops", [0, 2])
def test_pipe_that_is_not_kept_is_refused_a_second_pass(loops: int) -> None:
    with standard_input(pipe_with(pcap(sample(1000, [60])))):
        source = FileSource(["-"])
    with (
        contextlib.closing(source),
        pytest.raises(CaptureFileError, match="a pipe can be read once: save it to a file"),
    ):
        next(source.passes(loops))


def test_standard_input_that_is_empty_is_refused() -> None:
    with standard_input(pipe_with(b"")), pytest.raises(CaptureFileError, match=r"^-: not a capture file: .+"):
        FileSource(["-"])


def test_fifo_can_be_given_by_its_path(publish: Publish, tmp_path: Path) -> None:
    records = sample(1000, [1, 60, 1514])
    path = tmp_path / "fifo"
    os.mkfifo(path)
    writer = threading.Thread(target=lambda: path.write_bytes(pcap(records)))
    writer.start()
    assert publish(FileSource([str(path)])) == records
    writer.join(LIMIT_S)


# ---- files that can't be read, or not to their end ------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # scapy leaves what it refuses open
@pytest.mark.parametrize("engine", [FileSource, ScapySource])
@pytest.mark.parametrize(
    ("image", "why"),
    [
        (b"", "the file is empty"),
        (b"\xd4\xc3", "not a capture file"),
        (pcap([])[:23], "not a capture file"),
        (pcapng([])[:27], "not a capture file"),
        (b"GIF89a" + bytes(100), "not a capture file"),
        (b"x" * 5000, "not a capture file"),
        (gzip.compress(b""), "not a capture file"),
        (gzip.compress(b"x" * 5000), "not a capture file"),
        (gzip.compress(pcap(sample(1000)))[:15], "not a capture file"),
        (b"\x1f\x8b" + bytes(100), "not a capture file"),
    ],
    ids=["empty", "2 bytes", "half a header", "half a section", "GIF", "text", "gz of nothing", "gz of text",
         "gz cut in its header", "gz magic alone"],
)  # fmt: skip
def test_file_that_is_no_capture_is_refused_in_one_line_that_names_it(
    save: Callable[..., str], engine: type, image: bytes, why: str
) -> None:
    path = save(image)
    with pytest.raises(CaptureFileError) as refused:
        engine([path])
    join_unpack_threads()
    message = str(refused.value)
    del refused
    gc.collect()
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert engine is ScapySource or why in message


@pytest.mark.parametrize("engine", [FileSource, ScapySource])
def test_file_that_is_missing_is_refused(tmp_path: Path, engine: type) -> None:
    with pytest.raises(CaptureFileError, match=f"{tmp_path}/none.pcap: No such file or directory"):
        engine([f"{tmp_path}/none.pcap"])


@pytest.mark.parametrize("engine", [FileSource, ScapySource])
def test_directory_is_refused(tmp_path: Path, engine: type) -> None:
    with pytest.raises(CaptureFileError, match=rf"(?i){tmp_path}: .*is a directory|a directory, not a capture"):
        engine([str(tmp_path)])


@pytest.mark.parametrize("engine", [FileSource, ScapySource])
def test_no_files_at_all_are_refused(engine: type) -> None:
    with pytest.raises(ValueRefused):
        engine([])


@pytest.mark.parametrize("size", [60_000, 66_000, 70_000, 140_000, 5_000_000])
def test_gzipped_file_of_any_size_that_is_no_capture_is_refused(save: Callable[..., str], size: int) -> None:
    path = save(gzip.compress(bytes(range(1, 256)) * (size // 255)))  # a pipe holds 65,536 bytes of it
    with pytest.raises(CaptureFileError, match="not a capture file"):
        FileSource([path])
    join_unpack_threads()


def test_second_file_that_is_missing_leaves_no_thread_and_no_descriptor_behind(
    save: Callable[..., str], tmp_path: Path
) -> None:
    path = save(gzip.compress(pcap(sample(1000) * 50)))
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(CaptureFileError, match="No such file"):
        FileSource([path, f"{tmp_path}/none.pcap"])
    join_unpack_threads()
    assert len(os.listdir("/proc/self/fd")) == before


def test_file_that_vanishes_between_two_passes_is_an_error_that_names_it(
    publish: Publish, save: Callable[..., str]
) -> None:
    path = save(pcap(sample(1000, [60])))
    source = FileSource([path], STREAMED)
    os.unlink(path)
    with pytest.raises(CaptureFileError, match=f"{path}: No such file or directory"):
        publish(source)


def cut_images() -> dict[str, tuple[bytes, int]]:
    """Captures of four packets, the last of which is cut: their bytes, and where the whole ones end."""
    records = sample(1000, [60, 3, 1514, 100])
    found = {}
    for name, make, head in (("pcap", pcap, 16), ("pcapng", pcapng, 28)):
        whole, image = len(make(records[:3])), make(records)
        found[f"{name} in the data"] = image[: whole + head + 50], whole
        found[f"{name} at the last byte"] = image[:-1], whole
        found[f"{name} in the header"] = image[: whole + 7], whole
        found[f"{name} behind the header"] = image[: whole + head], whole
    return found


CUT = cut_images()


@pytest.mark.parametrize("engine", [FileSource, ScapySource])
@pytest.mark.parametrize("where", CUT)
def test_file_cut_short_keeps_what_was_whole_and_warns_with_the_offset(
    publish: Publish, save: Callable[..., str], where: str, engine: Callable[[list[str]], Any]
) -> None:
    image, whole_bytes = CUT[where]
    path = save(image)
    source = engine([path])
    assert publish(source) == sample(1000, [60, 3, 1514, 100])[:3]
    assert len(source.warnings) == 1
    assert source.warnings[0].startswith(f"{path}: ")
    assert "3 whole packets" in source.warnings[0]
    offset = re.search(r"byte ([0-9]+)", source.warnings[0])
    assert offset is not None
    assert whole_bytes <= int(offset[1]) <= len(image)


@pytest.mark.parametrize("where", CUT)
def test_file_cut_short_warns_once_however_often_it_is_read(
    publish: Publish, save: Callable[..., str], where: str
) -> None:
    source = FileSource([save(CUT[where][0])], STREAMED)
    assert publish(source, loops=3) == again(sample(1000, [60, 3, 1514, 100])[:3], 3)
    assert len(source.warnings) == 1


@pytest.mark.parametrize("where", CUT)
def test_cut_file_that_is_gzipped_warns_all_the_same(publish: Publish, save: Callable[..., str], where: str) -> None:
    source = FileSource([save(gzip.compress(CUT[where][0]))])
    assert publish(source) == sample(1000, [60, 3, 1514, 100])[:3]
    assert len(source.warnings) == 1
    assert "3 whole packets" in source.warnings[0]


def gzip_cut() -> tuple[bytes, int]:
    """A gzipped capture cut in the middle, and how many of its packets are whole before that."""
    image = gzip.compress(pcap(sample(1000, [60] * 500)), mtime=0)[:20_000]
    with contextlib.suppress(EOFError):
        whole = b""
        with gzip.GzipFile(fileobj=io.BytesIO(image)) as packed:
            while some := packed.read1(1):
                whole += some
    return image, (len(whole) - 24) // 76


@pytest.mark.parametrize("engine", [FileSource, ScapySource])
@pytest.mark.parametrize("limit", [PRELOADED, STREAMED], ids=["preloaded", "streamed"])
def test_gzipped_file_cut_short_keeps_what_was_whole_and_warns(
    publish: Publish, save: Callable[..., str], limit: int, engine: Callable[..., Any]
) -> None:
    image, whole = gzip_cut()
    path = save(image)
    source = FileSource([path], limit) if engine is FileSource else engine([path])
    assert publish(source) == sample(1000, [60] * 500)[:whole]
    assert 100 < whole < 400
    assert len(source.warnings) == 1
    assert source.warnings[0].startswith(f"{path}: ")
    assert "\n" not in source.warnings[0]


def test_gzipped_file_with_a_wrong_checksum_keeps_its_packets_and_warns(
    publish: Publish, save: Callable[..., str]
) -> None:
    records = sample(1000, [60] * 5)
    image = bytearray(gzip.compress(pcap(records)))
    image[-8] ^= 1
    source = FileSource([save(bytes(image))])
    assert publish(source) == records
    assert len(source.warnings) == 1
    assert "damaged gzip file" in source.warnings[0]


def test_gzipped_file_of_two_members_is_read_to_its_end(publish: Publish, save: Callable[..., str]) -> None:
    records = sample(1000)
    image = pcap(records)
    assert publish(FileSource([save(gzip.compress(image[:1000]) + gzip.compress(image[1000:]))])) == records


def test_packet_longer_than_any_can_be_ends_the_file_there(publish: Publish, save: Callable[..., str]) -> None:
    records = sample(1000, [60, 3])
    image = pcap(records) + struct.pack("<4I", 1, 1, 0xFFFF_FFF0, 60) + bytes(60)
    source = FileSource([save(image)])
    assert publish(source) == records
    assert len(source.warnings) == 1
    assert "2 whole packets" in source.warnings[0]


@pytest.mark.parametrize("limit", [None, STREAMED], ids=["preloaded", "streamed"])
def test_sections_of_different_link_types_are_carried_each_with_its_own(
    publish: Publish, save: Callable[..., str], limit: int | None
) -> None:
    records = sample(1000, [60, 3])
    path = save(pcapng(records) + pcapng(records, linktype=RAW_IP))
    source = FileSource([path]) if limit is None else FileSource([path], limit)
    assert publish(source) == records + on_interface(records, 1)
    assert [one.linktype for one in source.interfaces] == [ETHERNET, RAW_IP]


@pytest.mark.parametrize("form", ["pcap-le-us", "pcapng-be-ns-gz"])
def test_publishing_that_stops_early_leaves_no_thread_and_no_descriptor_behind(
    save: Callable[..., str], producer_name: str, run_dir: Path, form: str
) -> None:
    unit, make = FORMATS[form]
    source = FileSource([save(make(sample(unit) * 100))], STREAMED)
    before = len(os.listdir("/proc/self/fd"))
    with Producer(producer_name, run_dir=run_dir) as producer:
        producer.stop()
        assert producer.publish(source, loops=0) == 0
    join_unpack_threads()
    assert len(os.listdir("/proc/self/fd")) == before


# ---- read by scapy --------------------------------------------------------------------------------------------------


def test_scapy_refuses_times_with_an_offset_which_it_does_not_know(publish: Publish, save: Callable[..., str]) -> None:
    path = save(pcapng(sample(1000, [60]), offset_s=5))
    with pytest.raises(CaptureFileError, match="an interface's times have an offset, which scapy does not know"):
        publish(ScapySource([path]))


def test_scapy_refuses_a_second_section_whose_interfaces_it_mixes_up(
    publish: Publish, save: Callable[..., str]
) -> None:
    path = save(pcapng(sample(1000, [60])) * 2)
    with pytest.raises(CaptureFileError, match=f"{path}: it has several sections, which scapy mixes up"):
        publish(ScapySource([path]))


def test_scapy_carries_packets_of_different_link_types_each_with_its_own(
    publish: Publish, save: Callable[..., str]
) -> None:
    named = interface("<", RAW_IP, options=option("<", 2, b"tun0"))
    image = section() + interface() + named + packet(b"one", 1) + packet(b"two", 2, 1) + packet(b"three", 3)
    source = ScapySource([save(image, "mixed.pcapng"), save(pcap(sample(1000, [60])), "b.pcap")])
    assert [(one.name, one.linktype) for one in source.interfaces] == [("mixed.pcapng", ETHERNET), ("b.pcap", ETHERNET)]
    got = publish(source, loops=2)
    assert [(one.data, one.interface) for one in got if len(one.data) < 60] == [
        (b"one", 0), (b"two", 2), (b"three", 0),
    ] * 2  # fmt: skip
    assert [(one.name, one.linktype) for one in source.interfaces[2:]] == [("tun0", RAW_IP)]
    assert source.recordings == [0, 1, 0]


def test_reader_of_scapys_that_comes_upon_another_link_type_is_refused_there(
    save: Callable[..., str], scapy: Any
) -> None:
    path = save(section() + interface() + interface("<", RAW_IP) + packet(b"one", 1) + packet(b"two", 2, 1))
    why = f"{path}: packet 2 has link type 101, where packets before it have 1: give the file to ScapySource"
    with scapy.RawPcapNgReader(path) as reader, pytest.raises(CaptureFileError, match=why):
        list(packets_of(reader))


def test_scapy_refuses_what_is_compressed_twice(save: Callable[..., str]) -> None:
    path = save(gzip.compress(gzip.compress(pcap([]))))
    with pytest.raises(CaptureFileError, match=f"^{path}: not a capture file: it is compressed twice$"):
        ScapySource([path])


@pytest.mark.parametrize("form", sorted(set(FORMATS) - {"pcapng-le-offset"}))
def test_scapy_reads_files_of_every_format_alike(
    publish: Publish, save: Callable[..., str], scapy: Any, form: str
) -> None:
    del scapy
    unit, make = FORMATS[form]
    records = sample(unit)
    source = ScapySource([save(make(records))])
    assert publish(source, loops=2) == again(records, 2)
    assert source.linktype == ETHERNET
    assert source.warnings == []


def test_scapy_reads_several_files_each_as_an_interface(publish: Publish, save: Callable[..., str]) -> None:
    records = sample(1000, [1, 60])
    source = ScapySource([save(pcap(records), "a.pcap"), save(pcapng(records), "b.pcapng")])
    assert [one.name for one in source.interfaces] == ["a.pcap", "b.pcapng"]
    assert publish(source) == on_interface(records, 0) + on_interface(records, 1)


def test_scapy_files_of_different_link_types_are_carried_each_with_its_own(
    publish: Publish, save: Callable[..., str]
) -> None:
    records = sample(1000, [60])
    source = ScapySource([save(pcap(records, linktype=RAW_IP), "ip.pcap"), save(pcap(records), "ether.pcap")])
    assert [one.linktype for one in source.interfaces] == [RAW_IP, ETHERNET]
    assert publish(source) == records + on_interface(records, 1)


@pytest.mark.parametrize(
    "image",
    [
        pcapng(sample(1000, [60])) + struct.pack("<II", 6, 5),
        pcapng(sample(1000, [60])) + struct.pack("<III", 6, 12, 12),
        pcapng(sample(1000, [60])) + struct.pack("<IIHHII", 1, 20, 1, 0, 0, 99),
        pcapng(sample(1000, [60])) + struct.pack("<III", 0x0A0D0D0A, 0, 0),
        pcapng(sample(1000, [60])) + struct.pack("<IIIHHqI", 0x0A0D0D0A, 32, 0x1A2B3C4D, 1, 0, -1, 32),
        pcapng(sample(1000, [60]))[:-60] + b"\xff" * 60,
    ],
    ids=["short block", "empty packet", "other trailer", "bad section", "section cut", "garbage"],
)
def test_scapy_file_damaged_behind_its_packets_keeps_them_and_raises_nothing_of_scapys(
    publish: Publish, save: Callable[..., str], image: bytes
) -> None:
    source = ScapySource([save(image)])
    with contextlib.suppress(CaptureFileError):
        assert len(publish(source)) <= 1


# ---- what else can be published -------------------------------------------------------------------------------------


def given(source: Any) -> list[RawPacket]:
    """The packets of anything that can be published."""
    return [packet for packet in packets_of(source) if packet is not None]


@pytest.mark.parametrize("item", [b"abc", bytearray(b"abc"), memoryview(b"abc")])
def test_bytes_are_packets_of_this_moment(item: Any) -> None:
    before = time.time_ns()
    (packet,) = given([item])
    assert bytes(packet.data) == b"abc"
    assert before <= packet.time_ns <= time.time_ns()
    assert (packet.wirelen, packet.interface) == (None, 0)


def test_pairs_are_bytes_and_their_time() -> None:
    assert given([(b"abc", 17), (b"", 18)]) == [RawPacket(b"abc", 17), RawPacket(b"", 18)]


def test_raw_packets_are_taken_as_they_are() -> None:
    packets = [RawPacket(b"abc", 17, 1500, 3), RawPacket(b"d", 18)]
    assert given(packets) == packets


def test_sources_are_read_no_faster_than_they_are_published() -> None:
    taken = []

    def source() -> Iterator[bytes]:
        for number in range(10):
            taken.append(number)
            yield b"x"

    packets = packets_of(source())
    next(packets)
    assert taken == [0]


@pytest.mark.parametrize("item", ["text", 17, None, (b"abc",), (b"abc", 1, 2)])
def test_what_is_no_packet_is_refused_with_a_look_at_it(item: Any) -> None:
    with pytest.raises(ValueRefused, match=re.escape(f"{item!r} is no packet: give bytes, (bytes, time_ns)")):
        given([item])


def test_scapy_packets_keep_their_time_and_length(publish: Publish, scapy: Any) -> None:
    packet = scapy.Ether() / scapy.IP(dst="10.0.0.1") / scapy.UDP() / b"payload"
    packet.time = 1_700_000_000.5
    packet.wirelen = 1500
    assert publish([packet, packet]) == 2 * [Record(bytes(packet), 1_700_000_000_500_000_000, 1500)]


def test_scapy_packet_that_was_built_has_its_own_length(publish: Publish, scapy: Any) -> None:
    packet = scapy.Ether() / b"payload"
    (record,) = publish([packet])
    assert (record.data, record.wirelen) == (bytes(packet), len(packet))


@pytest.mark.parametrize("form", ["pcap-be-us", "pcap-le-ns", "pcapng-le-us", "pcapng-be-ns", "pcap-le-us-gz"])
@pytest.mark.parametrize("reader", ["RawPcapReader", "PcapReader", "rdpcap"])
def test_scapy_readers_are_not_dissected_and_lose_no_nanosecond(
    publish: Publish, save: Callable[..., str], scapy: Any, form: str, reader: str
) -> None:
    unit, make = FORMATS[form]
    records = sample(unit, [14, 60, 1514])
    path = save(make(records))
    if reader == "rdpcap":
        assert publish(scapy.rdpcap(path)) == records
        return
    with getattr(scapy, reader)(path) as opened:
        assert publish(opened) == records


def test_scapy_reader_tells_its_link_type(save: Callable[..., str], scapy: Any) -> None:
    with scapy.PcapReader(save(pcap([], linktype=RAW_IP))) as opened:
        assert linktype_of(opened) == RAW_IP


def test_source_of_another_link_type_than_the_producers_is_refused(
    save: Callable[..., str], producer_name: str, run_dir: Path
) -> None:
    source = FileSource([save(pcap([], linktype=RAW_IP))])
    with (
        Producer(producer_name, run_dir=run_dir) as producer,
        pytest.raises(ValueRefused, match=r"the source's link type is 101, the producer's 1: .*linktype=101"),
    ):
        producer.publish(source)


def test_scapy_socket_gives_what_its_other_end_sends(scapy: Any) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with contextlib.closing(scapy.SimpleSocket(theirs)) as wrapped, ours:
        packets = packets_of(wrapped)
        for data in (b"one", b"another", bytes(2000)):
            ours.send(data)
            packet = next(packets)
            assert packet is not None
            assert packet.data == data
            assert abs(packet.time_ns - time.time_ns()) < LIMIT_S * 1_000_000_000


def test_scapy_socket_with_nothing_to_give_says_so_and_goes_on(scapy: Any) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with contextlib.closing(scapy.SimpleSocket(theirs)) as wrapped, ours:
        packets = packets_of(wrapped)
        assert next(packets) is None
        ours.send(b"late")
        packet = next(packets)
        assert packet is not None
        assert packet.data == b"late"


@pytest.mark.parametrize("kind", ["StreamSocket", "SimpleSocket"])
def test_publishing_a_scapy_socket_ends_when_its_other_end_closes(
    remote: Callable[[], Remote], producer_name: str, kind: str
) -> None:
    process = remote()
    process.do(
        f"""
        import socket
        from scapy.supersocket import {kind}
        ours, theirs = socket.socketpair()
        wrapped = {kind}(theirs)
        producer = Producer(name)
        reader = connect(name)
        ours.send(b"some bytes")
        ours.close()
        """,
        name=producer_name,
    )
    process.begin("producer.publish(wrapped)")
    assert process.result(seconds=5) == 1


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
def test_publishing_a_scapy_socket_ends_when_told_to_stop(
    scapy: Any, producer_name: str, run_dir: Path, kind: socket.SocketKind
) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    published: list[int] = []
    with (
        Producer(producer_name, run_dir=run_dir) as producer,
        contextlib.closing(scapy.StreamSocket(theirs)) as wrapped,
        connect(producer_name, immediate=True) as reader,
        ours,
    ):
        thread = threading.Thread(target=lambda: published.append(producer.publish(wrapped)))
        thread.start()
        ours.send(b"some bytes")
        buffer = reader.next_buffer(timeout=LIMIT_S)
        assert buffer is not None
        assert [bytes(packet) for packet in buffer] == [b"some bytes"]
        producer.stop()
        thread.join(LIMIT_S)
    assert published == [1]


@as_root
def test_real_interface_can_be_published_through_scapys_socket(scapy: Any, producer_name: str, run_dir: Path) -> None:
    with (
        contextlib.closing(scapy.conf.L2listen(iface="lo")) as listening,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
        Producer(producer_name, run_dir=run_dir, linktype=linktype_of(listening) or 0) as producer,
        connect(producer_name, filter="udp", immediate=True) as reader,
    ):
        receiver.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=producer.publish, args=(listening,))
        thread.start()
        before = time.time_ns()
        receiver.sendto(b"on the loopback interface", receiver.getsockname())
        for packet in reader:
            if bytes(packet).endswith(b"on the loopback interface"):
                break
        else:
            pytest.fail("it did not come")
        assert (reader.linktype, packet.wirelen) == (ETHERNET, 14 + 20 + 8 + 25)
        assert abs(packet.time_ns - before) < LIMIT_S * 1_000_000_000
        producer.stop()
        thread.join(LIMIT_S)


# ---- filters --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("foo bar", "syntax error"),
        ("tcp port", "syntax error"),
        ("tcp port http and (", "syntax error"),
        ("host 300.1.1.1", "300.1.1.1"),
        ("ether[99", "syntax error"),
        ("ip proto nosuch", "nosuch"),
        ("vlan 5000", "5000"),
        ("tcp\0port 80", "NUL"),
        ("\udcff", ""),
    ],
)
def test_filter_that_does_not_compile_is_refused_with_what_libpcap_says(expression: str, why: str) -> None:
    with pytest.raises(FilterError) as refused:
        compile_filter(expression, ETHERNET)
    assert str(refused.value).startswith("filter ")
    assert why in str(refused.value)
    assert "\n" not in str(refused.value)


def test_filter_that_makes_no_sense_for_the_link_type_is_refused() -> None:
    assert compile_filter("ether host 1:2:3:4:5:6", ETHERNET)
    with pytest.raises(FilterError, match=r"filter 'ether host 1:2:3:4:5:6': .+"):
        compile_filter("ether host 1:2:3:4:5:6", RAW_IP)


@pytest.mark.parametrize("expression", ["", " ", "\n"])
def test_empty_filter_is_no_program(expression: str) -> None:
    assert compile_filter(expression, ETHERNET) == b""


def test_filter_that_compiles_is_a_program_of_whole_instructions() -> None:
    program = compile_filter("tcp port 80 and not host 10.0.0.1", ETHERNET)
    assert program
    assert len(program) % 8 == 0
