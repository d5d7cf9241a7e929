"""A process that the kernel kills at its first system call; test_no_system_calls.py runs it, one role at a time.

It warms up, so that Python and malloc(3) have memory in reserve, and then seals itself.

A seccomp filter that lets only exit(2) pass is the seal.  SECCOMP_MODE_STRICT would not do: it allows write(2), which
rings doorbells, and forbids rdtsc, by which clock_gettime(3) tells the time without a system call.
"""

import ctypes
import gc
import mmap
import os
import platform
import struct
import sys
from collections.abc import Callable

import posix_ipc

from zbuf.consumer.reading.segment_reader import SegmentReader
from zbuf.producer.ring.descriptor import Descriptor
from zbuf.producer.ring.pump import Pump
from zbuf.producer.sources.files.libpcap_file import CaptureFile
from zbuf.producer.sources.files.store import PacketStore
from zbuf.shared.memory.reader_pages import map_ack_page
from zbuf.shared.memory.segment import map_segment

BUFFERS = 1000
"""How many buffers a role takes or assigns once it is sealed."""
WARM_UP_BUFFERS = 50
EXIT_NUMBERS = {"x86_64": 60, "aarch64": 93}
"""The number of exit(2), which ends one thread, and so a process with one thread."""

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_SECCOMP_RET_ALLOW, _SECCOMP_RET_KILL_PROCESS = 0x7FFF0000, 0x80000000
_LOAD, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06  # instructions of classic BPF

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.argtypes = [ctypes.c_long, ctypes.c_long]
_libc.prctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_ulong]


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def seal() -> None:
    """Have the kernel kill this process at any system call from now on, except that of leave()."""
    assert len(os.listdir("/proc/self/task")) == 1, "a second thread would go on unsealed"
    gc.disable()
    instructions = b"".join(
        struct.pack("<HBBI", *instruction)
        for instruction in (
            (_LOAD, 0, 0, 0),
            (_JUMP_EQUAL, 0, 1, EXIT_NUMBERS[platform.machine()]),
            (_RETURN, 0, 0, _SECCOMP_RET_ALLOW),
            (_RETURN, 0, 0, _SECCOMP_RET_KILL_PROCESS),
        )
    )
    program = _Program(4, instructions)
    assert _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, None, 0, 0) == 0
    assert _libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0) == 0


def leave(status: int) -> None:
    """End the process by the one system call that is allowed."""
    _libc.syscall(EXIT_NUMBERS[platform.machine()], status)


# ---- roles: each warms up, says so, seals itself, works, and leaves with 0 if all was right -------------------


def say_ready() -> None:
    sys.stdout.write("ready\n")
    sys.stdout.flush()


def do(what: str) -> None:
    """Do nothing, or make one system call."""
    doings: dict[str, Callable[[], object]] = {
        "nothing": lambda: None,
        "getppid": os.getppid,
        "sched_yield": os.sched_yield,
        "write": lambda: os.write(2, b""),
        "read": lambda: os.read(0, 0),
        "exit_group": lambda: os._exit(0),
    }
    doing = doings[what]
    say_ready()
    seal()
    doing()
    leave(0)


def attach(segment_fd: int, ack_fd: int, doorbell: int) -> SegmentReader:
    memory, layout = map_segment(segment_fd)
    return SegmentReader(memory, layout, map_ack_page(ack_fd), doorbell=doorbell, sequence=0, spin_ns=-1)


def read_packets(reader: SegmentReader, until: int) -> bool:
    """Iterate over numbered packets until so many buffers were taken."""
    last = -1
    for packet in reader:
        number, size = packet.time_ns, packet.caplen
        if number <= last or size != len(packet) or packet.wirelen != size or packet.direction != "inout":
            return False
        if bytes(packet)[:4] != number.to_bytes(4, "little") or packet.data[4:].nbytes != size - 4:
            return False
        last = number
        if reader.sequence >= until:
            return True
    return False


def read_buffers(reader: SegmentReader, until: int) -> bool:
    """Take buffers, look at them as a whole, and give them back, until so many were taken."""
    while reader.sequence < until:
        buffer = reader.next_buffer()
        if buffer is None or buffer.totals()[0] != len(buffer) or len(buffer.index()) != len(buffer):
            return False
        buffer.acknowledge()
    return True


def read(how: str, *fds: str) -> None:
    work = {"packets": read_packets, "buffers": read_buffers}[how]
    reader = attach(*map(int, fds))
    say_ready()
    right = work(reader, WARM_UP_BUFFERS)
    seal()
    right = right and work(reader, WARM_UP_BUFFERS + BUFFERS)
    leave(0 if right and reader.sleeps == 0 else 1)


def descriptor_of(name: str, buffer_bytes: int, first: int, second: int, ack_fd: int, doorbell: int) -> Descriptor:
    shared = posix_ipc.SharedMemory(name)
    descriptor = Descriptor()
    descriptor.set_buffers(mmap.mmap(shared.fd, shared.size), first, second, buffer_bytes)
    descriptor.add_reader(1, mmap.mmap(ack_fd, mmap.PAGESIZE), doorbell)
    return descriptor


def append_until(descriptor: Descriptor, until: int) -> None:
    """Append packets one by one, and rotate now and then, until so many buffers were assigned."""
    data = [bytes(size) for size in range(60, 160)]
    while descriptor.slots()["next_sequence"] < until:
        for at, packet in enumerate(data):
            descriptor.append_bytes(packet, time_ns=at)
        descriptor.append_fragments((b"head", b"tail"))
        descriptor.rotate()
        descriptor.tick(until)


def store_of_packets(count: int) -> PacketStore:
    """A store of packets of many sizes."""
    fd = os.memfd_create("capture")
    os.write(fd, struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 262144, 1))
    for number in range(count):
        size = 4 + number % 1400
        os.write(fd, struct.pack("<IIII", 0, number, size, size) + bytes(size))
    os.lseek(fd, 0, os.SEEK_SET)
    store = PacketStore()
    store.load(CaptureFile(fd, "memory"), count)
    return store


def produce(how: str, name: str, *numbers: str) -> None:
    buffer_bytes, first, second, ack_fd, doorbell = map(int, numbers)
    descriptor = descriptor_of(name, buffer_bytes, first, second, ack_fd, doorbell)
    pump, store = Pump(), store_of_packets(3000)
    pump.attach(descriptor)

    def pump_until(descriptor: Descriptor, until: int) -> None:
        while descriptor.slots()["next_sequence"] < until:
            store.rewind(1)
            pump.run(store)

    work = {"append": append_until, "pump": pump_until}[how]
    say_ready()
    work(descriptor, WARM_UP_BUFFERS)
    seal()
    work(descriptor, WARM_UP_BUFFERS + BUFFERS)
    ledger = descriptor.ledger()
    accounted = ledger["delivered"] + ledger["dropped"] + ledger["buffered"]
    leave(0 if accounted == ledger["received"] and ledger["delivered"] and descriptor.bells == 0 else 1)


if __name__ == "__main__":
    roles: dict[str, Callable[..., None]] = {"do": do, "read": read, "produce": produce}
    roles[sys.argv[1]](*sys.argv[2:])
