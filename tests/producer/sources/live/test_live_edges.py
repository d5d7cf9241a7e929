"""Interfaces of other kinds, under other names, with other options: as tcpdump has them in the same run."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from support.commands import Commands, command, run
from support.live_lab import LiveLab, datagram, end_dump, frame, packets_in, send
from support.network import Network, needs_namespace
from support.processes import LIMIT_S

from zbuf.consumer import connect

pytestmark = [needs_namespace, pytest.mark.slow, pytest.mark.usefixtures("run_dir")]

MIX = [frame(number, 60 + number * 7 % 1400) for number in range(30)]
NOT_UTF_8 = os.fsdecode(b"zb\xff")

TALKER = """
import socket, sys
heard = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
heard.bind(("127.0.0.1", 0))
for number in range(int(sys.argv[1])):
    heard.sendto(b"talk", heard.getsockname())
"""


def talk(network: Network, datagrams: int) -> None:
    """Send datagrams over the loopback interface."""
    subprocess.run(network.inside(sys.executable, "-c", TALKER, str(datagrams)), check=True)


def catch_output(network: Network, *target: str) -> None:
    """Have netfilter hand UDP packets that leave to a target of iptables; skip where it can't."""
    line = network.inside("iptables", "-A", "OUTPUT", "-p", "udp", "-j", *target)
    try:
        done = subprocess.run(line, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("needs iptables")
    if done.returncode:
        pytest.skip(f"no {target[0]} in this kernel: {done.stderr.strip()}")


def said_by(network: Network, name: str, *arguments: str) -> str:
    """The output of a command that ends well."""
    line = [os.fsdecode(one) for one in command(name, *arguments)]
    done = subprocess.run(network.inside(*line), capture_output=True, text=True, check=False, timeout=LIMIT_S)
    assert done.returncode == 0, done
    return done.stdout


# ---- any, link types, time stamps -----------------------------------------------------------------------------------


def test_any_tells_the_interface_of_each_packet(wire: Network, commands: Commands, producer_name: str) -> None:
    lab = LiveLab(wire, commands, producer_name, "-i", "any", "-Q", "in")
    with connect(producer_name) as reader, connect(producer_name, filter=f"ifindex {wire.index('za')}") as only:
        assert reader.linktype == 276
        send(wire, MIX[:5], "za")
        send(wire, MIX[5:10], "zb")
        lab.wait_offered(10)
        lab.end()
        found = [(packet.direction, *struct.unpack_from(">4xI", packet)) for packet in reader]
        assert sorted(found) == sorted([("in", wire.index("zb"))] * 5 + [("in", wire.index("za"))] * 5)
        assert [bytes(packet)[20:] for packet in only] == [one[14:] for one in MIX[5:10]]


def test_vlan_filter_on_any_is_refused_in_libpcap_s_words(
    wire: Network, commands: Commands, producer_name: str
) -> None:
    lab = LiveLab(wire, commands, producer_name, "-i", "any")
    done = run("zbuf", "dump", producer_name, "vlan", "50")
    assert (done.returncode, done.stderr) == (1, "zbuf: filter 'vlan 50': no VLAN support for Linux cooked v2\n")
    lab.end()


def test_link_type_can_be_chosen_and_filters_look_behind_its_tags(
    wire: Network, commands: Commands, producer_name: str
) -> None:
    lab = LiveLab(wire, commands, producer_name, "-i", "any", "-y", "LINUX_SLL", "-Q", "in")
    with connect(producer_name, filter="udp port 53") as reader:
        assert reader.linktype == 113
        frames = [datagram(number, tags) for number, tags in enumerate([(), (50,), (100, 50)])]
        send(wire, frames)
        lab.wait_offered(len(frames))
        lab.end()
        assert [bytes(packet)[14:] for packet in reader] == [one[12:] for one in frames[:2]]


def test_link_types_and_time_stamp_types_are_listed_as_tcpdump_lists_them(wire: Network) -> None:
    for interface, option in (("any", "-L"), ("lo", "-L"), ("lo", "-J"), ("zb", "-J")):
        judged = subprocess.run(
            wire.inside("tcpdump", "-i", interface, option), capture_output=True, text=True, check=True
        )
        assert said_by(wire, "zbufd", "capture", "-i", interface, option) == (judged.stdout or judged.stderr)


@pytest.mark.parametrize("mode", [(), ("--immediate-mode",)], ids=["blocks", "immediate"])
def test_micro_is_a_thousand_nanoseconds(
    wire: Network, commands: Commands, producer_name: str, mode: tuple[str, ...]
) -> None:
    lab = LiveLab(wire, commands, producer_name, "-i", "zb", "-j", "host", "--time-stamp-precision", "micro", *mode)
    with connect(producer_name) as reader:
        send(wire, MIX)
        lab.wait_offered(len(MIX))
        lab.end()
        assert {(packet.time_ns % 1000, packet.direction) for packet in reader} == {(0, "in")}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("-y", "FOO"), "zbufd: link type 'FOO': there is none of that name: -L lists those of an interface"),
        (
            ("-y", "LINUX_SLL"),
            "zbufd: zb: LINUX_SLL is not one of the DLTs supported by this device: zbufd capture -i zb -L lists them",
        ),
        (("-j", "foo"), "zbufd: time stamp type 'foo': there is none of that name: see pcap-tstamp(7), and -J"),
    ],
    ids=["no link type", "not of this interface", "no time stamp type"],
)
def test_option_that_can_t_be_is_one_line(wire: Network, options: tuple[str, ...], said: str) -> None:
    line = [os.fsdecode(one) for one in command("zbufd", "capture", "-i", "zb", *options)]
    done = subprocess.run(wire.inside(*line), capture_output=True, text=True, check=False, timeout=LIMIT_S)
    assert (done.returncode, done.stderr.splitlines()[-1:]) == (1, [said])


def test_precision_that_can_t_be_is_one_line() -> None:
    done = run("zbufd", "capture", "-i", "lo", "--time-stamp-precision", "pico")
    (line,) = done.stderr.splitlines()
    assert (done.returncode, "'pico' is not one of 'micro', 'nano'" in line) == (2, True)


# ---- netfilter ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("interface", "target"),
    [
        ("nflog:7", ("NFLOG", "--nflog-group", "7")),
        ("nfqueue:7", ("NFQUEUE", "--queue-num", "7", "--queue-bypass")),
    ],
    ids=["nflog", "nfqueue"],
)
def test_netfilter_gives_each_packet_once(
    wire: Network, commands: Commands, producer_name: str, interface: str, target: tuple[str, ...]
) -> None:
    catch_output(wire, *target)
    lab = LiveLab(wire, commands, producer_name, "-i", interface)
    with connect(producer_name) as reader:
        for number in range(1, 4):  # it waits anew after each of them
            talk(wire, 10)
            counts = lab.wait_offered(10 * number)["live"][0]
            assert (counts["state"], counts["lost"], counts["taken"]) == ("up", 0, 10 * number)
        assert "lost" not in lab.end()
        assert sum(b"talk" in bytes(packet) for packet in reader) == 30


# ---- names ----------------------------------------------------------------------------------------------------------


def test_renamed_interface_goes_on_under_the_name_that_readers_know(
    wire: Network, commands: Commands, producer_name: str, tmp_path: Path
) -> None:
    lab = LiveLab(wire, commands, producer_name, "-i", "zb", "--log-format", "text")
    dumping = lab.dump(tmp_path / "zbuf.pcapng")
    send(wire, MIX[:5])
    lab.wait_offered(5)
    wire.ip("link", "set", "zb", "name", "zz")  # Linux lets interfaces be renamed while they are up
    assert lab.wait_line("name is") == "zbufd: zb: its name is zz now: the capture goes on\n"
    send(wire, MIX[5:10])
    counts = lab.wait_offered(10)["live"][0]
    assert (counts["interface"], counts["state"], counts["lost"]) == ("zb", "up", 0)
    wire.ip("link", "set", "zz", "down")  # for libpcap, which goes by the name here, it is gone
    lab.wait_line("zb: lost")
    wire.ip("link", "set", "zz", "up")
    lab.wait_line("zb: is back")
    send(wire, MIX[10:15])
    lab.wait_offered(15)
    lab.end()
    end_dump(dumping)
    assert [packet[2] for packet in packets_in(tmp_path / "zbuf.pcapng")] == MIX[:15]


def test_interface_whose_name_is_not_utf_8_is_captured_on_and_listed(
    wire: Network, commands: Commands, producer_name: str, tmp_path: Path
) -> None:
    wire.add_wire("ya", NOT_UTF_8)
    lab = LiveLab(wire, commands, producer_name, "-i", NOT_UTF_8)
    dumping = lab.dump(tmp_path / "zbuf.pcapng")
    send(wire, MIX[:5], "ya")
    counts = lab.wait_offered(5)["live"][0]
    assert (counts["interface"], counts["taken"]) == (r"zb\xff", 5)
    assert r"zb\xff" in run("zbuf", "stats", producer_name).stdout
    lab.end()
    end_dump(dumping)
    assert [packet[2] for packet in packets_in(tmp_path / "zbuf.pcapng")] == MIX[:5]
    assert r".zb\xff [Up, Running]" in said_by(wire, "zbufd", "interfaces")
    assert r"zb\xff" in {one["name"] for one in json.loads(said_by(wire, "zbufd", "interfaces", "--json"))}


def test_interface_whose_name_is_not_utf_8_is_lost_down_and_back_without_a_traceback(
    wire: Network, commands: Commands, producer_name: str
) -> None:
    wire.add_wire("ya", NOT_UTF_8)
    lab = LiveLab(wire, commands, producer_name, "-i", NOT_UTF_8, "--metrics", "127.0.0.1:0")
    wire.ip("link", "set", NOT_UTF_8, "down")
    lab.wait_line("is down")
    wire.ip("link", "del", NOT_UTF_8)
    lab.wait_line("lost")
    wire.add_wire("ya", NOT_UTF_8)
    lab.wait_line("is back")
    lab.end()
    for engine in ("scapy", "auto"):
        line = [os.fsdecode(one) for one in command("zbufd", "capture", "-i", "nope\udcff", "--engine", engine)]
        done = subprocess.run(wire.inside(*line), capture_output=True, text=True, check=False, timeout=LIMIT_S)
        assert done.returncode == 1, done
        assert r"nope\xff" in done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr
