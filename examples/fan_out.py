"""Share the work on one capture among processes, with no copy: python examples/fan_out.py NAME [WORKERS]

The workers join one descriptor. Each packet is in memory once, and every worker sees every packet, in place; it works
on the flows whose hash is its own. `zbufd replay --wait-readers 4` waits for all of them, so that none misses the
beginning.
"""

import multiprocessing
import signal
import sys
import threading
import zlib
from multiprocessing.connection import Connection

from zbuf import Packet, Reader, ZbufError, connect

SOURCE, DESTINATION = slice(26, 30), slice(30, 34)  # the addresses of IPv4 in an Ethernet frame


def share_of(packet: Packet, workers: int) -> int:
    """Which worker a packet is for, the same in both directions; if it is not IPv4, the bytes in that place decide."""
    return (zlib.crc32(packet.data[SOURCE]) ^ zlib.crc32(packet.data[DESTINATION])) % workers


def count(reader: Reader, number: int, workers: int) -> int:
    """Count the packets of one share, to the end or SIGTERM."""
    stopped = threading.Event()

    def stop(*_: object) -> None:
        stopped.set()  # for a reader that always has a next buffer,
        reader.interrupt()  # and for one that waits

    signal.signal(signal.SIGTERM, stop)
    packets = 0
    for buffer in reader.buffers():
        packets += sum(share_of(packet, workers) == number for packet in buffer)
        if stopped.is_set():
            break
    return packets


def work(name: str, number: int, workers: int, result: Connection) -> None:
    """Be one worker; send what it counted, or what went wrong."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # main() passes Ctrl-C on
    try:
        with connect(name, join="fan_out") as reader:
            result.send(count(reader, number, workers))
    except ZbufError as error:
        result.send(error)


def start(name: str, number: int, workers: int) -> tuple[multiprocessing.Process, Connection]:
    """Start one worker; returns it, and where its result comes from."""
    receiving, sending = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.Process(target=work, args=(name, number, workers, sending), daemon=True)
    process.start()
    sending.close()  # only the worker's own is left, so we see its end
    return process, receiving


def main(name: str, workers: int) -> None:
    """Start the workers, and print what each of them counted."""
    started = [start(name, number, workers) for number in range(workers)]

    def stop(*_: object) -> None:
        for one in started:
            one[0].terminate()

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    results = [result.recv() for _, result in started]
    for failed in (one for one in results if isinstance(one, ZbufError)):
        raise failed
    for number, packets in enumerate(results):
        print(f"worker {number}: {packets} packets")
    print(f"together: {sum(results)} packets")


if __name__ == "__main__":
    try:
        main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 4)
    except ZbufError as error:
        sys.exit(f"fan_out: {error}")
    except EOFError:
        sys.exit("fan_out: a worker was killed")
