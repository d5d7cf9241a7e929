"""Live interfaces: what zbufd takes is what tcpdump takes, on the same wire in the same run."""

import json
import os
import signal
import struct
import subprocess
import tempfile
from pathlib import Path

import pytest
from support.commands import Commands, command, run
from support.live_lab import READING, LiveLab, Tcpdump, end_dump, frame, packets_in, send
from support.network import Network, needs_namespace
from support.processes import LIMIT_S

from zbuf.consumer import connect

pytestmark = [needs_namespace, pytest.mark.slow, pytest.mark.usefixtures("run_dir")]

MIX = [frame(number, 60 + number * 7 % 1400) for number in range(300)]


def taken(
    lab: LiveLab, path: Path, count: int, *options: str, frames: list[bytes] = MIX
) -> list[tuple[int, int, bytes]]:
    """What a dump of a lab has after frames were sent."""
    dumping = lab.dump(path, *options)
    send(lab.network, frames)
    lab.wait_offered(count)
    lab.end()
    end_dump(dumping)
    return packets_in(path)


def write_pcap(path: Path, frames: list[bytes]) -> None:
    """A classic capture file of them."""
    records = b"".join(struct.pack("<IIII", 1, 0, len(one), len(one)) + one for one in frames)
    path.write_bytes(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, 1) + records)


@pytest.mark.parametrize("engine", ["pcap", "scapy"])
def test_same_packets_in_the_same_order_as_tcpdump(
    wire: Network, commands: Commands, producer_name: str, tmp_path: Path, engine: str
) -> None:
    judge = Tcpdump(wire, commands, "zb", tmp_path / "judge.pcap")
    lab = LiveLab(wire, commands, producer_name, "-i", "zb", "--engine", engine)
    found = taken(lab, tmp_path / "zbuf.pcapng", len(MIX))
    judge.end(len(MIX))
    judged = packets_in(tmp_path / "judge.pcap")
    assert [packet[1:] for packet in found] == [packet[1:] for packet in judged] == [(len(one), one) for one in MIX]
    if engine == "pcap":  # scapy's times are floats
        assert [packet[0] for packet in found] == [packet[0] for packet in judged]


@pytest.mark.parametrize("vlan", [(5,), (7, 9)], ids=["VLAN", "QinQ"])
def test_vlan_tags_are_where_they_were(
    wire: Network, commands: Commands, producer_name: str, tmp_path: Path, vlan: tuple[int, ...]
) -> None:
    frames = [frame(number, 100, vlan=vlan) for number in range(20)]
    judge = Tcpdump(wire, commands, "zb", tmp_path / "judge.pcap")
    lab = LiveLab(wire, commands, producer_name, "-i", "zb")
    found = taken(lab, tmp_path / "zbuf.pcapng", len(frames), frames=frames)
    judge.end(len(frames))
    assert found == packets_in(tmp_path / "judge.pcap")
    assert [packet[2] for packet in found] == frames


def test_packets_replayed_by_tcpreplay_come_as_tcpdump_sees_them(
    wire: Network, commands: Commands, producer_name: str, tmp_path: Path
) -> None:
    write_pcap(tmp_path / "in.pcap", MIX)
    judge = Tcpdump(wire, commands, "zb", tmp_path / "judge.pcap")
    lab = LiveLab(wire, commands, producer_name, "-i", "zb")
    dumping = lab.dump(tmp_path / "zbuf.pcapng")
    replay = wire.inside("tcpreplay", "--topspeed", "--loop=5", "-i", "za", str(tmp_path / "in.pcap"))
    subprocess.run(replay, check=True, capture_output=True)
    lab.wait_offered(5 * len(MIX))
    lab.end()
    end_dump(dumping)
    judge.end(5 * len(MIX))
    assert packets_in(tmp_path / "zbuf.pcapng") == packets_in(tmp_path / "judge.pcap")


def test_capture_filter_and_snaplen_hold_for_every_reader(
    wire: Network, commands: Commands, producer_name: str, tmp_path: Path
) -> None:
    lab = LiveLab(wire, commands, producer_name, "-i", "zb", "-s", "80", "less", "500")
    wanted = [one for one in MIX if len(one) <= 500]
    found = taken(lab, tmp_path / "zbuf.pcapng", len(wanted), "-s", "1000", "greater", "200")
    assert [packet[1:] for packet in found] == [(len(one), one[:80]) for one in wanted if len(one) >= 200]


@pytest.mark.parametrize("mode", [(), ("--immediate-mode",)], ids=["blocks", "immediate"])
def test_each_reader_sees_the_direction_that_it_asked_for(
    wire: Network, commands: Commands, producer_name: str, mode: tuple[str, ...]
) -> None:
    lab = LiveLab(wire, commands, producer_name, "-i", "zb", *mode)
    with (
        connect(producer_name, direction="in") as inward,
        connect(producer_name, direction="out") as outward,
        connect(producer_name) as both,
    ):
        send(wire, MIX[:10], "za")
        lab.wait_offered(10)
        send(wire, [frame(1, 80, vlan=(3,)), *MIX[10:15]], "zb")
        lab.wait_offered(16)
        lab.end()
        assert [len(list(reader)) for reader in (inward, outward)] == [10, 6]
        assert [packet.direction for packet in both] == ["in"] * 10 + ["out"] * 6


def test_daemon_that_takes_one_direction_gives_nothing_else(
    wire: Network, commands: Commands, producer_name: str, tmp_path: Path
) -> None:
    lab = LiveLab(wire, commands, producer_name, "-i", "zb", "-Q", "out")
    dumping = lab.dump(tmp_path / "zbuf.pcapng")
    send(wire, MIX[:10], "za")
    send(wire, MIX[10:20], "zb")
    lab.wait_offered(10)
    lab.end()
    end_dump(dumping)
    assert [packet[2] for packet in packets_in(tmp_path / "zbuf.pcapng")] == MIX[10:20]


def test_loopback_gives_each_packet_once(wire: Network, commands: Commands, producer_name: str, tmp_path: Path) -> None:
    lab = LiveLab(wire, commands, producer_name, "-i", "lo")
    dumping = lab.dump(tmp_path / "zbuf.pcapng")
    send(wire, MIX[:20], "lo")
    counts = lab.wait_offered(20)["live"][0]
    assert (counts["received"], counts["taken"], counts["dropped_by_kernel"]) == (20, 20, 0)
    assert counts["taken_bytes"] == sum(map(len, MIX[:20]))
    lab.end()
    end_dump(dumping)
    assert [packet[2] for packet in packets_in(tmp_path / "zbuf.pcapng")] == MIX[:20]


def test_several_interfaces_keep_their_names_and_numbers(wire: Network, commands: Commands, producer_name: str) -> None:
    wire.add_wire("ya", "yb")
    lab = LiveLab(wire, commands, producer_name, "-i", "zb", "-i", "yb")
    with connect(producer_name) as reader:
        assert [one.name for one in reader.interfaces] == ["zb", "yb"]
        send(wire, MIX[:10], "za")
        lab.wait_offered(10)
        send(wire, MIX[10:15], "ya")
        lab.wait_offered(15)
        lab.end()
        assert [(packet.interface, bytes(packet)) for packet in reader] == [
            (number >= 10, one) for number, one in enumerate(MIX[:15])
        ]


def test_interface_that_goes_down_and_up_is_reported_and_stays(
    wire: Network, commands: Commands, producer_name: str, tmp_path: Path
) -> None:
    lab = LiveLab(wire, commands, producer_name, "-i", "zb", "--log-format", "text")
    dumping = lab.dump(tmp_path / "zbuf.pcapng")
    send(wire, MIX[:5])
    lab.wait_offered(5)
    wire.ip("link", "set", "zb", "down")
    assert lab.wait_line("is down") == "zbufd: zb: is down\n"
    assert lab.stats()["live"][0]["state"] == "down"
    wire.ip("link", "set", "zb", "up")
    lab.wait_line("zb: is up again")
    send(wire, MIX[5:10])
    lab.wait_offered(10)
    lab.end()
    end_dump(dumping)
    assert [packet[2] for packet in packets_in(tmp_path / "zbuf.pcapng")] == MIX[:10]


@pytest.mark.parametrize("engine", ["pcap", "scapy"])
def test_interface_that_is_removed_is_picked_up_when_it_returns(
    wire: Network, commands: Commands, producer_name: str, tmp_path: Path, engine: str
) -> None:
    wire.add_wire("ya", "yb")
    lab = LiveLab(wire, commands, producer_name, "-i", "zb", "-i", "yb", "--log-format", "text", "--engine", engine)
    dumping = lab.dump(tmp_path / "zbuf.pcapng")
    send(wire, MIX[:5])
    lab.wait_offered(5)
    wire.ip("link", "del", "zb")
    assert lab.wait_line("lost").startswith("zbufd: zb: lost: ")
    send(wire, MIX[5:10], "ya")
    assert lab.wait_offered(10)["live"][0]["state"] == "lost"
    wire.add_wire()
    lab.wait_line("zb: is back")
    send(wire, MIX[10:15])
    counts = lab.wait_offered(15)["live"][0]
    assert (counts["state"], counts["lost"], counts["received"]) == ("up", 1, 10)
    lab.end()
    end_dump(dumping)
    assert [packet[2] for packet in packets_in(tmp_path / "zbuf.pcapng")] == MIX[:15]


def test_what_the_kernel_drops_is_counted_and_marked(wire: Network, commands: Commands, producer_name: str) -> None:
    lab = LiveLab(wire, commands, producer_name, "-i", "zb", "-B", "512", "--buffer-size", "32M")
    with connect(producer_name) as reader:
        lab.signal(signal.SIGSTOP)
        send(wire, [frame(number, 1500) for number in range(2000)])
        lab.signal(signal.SIGCONT)
        found = lab.stats()
        while found["live"][0]["taken"] + found["live"][0]["dropped_by_kernel"] < 2000:
            found = lab.stats()
        counts = found["live"][0]
        assert counts["dropped_by_kernel"] > 0
        assert counts["received"] == counts["taken"] + counts["dropped_by_kernel"] == 2000
        send(wire, MIX[:3])
        lab.wait_offered(counts["taken"] + 3)
        lab.end()
        marked = [packet.dropped for packet in reader]
        assert sum(marked) == counts["dropped_by_kernel"]


# ---- bad input ------------------------------------------------------------------------------------------------------


def error_of(network: Network, *arguments: str, under: tuple[str, ...] = ()) -> str:
    """The one line of a zbufd capture that fails."""
    line = [os.fsdecode(one) for one in command("zbufd", "capture", *arguments)]
    done = subprocess.run(network.inside(*under, *line), capture_output=True, text=True, check=False, timeout=LIMIT_S)
    assert done.returncode == 1, done
    assert done.stdout == ""
    (said,) = done.stderr.splitlines()
    return said


def test_what_can_t_be_captured_is_one_line(wire: Network) -> None:
    wire.ip("link", "set", "zb", "down")
    nobody = (*READING, "--reuid=65534", "--clear-groups")
    assert error_of(wire, "-i", "nope") == "zbufd: nope: no such interface: zbufd interfaces lists what there is"
    assert error_of(wire, "-i", "zb") == "zbufd: zb: the interface is down: ip link set zb up"
    assert error_of(wire, "-i", "za", "-i", "za") == "zbufd: za: named twice: one -i is enough"
    with tempfile.TemporaryDirectory(prefix="zb") as theirs:
        os.chown(theirs, 65534, 65534)
        assert "CAP_NET_RAW" in error_of(wire, "-i", "lo", "--run-dir", theirs, under=nobody)
    assert "syntax error" in error_of(wire, "-i", "lo", "tcp", "prt")
    assert "lists 1 to" in error_of(wire, "-i", "99")


def test_interfaces_are_those_of_the_machine(wire: Network) -> None:
    line = [os.fsdecode(one) for one in command("zbufd", "interfaces", "--json")]
    done = subprocess.run(wire.inside(*line), capture_output=True, text=True, check=True)
    assert {*wire.names(), "any"} <= {one["name"] for one in json.loads(done.stdout)}
    assert "any (Pseudo-device" in run("zbufd", "interfaces").stdout
