"""Every way in which a reader ends, and what it says then; a closed reader is no empty one."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from support.commands import Commands, end, wait_line
from support.embedding import PER_PAGE
from support.processes import LIMIT_S, Lab, Remote, number_of, take, take_all
from support.replays import wait_for_readers

from zbuf.consumer import Reader, connect, connect_async
from zbuf.shared.errors import ValueRefused

HANG_UP = "producer._control._soon(lambda: [one.hang_up() for one in producer._control._sessions])"
"""What becomes of a reader that the allow list names no more; root, as which tests run, is always on the list."""


def close(lab: Lab) -> None:
    lab.close()


def kill(lab: Lab) -> None:
    lab.kill()


def take_the_right_away(lab: Lab) -> None:
    lab.process.do(HANG_UP)


ENDS: dict[str, tuple[Callable[[Lab], None], str]] = {
    "closed": (close, "closed"),
    "killed": (kill, "producer died"),
    "not allowed any more": (take_the_right_away, "evicted"),
}


@pytest.mark.parametrize("options", [{}, {"wait": "spin"}, {"join": "g"}], ids=["alone", "spinning", "joined"])
@pytest.mark.parametrize("how", ENDS)
def test_reader_says_how_it_ended_after_the_last_packet(lab: Lab, how: str, options: dict[str, Any]) -> None:
    bring_about, reason = ENDS[how]
    with connect(lab.name, immediate=True, **options) as reader:
        lab.append(3)
        bring_about(lab)
        found = take_all(reader)
        assert found == [0, 1, 2][: 1 if reason == "evicted" else 3]  # of these, one was assigned at once
        assert (reader.finished, reader.end_reason) == (True, reason)
    assert reader.end_reason == reason


@pytest.mark.parametrize("how", ENDS)
def test_reader_that_waits_says_how_it_ended(lab: Lab, remote: Callable[[], Remote], how: str) -> None:
    bring_about, reason = ENDS[how]
    process = remote()
    process.do("reader = connect(name)", name=lab.name)
    process.begin("(take_all(reader), reader.end_reason)")
    bring_about(lab)
    assert process.result() == ([], reason)


@pytest.mark.parametrize("how", ENDS)
def test_asynchronous_reader_says_how_it_ended(lab: Lab, how: str) -> None:
    bring_about, reason = ENDS[how]

    async def read() -> tuple[list[int], str | None]:
        async with connect_async(lab.name, immediate=True) as reader:
            lab.append()
            bring_about(lab)
            return [number_of(bytes(packet)) async for packet in reader], reader.end_reason

    assert asyncio.run(read()) == ([0], reason)


def test_reader_that_loses_its_right_leaves_the_others_of_its_descriptor_alone(
    lab: Lab, remote: Callable[[], Remote]
) -> None:
    process = remote()
    with connect(lab.name, join="g", immediate=True) as reader:
        process.do("reader = connect(name, join='g')", name=lab.name)
        process.begin("(take_all(reader), reader.end_reason)")
        one = "[one for one in producer._control._sessions if one.peer.pid == pid][0]"
        lab.process.do(f"producer._control._soon({one}.hang_up)", pid=process.pid)
        assert process.result() == ([], "evicted")
        numbers = lab.append()
        assert take(reader, 1) == numbers


def test_slow_reader_that_is_evicted_says_so(remote: Callable[[], Remote], producer_name: str) -> None:
    producer = remote()
    producer.do("producer = Producer(name, linger_s=0, limits=Limits(evict_after_s=0.05))", name=producer_name)
    joined = {"join": "g", "buffer_size": 4096}
    with connect(producer_name, **joined) as quick, connect(producer_name, **joined) as slow:  # type: ignore[call-overload]
        while not producer.ask("producer.stats().evicted"):
            producer.do("for number in range(200): producer.append(numbered(number))")
            while quick.next_buffer(timeout=0) is not None:
                pass
        for _ in slow.buffers():  # it has what it was assigned
            pass
        assert slow.end_reason == "evicted"


def test_reconnecting_reader_ends_where_it_was_taken_off(lab: Lab) -> None:
    with connect(lab.name, reconnect=True, immediate=True) as reader:
        lab.append()
        take_the_right_away(lab)
        assert take_all(reader) == [0]
        assert (reader.finished, reader.end_reason) == (True, "evicted")


# ---- commands -------------------------------------------------------------------------------------------------------

COMMANDS = {
    "dump": ["dump", "{}", "-w", "/dev/null"],
    "measure": ["measure", "{}", "-a", "20"],
}
SAID = {
    "killed": "{} died; everything that it had appended is here",
    "not allowed any more": "{} took this reader off: it was too slow for others, or is not allowed any more",
}


@pytest.mark.parametrize("how", SAID)
@pytest.mark.parametrize("which", COMMANDS)
def test_command_whose_reader_did_not_see_the_end_fails_and_says_why(
    commands: Commands, lab: Lab, which: str, how: str
) -> None:
    process = commands.start("zbuf", *(word.format(lab.name) for word in COMMANDS[which]))
    wait_line(process.stderr, "zbuf: ")
    wait_for_readers(lab.name, 1)
    ENDS[how][0](lab)
    done = end(process)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"zbuf: {SAID[how].format(lab.name)}"


# ---- after close() --------------------------------------------------------------------------------------------------

USES: dict[str, Callable[[Any], object]] = {
    "packets": lambda reader: next(iter(reader)),
    "buffers": lambda reader: next(reader.buffers()),
    "batches": lambda reader: next(reader.index_batches()),
    "next buffer": lambda reader: reader.next_buffer(),
    "list": list,
}


@pytest.mark.parametrize("reconnect", [False, True])
@pytest.mark.parametrize("use", USES)
def test_closed_reader_is_no_empty_one(lab: Lab, use: str, reconnect: bool) -> None:
    with connect(lab.name, reconnect=reconnect) as reader:
        pass
    with pytest.raises(ValueRefused, match=f"reader of '{lab.name}' is closed: connect again"):
        USES[use](reader)
    assert (reader.finished, reader.end_reason) == (True, "left")


def test_closed_asynchronous_reader_is_no_empty_one(lab: Lab) -> None:
    async def use() -> None:
        async with connect_async(lab.name) as reader:
            pass
        with pytest.raises(ValueRefused, match="is closed"):
            await reader.next_buffer()
        with pytest.raises(ValueRefused, match="is closed"):
            async for _ in reader:
                pass

    asyncio.run(use())


def test_reader_that_has_ended_and_is_not_closed_is_empty(lab: Lab) -> None:
    with connect(lab.name) as reader:
        lab.close()
        for _ in range(2):
            assert list(reader) == []
            assert reader.next_buffer() is None


def test_closing_a_reader_ends_the_wait_of_another_thread(lab: Lab) -> None:
    reader = connect(lab.name)
    found: list[object] = []
    waiting = threading.Thread(target=lambda: found.append(reader.next_buffer(timeout=LIMIT_S)))
    waiting.start()
    while not reader.sleeps:
        pass
    reader.interrupt()
    waiting.join()
    reader.close()
    assert (found, reader.end_reason) == ([None], "left")


# ---- whatever a variable holds --------------------------------------------------------------------------------------


def keep_data_of_packets(reader: Reader) -> int:
    count = 0
    for packet in reader:
        data = packet.data
        count += len(data) > 0
    return count


def keep_the_beginning_of_buffers(reader: Reader) -> int:
    count = 0
    for buffer in reader.buffers():
        first = buffer.data[:14]
        count += buffer.packets if len(first) else 0
    return count


def keep_data_of_batches(reader: Reader) -> int:
    count = 0
    for batch in reader.index_batches():
        data = batch.data
        count += len(batch) if len(data) else 0
    return count


def keep_data_and_count(reader: Reader) -> int:
    kept = [0]
    for packet, number in zip(reader, range(1 << 62), strict=False):
        data = packet.data
        kept = [number + 1 if len(data) else 0]
    return kept[0]


LOOPS = [keep_data_of_packets, keep_the_beginning_of_buffers, keep_data_of_batches, keep_data_and_count]


@pytest.mark.parametrize("reconnect", [False, True])
@pytest.mark.parametrize("loop", LOOPS)
def test_loop_that_keeps_a_view_gets_all_and_ends(
    remote: Callable[[], Remote], producer_name: str, loop: Callable[[Reader], int], reconnect: bool
) -> None:
    lab = Lab(remote(), producer_name, lossless=True, linger_s=0.2)
    with connect(producer_name, buffer_size=4096, reconnect=reconnect) as reader:
        found: list[int] = []
        looping = threading.Thread(target=lambda: found.append(loop(reader)))  # type: ignore[arg-type]
        looping.start()
        lab.append(10 * PER_PAGE + 3)
        lab.process.begin("producer.close()")
        if reconnect:
            while not reader.is_away:  # type: ignore[union-attr]
                pass
            reader.interrupt()
        looping.join(LIMIT_S)
        assert found == [10 * PER_PAGE + 3]
        lab.process.result()


@pytest.mark.parametrize("options", [{"timeout_ms": 10}, {"immediate": True}, {"timeout_ms": 10, "wait": "spin"}])
def test_slow_capture_goes_on_whatever_a_loops_variable_holds(lab: Lab, options: dict[str, Any]) -> None:
    with connect(lab.name, **options) as reader:
        packets = iter(reader)
        for _ in range(10):
            (number,) = lab.append()
            data = next(packets).data
            assert number_of(data) == number


def test_slow_capture_goes_on_in_asyncio_whatever_a_variable_holds(lab: Lab) -> None:
    async def read() -> None:
        async with connect_async(lab.name, timeout_ms=10) as reader:
            packets = aiter(reader)
            for _ in range(10):
                (number,) = lab.append()
                data = (await asyncio.wait_for(anext(packets), LIMIT_S)).data
                assert number_of(data) == number

    asyncio.run(read())


def test_views_of_all_packets_are_an_error_and_no_hang(remote: Callable[[], Remote], producer_name: str) -> None:
    lab = Lab(remote(), producer_name, lossless=True)
    with connect(producer_name, buffer_size=4096) as reader:
        lab.process.begin("for number in range(1000): producer.append(numbered(number))")
        with pytest.raises(
            BufferError, match=rf"{PER_PAGE} of your own views still hold buffer 0, .* Out\[\] may hold"
        ):
            [packet.data for packet in reader]
    lab.process.result()
