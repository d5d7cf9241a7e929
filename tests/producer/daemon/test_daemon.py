"""zbufd capture as a service: signals, configuration, who may read, metrics, systemd, the end after kill -9."""

import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.commands import Commands, command, run, wait_line
from support.live_lab import READING, LiveLab, end_dump, frame, packets_in, send
from support.network import Network, needs_namespace
from support.processes import LIMIT_S

from zbuf.consumer import connect
from zbuf.producer.daemon.configuration import Configuration, load
from zbuf.producer.daemon.systemd import Notifier
from zbuf.shared.errors import ConfigurationError, Refused

USER, OTHER, GROUP = 54321, 54322, 54399
FRAMES = [frame(number, 60 + number) for number in range(50)]

live = pytest.mark.usefixtures("run_dir")


@pytest.fixture
def start(wire: Network, commands: Commands, producer_name: str, run_dir: Path) -> Callable[..., LiveLab]:
    """start(options...): a capture on zb that logs text."""
    run_dir.chmod(0o755)

    def start_it(*options: str, **more: Any) -> LiveLab:
        return LiveLab(wire, commands, producer_name, "-i", "zb", "--log-format", "text", *options, **more)

    return start_it


def as_user(user: int, groups: str, *line: str) -> subprocess.CompletedProcess[str]:
    """Run zbuf as another user."""
    identity = [*READING, f"--reuid={user}", f"--regid={user}", f"--groups={groups or user}"]
    full = [*identity, *(os.fsdecode(one) for one in command("zbuf", *line))]
    return subprocess.run(full, capture_output=True, text=True, check=False, timeout=LIMIT_S)


# ---- configuration --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('engine = "pcapp"', "line 1: engine: .*auto, pcap or scapy"),
        ('\nenginee = "pcap"', "line 2: enginee: no such key: do you mean engine"),
        ("made-up = 1", "line 1: made-up: no such key: there are allow, buffer-size, "),
        ('buffer-size = "0"', "line 1: buffer-size: buffer size 0: it must be more than zero"),
        ('buffer-size = "much"', "line 1: buffer-size: buffer size 'much': write bytes, or a number with k, M or G"),
        ('\n\nfilter = "tcp prt"', "line 3: filter: filter 'tcp prt': .*syntax error"),
        ('[[allow]]\nusers=["root"]\n[[allow]]\nusers=["no-such-user"]', r"line 4: allow\[1\].users: no user 'no-such"),
        ('[[allow]]\nuser=["a"]', r"line 2: allow\[0\].user: no such key: do you mean users"),
        ('[[allow]]\nfilter="tcp"', r"line 1: allow\[0\]: an allow rule without users and groups allows nobody"),
        ('interface = ["a"]\n[[allow]]\nusers=["0"]\ninterfaces=["b"]', "line 4: .*interface 'b' is not one of"),
        ("kernel-buffer = 0", "line 1: kernel-buffer: .*1 to 2097151 KiB"),
        ('mode = "999"', 'line 1: mode: .*such as "0660"'),
        ('metrics = "here"', 'line 1: metrics: .*"127.0.0.1:9477"'),
        ('metrics = "a:99999"', "line 1: metrics: port 99999 is more than 65535"),
        ('interface = "lo"', "line 1: interface: .*a list of strings"),
        ('group = "no-such-group"', "line 1: group: no group 'no-such-group'"),
        ("max-readers = 0", "line 1: max-readers: .*1 to 65536"),
        ("a b c", "line 1: .*not TOML"),
        ('max-memory-per-user = ""', "line 1: max-memory-per-user: '' is not a size"),
        ('user = "a\\u0000b"', "line 1: user: no user"),
        ('user = "\\u0663"', "line 1: user: no user"),
    ],
)
def test_bad_configuration_names_file_line_key_and_what_is_allowed(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "zbufd.toml"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=f"^{re.escape(str(file))}: {said}") as caught:
        load(str(file))
    assert "\n" not in str(caught.value)
    done = run("zbufd", "check-config", file)
    assert (done.returncode, done.stderr) == (1, f"zbufd: {' '.join(str(caught.value).split())}\n")


def test_flags_come_before_the_file(tmp_path: Path) -> None:
    file = tmp_path / "zbufd.toml"
    file.write_text('engine = "scapy"\nmax-readers = 3')
    found = load(str(file), {"engine": "pcap"})
    assert (found.engine, found.max_readers) == ("pcap", 3)
    with pytest.raises(ConfigurationError, match=r"^--engine: .*auto, pcap or scapy"):
        load(str(file), {"engine": "none"})


def test_every_key_is_a_flag_and_the_other_way_round() -> None:
    flags = set(re.findall(r"--([a-z-]+)", run("zbufd", "capture", "--help").stdout))
    assert (
        flags
        - {"help", "config", "list-data-link-types", "list-time-stamp-types"}
        - set(Configuration.__struct_encode_fields__)
        == set()
    )
    assert set(Configuration.__struct_encode_fields__) - flags == {"allow", "filter"}  # the filter is an argument


def test_configuration_that_is_not_there_is_one_line() -> None:
    done = run("zbufd", "capture", "--config", "/no/such.toml")
    assert (done.returncode, done.stderr) == (1, "zbufd: /no/such.toml: No such file or directory\n")


# ---- signals and logs -----------------------------------------------------------------------------------------------


@needs_namespace
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_flushes_the_tail_and_reports(start: Callable[..., LiveLab], tmp_path: Path, number: int) -> None:
    lab = start()
    dumping = lab.dump(tmp_path / "out.pcapng", "--buffer-size", "1M")
    send(lab.network, FRAMES)
    lab.wait_offered(len(FRAMES))
    lab.signal(number)
    _, said = lab.process.communicate(timeout=LIMIT_S)
    assert lab.process.returncode == 0
    assert f"{len(FRAMES)} packets captured, 0 dropped by kernel" in said
    end_dump(dumping)
    assert [packet[2] for packet in packets_in(tmp_path / "out.pcapng")] == FRAMES


@needs_namespace
@pytest.mark.slow
def test_reader_that_takes_nothing_is_waited_for_as_long_as_it_may_linger(start: Callable[..., LiveLab]) -> None:
    lab = start("--linger", "0.3")
    with connect(lab.name):
        send(lab.network, FRAMES)
        lab.wait_offered(len(FRAMES))
        assert "readers have not taken everything within 0.3 s" in lab.end()


@needs_namespace
@pytest.mark.slow
def test_usr1_logs_one_line_of_statistics(start: Callable[..., LiveLab]) -> None:
    lab = start()
    send(lab.network, FRAMES)
    lab.wait_offered(len(FRAMES))
    lab.signal(signal.SIGUSR1)
    assert f"{len(FRAMES)} packets captured" in lab.wait_line("captured")
    lab.end()


@needs_namespace
@pytest.mark.slow
def test_log_is_json_lines_where_there_is_no_terminal(
    wire: Network, commands: Commands, producer_name: str, run_dir: Path
) -> None:
    assert run_dir.exists()
    lab = LiveLab(wire, commands, producer_name, "-i", "zb")
    lines = [json.loads(line) for line in lab.end().splitlines()]
    assert lines[-1]["ledger"]["received"] == 0
    assert {"time", "level", "message"} <= set(lines[-1])


@needs_namespace
@pytest.mark.slow
def test_reload_changes_what_can_be_changed_and_keeps_the_old_where_the_new_is_broken(
    start: Callable[..., LiveLab], tmp_path: Path
) -> None:
    file = tmp_path / "zbufd.toml"
    file.write_text("max-descriptors = 1")
    lab = start("--config", str(file))
    with connect(lab.name):
        with pytest.raises(Refused, match="all 1 descriptors"):
            connect(lab.name)
        file.write_text('max-descriptors = 2\nengine = "scapy"')
        lab.signal(signal.SIGHUP)
        lab.wait_line("reloaded: max-descriptors")
        lab.wait_line("reload: engine: changes with the next start only")
        connect(lab.name).close()
        file.write_text('max-descriptors = 3\nengine = "scapy"')
        lab.signal(signal.SIGHUP)
        lab.wait_line("reload: engine: changes with the next start only")  # still
        file.write_text("max-descriptors = no")
        lab.signal(signal.SIGHUP)
        assert f"reload: {file}: " in lab.wait_line("the old configuration stays")
        connect(lab.name).close()
    lab.end()


def test_abstract_socket_of_systemd_is_told_too(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(f"\0zbuf-{os.getpid()}")
        monkeypatch.setenv("NOTIFY_SOCKET", f"@zbuf-{os.getpid()}")
        monkeypatch.setenv("WATCHDOG_USEC", "600000")
        monkeypatch.setenv("WATCHDOG_PID", "1")
        notifier = Notifier()
        notifier.send(READY=1, STATUS="two\nlines")
        assert systemd.recv(4096) == b"READY=1\nSTATUS=two lines"
        assert notifier.watchdog_s is None  # somebody else's


@needs_namespace
@pytest.mark.slow
def test_systemd_is_told(start: Callable[..., LiveLab], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(LIMIT_S)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "600000")
        monkeypatch.delenv("WATCHDOG_PID", raising=False)
        lab = start()
        assert systemd.recv(4096).decode() == f"READY=1\nSTATUS=capturing as {lab.name}"
        assert systemd.recv(4096).decode().startswith(f"WATCHDOG=1\nSTATUS={lab.name}: 0 packets captured")
        lab.end()
        while not (said := systemd.recv(4096).decode()).startswith("STOPPING=1"):
            assert said.startswith("WATCHDOG=1")


# ---- metrics --------------------------------------------------------------------------------------------------------


@needs_namespace
@pytest.mark.slow
def test_metrics_are_what_stats_say_and_health_is_the_interface_s(start: Callable[..., LiveLab]) -> None:
    lab = start("--metrics", "127.0.0.1:9477")

    def get(path: str) -> tuple[int, str]:
        code = (
            "import sys, urllib.request as u, urllib.error as e\n"
            "try: a = u.urlopen(sys.argv[1])\n"
            "except e.HTTPError as error: a = error\n"
            "print(a.status); print(a.read().decode())"
        )
        line = lab.network.inside(shutil.which("python3") or "python3", "-c", code, f"http://127.0.0.1:9477{path}")
        status, _, text = subprocess.run(line, capture_output=True, text=True, check=True).stdout.partition("\n")
        return int(status), text

    with connect(lab.name) as reader:
        send(lab.network, FRAMES)
        lab.wait_offered(len(FRAMES))
        values = dict(line.rsplit(" ", 1) for line in get("/metrics")[1].splitlines() if line and line[0] != "#")
        assert float(values["zbuf_offered_packets_total"]) == len(FRAMES)
        assert float(values['zbuf_interface_received_packets_total{interface="zb"}']) == len(FRAMES)
        assert float(values['zbuf_interface_taken_bytes_total{interface="zb"}']) == sum(map(len, FRAMES))
        labels = f'{{descriptor="{reader.descriptor}",join=""}}'
        ledger = {
            name: float(values.get(f"zbuf_descriptor_{name}_packets{end}{labels}", "nan"))
            for name, end in [(one, "_total") for one in ("received", "filtered", "accepted", "delivered", "dropped")]
            + [("buffered", "")]
        }
        assert ledger["received"] == ledger["filtered"] + ledger["accepted"] == len(FRAMES)
        assert ledger["accepted"] == ledger["delivered"] + ledger["dropped"] + ledger["buffered"]
    assert get("/healthz") == (200, "ok\n\n")
    assert get("/else")[0] == 404
    lab.network.ip("link", "del", "zb")
    lab.wait_line("lost")
    assert get("/healthz") == (503, "lost: zb\n\n")
    lab.end()


def test_port_that_is_taken_is_one_line(run_dir: Path) -> None:
    assert run_dir.exists()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        done = run("zbufd", "capture", "-i", "lo", "--metrics", where)
    assert done.returncode == 1
    assert done.stderr == f"zbufd: --metrics {where}: Address already in use: choose another address\n"


# ---- who may do what ------------------------------------------------------------------------------------------------


@needs_namespace
@pytest.mark.slow
def test_root_and_its_capabilities_are_dropped_by_every_thread(start: Callable[..., LiveLab], run_dir: Path) -> None:
    lab = start("--user", str(USER), "--group", str(GROUP), "--run-dir", str(run_dir / "own"))
    tasks = list(Path(f"/proc/{lab.process.pid}/task").iterdir())
    assert len(tasks) >= 3
    for task in tasks:
        status = dict(line.split(":\t", 1) for line in (task / "status").read_text().splitlines() if ":\t" in line)
        assert status["Uid"].split() == status["Gid"].split() == [str(USER)] * 4
        assert status["Groups"].split() == [str(USER), str(GROUP)]
        assert {int(status[name], 16) for name in ("CapEff", "CapPrm", "CapBnd")} == {1 << 13}
        assert status["NoNewPrivs"] == "1"
    socket_file = run_dir / "own" / f"{lab.name}.sock"
    assert (stat.S_IMODE(socket_file.stat().st_mode), socket_file.stat().st_gid) == (0o660, GROUP)
    own = (run_dir / "own" / lab.name).stat()
    assert (stat.S_IMODE(own.st_mode), own.st_uid, own.st_gid) == (0o2710, USER, GROUP)
    parent = (run_dir / "own").stat()
    assert (stat.S_IMODE(parent.st_mode), parent.st_uid, parent.st_gid) == (0o755, 0, 0)
    wanted = ("stats", lab.name, "--run-dir", str(run_dir / "own"))
    assert as_user(OTHER, str(GROUP), *wanted).returncode == 0
    refused = as_user(OTHER, "", *wanted)
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"zbuf: producer '{lab.name}': no permission to use its socket")
    with connect(lab.name, filter="less 1000", run_dir=run_dir / "own") as reader:
        send(lab.network, FRAMES)
        lab.signal(signal.SIGUSR1)
        assert "Traceback" not in lab.wait_line("captured")
        assert reader.next_buffer(timeout=LIMIT_S) is not None
    lab.network.ip("link", "del", "zb")  # what is kept is enough to open it again
    lab.wait_line("lost")
    lab.network.add_wire()
    lab.wait_line("is back")
    lab.end()
    assert list((run_dir / "own").iterdir()) == []


@pytest.fixture
def restricted(start: Callable[..., LiveLab], tmp_path: Path) -> tuple[LiveLab, Path]:
    """A capture that USER may see small packets of, and others nothing."""
    file = tmp_path / "zbufd.toml"
    file.write_text(f'[[allow]]\nusers = ["{USER}"]\nfilter = "less 80"\n')
    return start("--mode", "0666", "--config", str(file), "--max-descriptors-per-user", "1"), file


@needs_namespace
@pytest.mark.slow
def test_user_who_is_not_allowed_is_refused_by_name_and_logged(restricted: tuple[LiveLab, Path]) -> None:
    lab, _ = restricted
    done = as_user(OTHER, "", "dump", lab.name, "-c", "1")
    assert done.returncode == 1
    assert done.stderr == f"zbuf: user {OTHER} is not allowed to read this capture: its allow list says who is\n"
    assert "not on the allow list" in lab.wait_line(f"refused user {OTHER} (uid {OTHER}")
    lab.end()


@needs_namespace
@pytest.mark.slow
@pytest.mark.parametrize("expression", ["", "less 80 or greater 1", "ether[0] >= 0"])
def test_guard_can_t_be_got_round(
    restricted: tuple[LiveLab, Path], commands: Commands, tmp_path: Path, expression: str
) -> None:
    lab, _ = restricted
    line = [*READING, f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
    line += [os.fsdecode(one) for one in command("zbuf", "dump", lab.name, "-w", "-", expression)]
    with (tmp_path / "out").open("wb") as out:
        dumping = commands.adopt(subprocess.Popen(line, stdout=out, stderr=subprocess.PIPE, text=True))
        wait_line(dumping.stderr, "reading")
        second = as_user(USER, "", "dump", lab.name)
        assert second.stderr == "zbuf: all 1 descriptors that a user may open are in use: join one\n"
        send(lab.network, FRAMES)
        lab.wait_offered(len(FRAMES))
        lab.end()
        dumping.wait(LIMIT_S)
    assert [packet[2] for packet in packets_in(tmp_path / "out")] == [one for one in FRAMES if len(one) <= 80]


@needs_namespace
@pytest.mark.slow
def test_reload_hangs_up_on_those_who_may_see_something_else_now(
    restricted: tuple[LiveLab, Path], commands: Commands
) -> None:
    lab, file = restricted
    line = [*READING, f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
    line += [os.fsdecode(one) for one in command("zbuf", "dump", lab.name)]
    dumping = commands.adopt(subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    wait_line(dumping.stderr, "reading")
    with connect(lab.name, timeout_ms=10) as ours:
        file.write_text(f'[[allow]]\nusers = ["{OTHER}"]\n')
        lab.signal(signal.SIGHUP)
        lab.wait_line("the allow list has changed")
        _, said = dumping.communicate(timeout=LIMIT_S)
        assert dumping.returncode == 1
        assert said.splitlines()[-1].endswith("or is not allowed any more")
        send(lab.network, FRAMES[:1])
        assert [bytes(packet) for packet in ours.next_buffer(timeout=LIMIT_S) or ()] == FRAMES[:1]
    lab.end()


@needs_namespace
@pytest.mark.slow
def test_joining_what_somebody_else_may_see_is_refused(restricted: tuple[LiveLab, Path]) -> None:
    lab, _ = restricted
    with connect(lab.name, join="all"):
        done = as_user(USER, "", "dump", lab.name, "--join", "all")
        assert done.stderr == "zbuf: descriptor 'all' shows something else than you may see: join another\n"
    lab.end()


@needs_namespace
@pytest.mark.slow
def test_memory_of_a_user_is_limited(start: Callable[..., LiveLab]) -> None:
    lab = start("--max-memory-per-user", "1M")
    with connect(lab.name, buffer_size=1 << 18):
        with pytest.raises(Refused, match="who may have 1048576: use smaller buffers"):
            connect(lab.name, buffer_size=1 << 19)
        connect(lab.name, buffer_size=1 << 18).close()
    lab.end()


# ---- slow readers ---------------------------------------------------------------------------------------------------


@needs_namespace
@pytest.mark.slow
@pytest.mark.parametrize("policy", ["drop", "evict"])
def test_stopped_reader_of_a_shared_descriptor_is_evicted_where_that_is_the_policy(
    start: Callable[..., LiveLab], commands: Commands, policy: str
) -> None:
    lab = start("--slow-readers", policy, "--evict-after", "0.2", "--buffer-size", "4K")
    stopped = commands.start("zbuf", "dump", lab.name, "--join", "ids", "-w", "/dev/null")
    wait_line(stopped.stderr, "reading")
    with connect(lab.name, join="ids") as reader:
        stopped.send_signal(signal.SIGSTOP)
        limit = time.monotonic() + LIMIT_S
        while lab.stats()["evicted"] == 0 and not lab.stats()["descriptors"][0]["dropped"]:
            send(lab.network, FRAMES)
            while reader.next_buffer(timeout=0) is not None:
                assert time.monotonic() < limit
        found = lab.stats()["descriptors"][0]
        if policy == "drop":
            assert [one["pid"] for one in found["readers"] if one["stalls"]] == [stopped.pid]
            assert found["dropped"] > 0
            assert lab.stats()["evicted"] == 0
        else:
            assert f"pid {stopped.pid}" in lab.wait_line("evicted reader")
            send(lab.network, FRAMES)
            assert reader.next_buffer(timeout=LIMIT_S) is not None
        stopped.send_signal(signal.SIGCONT)
        if policy == "evict":
            _, said = stopped.communicate(timeout=LIMIT_S)
            assert stopped.returncode == 1
            assert "took this reader off" in said.splitlines()[-1]
    lab.end()


# ---- after kill -9 --------------------------------------------------------------------------------------------------


@needs_namespace
@pytest.mark.slow
@pytest.mark.parametrize("how", ["zbuf salvage", "--salvage"])
def test_what_a_killed_daemon_left_is_saved_and_the_next_start_is_clean(
    start: Callable[..., LiveLab], tmp_path: Path, how: str
) -> None:
    lab = start()
    with connect(lab.name, timeout_ms=0):
        send(lab.network, FRAMES)
        lab.wait_offered(len(FRAMES))
        lab.process.kill()
        lab.process.wait()
    if how == "zbuf salvage":
        assert run("zbuf", "salvage", lab.name, "-w", tmp_path / "saved.pcapng").returncode == 0
        again = start()
    else:
        again = start("--salvage", str(tmp_path))
    (saved,) = tmp_path.glob("*.pcapng")
    assert [packet[2] for packet in packets_in(saved)] == FRAMES
    assert not list(Path("/dev/shm").glob(f"zbuf.{lab.name}.*"))
    assert again.stats()["offered"] == 0
    again.end()
