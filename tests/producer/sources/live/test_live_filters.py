"""A filter on a live interface means the same to tcpdump, to zbufd capture and to a reader.

The kernel's filter sees a frame without the VLAN tag that the card took off it; the two ends of a veth pair do that to
what they receive, not to what they send.
"""

import contextlib
import os
import subprocess
from pathlib import Path

import pytest
from support.commands import Commands, command, wait_line
from support.live_lab import READING, LiveLab, Tcpdump, datagram, end_dump, frame, packets_in, send
from support.network import Network, needs_namespace

from zbuf.consumer import connect
from zbuf.shared.errors import Refused

pytestmark = [needs_namespace, pytest.mark.slow, pytest.mark.usefixtures("run_dir")]

TAGS: list[tuple[int, ...]] = [(), (50,), (60,), (100, 50), (0,)]
TAGGED = [datagram(number, tags) for number, tags in enumerate(TAGS * 4)]
MIX = [*TAGGED, *(frame(number, 64, vlan=tags) for number, tags in enumerate(TAGS))]
LAST = frame(0, 70, to="0200000000ff")
FILTERS = [
    "udp port 53",
    "vlan",
    "not vlan",
    "vlan 50",
    "vlan 100 and vlan 50",
    "vlan and vlan",
    "vlan 50 and udp port 53",
    "udp port 53 and vlan",
    "udp port 53 or (vlan and udp port 53)",
    "ip",
    "ether[12:2] = 0x0800",
    "less 60",
]


@pytest.mark.parametrize("mode", [(), ("--immediate-mode",)], ids=["blocks", "immediate"])
def test_reader_s_filter_lets_in_what_tcpdump_s_does(
    wire: Network, commands: Commands, producer_name: str, tmp_path: Path, mode: tuple[str, ...]
) -> None:
    wanted = [f"ether dst 02:00:00:00:00:ff or ({one})" for one in FILTERS]
    lab = LiveLab(wire, commands, producer_name, "-i", "zb", *mode)
    judges = [Tcpdump(wire, commands, "zb", tmp_path / f"{number}.pcap", one) for number, one in enumerate(wanted)]
    with contextlib.ExitStack() as readers:
        reading = [readers.enter_context(connect(producer_name, filter=one)) for one in wanted]
        send(wire, MIX, "za")
        lab.wait_offered(len(MIX))
        send(wire, [*MIX, LAST], "zb")
        lab.wait_offered(2 * len(MIX) + 1)
        lab.end()
        found = {one: [bytes(packet) for packet in reader] for one, reader in zip(FILTERS, reading, strict=True)}
    judged = {one: judge.end_after(LAST) for one, judge in zip(FILTERS, judges, strict=True)}
    assert found == judged
    assert len({len(frames) for frames in found.values()}) > len(FILTERS) / 2  # the filters differ


def test_reader_s_filter_knows_the_direction(wire: Network, commands: Commands, producer_name: str) -> None:
    lab = LiveLab(wire, commands, producer_name, "-i", "zb")
    with (
        connect(producer_name, filter="inbound and vlan 50") as inward,
        connect(producer_name, filter="outbound and ip") as outward,
    ):
        send(wire, TAGGED, "za")
        lab.wait_offered(len(TAGGED))
        send(wire, TAGGED, "zb")
        lab.wait_offered(2 * len(TAGGED))
        lab.end()
        assert [(packet.direction, bytes(packet)) for packet in inward] == [("in", one) for one in TAGGED[1::5]]
        assert [(packet.direction, bytes(packet)) for packet in outward] == [("out", one) for one in TAGGED[0::5]]


def test_capture_filter_and_reader_s_filter_count_alike(
    wire: Network, commands: Commands, producer_name: str, tmp_path: Path
) -> None:
    everything = LiveLab(wire, commands, f"{producer_name}.all", "-i", "zb")
    filtered = LiveLab(wire, commands, f"{producer_name}.some", "-i", "zb", "udp", "port", "53")
    dumps = [
        everything.dump(tmp_path / "reader.pcapng", "udp port 53"),
        filtered.dump(tmp_path / "capture.pcapng"),
    ]
    send(wire, TAGGED)
    everything.wait_offered(len(TAGGED))
    filtered.wait_offered(16)
    for lab, dump in zip((everything, filtered), dumps, strict=True):
        lab.end()
        end_dump(dump)
    reader, capture = packets_in(tmp_path / "reader.pcapng"), packets_in(tmp_path / "capture.pcapng")
    assert [packet[2] for packet in reader] == [packet[2] for packet in capture]
    assert [packet[2] for packet in reader] == [
        one for one, tags in zip(TAGGED, TAGS * 4, strict=True) if len(tags) < 2
    ]


def test_tags_are_in_the_file_that_a_filter_lets_in(
    wire: Network, commands: Commands, producer_name: str, tmp_path: Path
) -> None:
    lab = LiveLab(wire, commands, producer_name, "-i", "zb")
    dump = lab.dump(tmp_path / "all.pcapng", "-s", "40", "vlan 50")
    send(wire, TAGGED)
    lab.wait_offered(len(TAGGED))
    lab.end()
    end_dump(dump)
    wanted = [(len(one), one[:40]) for one, tags in zip(TAGGED, TAGS * 4, strict=True) if tags == (50,)]
    assert [packet[1:] for packet in packets_in(tmp_path / "all.pcapng")] == wanted


def test_allow_rule_s_filter_means_what_a_capture_filter_means(
    wire: Network, commands: Commands, producer_name: str, tmp_path: Path, run_dir: Path
) -> None:
    run_dir.chmod(0o755)
    rules = tmp_path / "zbufd.toml"
    rules.write_text('mode = "0666"\n[[allow]]\nusers = ["65534"]\nfilter = "vlan 60"\n')
    lab = LiveLab(wire, commands, producer_name, "-i", "zb", "--config", str(rules))
    line = [os.fsdecode(one) for one in command("zbuf", "dump", producer_name, "-w", "-")]
    with (tmp_path / "out.pcapng").open("wb") as out:
        reading = commands.adopt(
            subprocess.Popen(
                [*READING, "--reuid=65534", "--clear-groups", *line], stdout=out, stderr=subprocess.PIPE, text=True
            )
        )
        wait_line(reading.stderr, "reading")
        send(wire, TAGGED)
        lab.wait_offered(len(TAGGED))
        lab.end()
        end_dump(reading)
    assert [packet[2] for packet in packets_in(tmp_path / "out.pcapng")] == TAGGED[2::5]


def test_filter_that_only_the_kernel_can_answer_is_refused_to_a_reader(
    wire: Network, commands: Commands, producer_name: str
) -> None:
    lab = LiveLab(wire, commands, producer_name, "-i", "zb")
    with pytest.raises(Refused, match=r"ifindex 3.*give it to zbufd capture"):
        connect(producer_name, filter="ifindex 3")
    lab.end()


def test_filter_can_be_set_while_the_interface_is_lost(wire: Network, commands: Commands, producer_name: str) -> None:
    lab = LiveLab(wire, commands, producer_name, "-i", "zb", "--log-format", "text")
    wire.ip("link", "del", "zb")
    lab.wait_line("lost")
    with connect(producer_name, filter="vlan 50") as reader:
        wire.add_wire()
        lab.wait_line("is back")
        send(wire, TAGGED)
        lab.wait_offered(len(TAGGED))
        lab.end()
        assert len(list(reader)) == 4
