"""Readers in asyncio event loops, in the loop's debug mode, against producers in processes of their own."""

import asyncio
import gc
import threading
from collections.abc import Callable, Iterator
from typing import Any, assert_type

import pytest
from support.processes import LIMIT_S, Lab, Remote, number_of, open_fds

from zbuf.consumer import AsyncReader, connect_async
from zbuf.shared.errors import ProducerNotFound, Refused, StaleBuffer, ValueRefused, ZbufError
from zbuf.shared.memory.segment import producer_lives


def run(coroutine: Any) -> Any:
    """In a loop that complains about everything, and within a limit."""

    async def limited() -> Any:
        async with asyncio.timeout(LIMIT_S):
            return await coroutine

    return asyncio.run(limited(), debug=True)


@pytest.fixture(autouse=True)
def _no_complaints(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """The loop's debug mode logs a callback that took too long, and a task whose exception nobody saw."""
    yield
    gc.collect()
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []


async def numbers(reader: AsyncReader) -> list[int]:
    return [number_of(bytes(packet)) async for packet in reader]


def test_packets_come_in_order_to_the_end_of_the_stream(lab: Lab) -> None:
    async def main() -> None:
        async with connect_async(lab.name, buffer_size=4096, filter="") as reader:
            sent = lab.append(20)
            lab.process.begin("producer.close()")
            assert await numbers(reader) == sent
            assert (reader.finished, reader.end_reason) == (True, "closed")
        lab.process.result()

    run(main())


def test_reader_can_be_awaited_and_closed_by_hand(lab: Lab) -> None:
    async def main() -> None:
        reader = assert_type(await connect_async(lab.name, snaplen=20), AsyncReader)
        async with reader:
            assert (reader.name, reader.linktype, reader.interfaces[0].name) == (lab.name, 1, lab.name)
        assert reader.end_reason == "left"
        reader.close()

    run(main())
    lab.wait_descriptors(0)


def test_waiting_wakes_for_each_packet_and_makes_no_busy_loop(lab: Lab) -> None:
    async def main() -> None:
        async with connect_async(lab.name, immediate=True) as reader:
            for number in range(50):
                waiting = asyncio.ensure_future(reader.next_buffer())
                await asyncio.sleep(0)
                assert not waiting.done()
                lab.append()
                buffer = await waiting
                assert buffer is not None
                assert [number_of(bytes(packet)) for packet in buffer] == [number]
            (descriptor,) = (await reader.stats()).descriptors
            assert descriptor.bells == 50

    run(main())


def test_idle_reader_leaves_the_loop_asleep(lab: Lab, remote: Callable[[], Remote]) -> None:
    """A process with an idle reader in its loop makes no system call but the one that it sleeps in."""
    process = remote()
    process.begin(
        """
        import asyncio, resource
        from zbuf.consumer import connect_async

        async def main():
            async with connect_async(name, timeout_ms=0) as reader:
                task = asyncio.ensure_future(reader.next_buffer())
                await asyncio.sleep(0.1)
                before = resource.getrusage(resource.RUSAGE_SELF)
                await asyncio.sleep(0.5)
                after = resource.getrusage(resource.RUSAGE_SELF)
                task.cancel()
                return after.ru_nvcsw - before.ru_nvcsw

        switches = asyncio.run(main())
        """,
        name=lab.name,
    )
    process.result()
    assert process.ask("switches") < 20


def test_several_readers_share_one_loop_and_each_gets_everything(lab: Lab) -> None:
    async def main() -> None:
        readers = [await connect_async(lab.name, buffer_size=1 << 16) for _ in range(8)]
        tasks = [asyncio.ensure_future(numbers(reader)) for reader in readers]
        lab.process.do("sent = 0")
        sent = lab.append(500)
        lab.process.begin("producer.close()")
        for found in await asyncio.gather(*tasks):
            assert found == sent
        lab.process.result()
        for reader in readers:
            reader.close()

    run(main())


@pytest.mark.slow
def test_flood_leaves_the_loop_responsive_and_every_packet_accounted_for(lab: Lab) -> None:
    lab.process.do(
        """
        def flood():
            while not producer.stopped:
                for number in range(1000):
                    producer.append(b"x" * 60)
        thread = threading.Thread(target=flood)
        """
    )

    async def main() -> None:
        async with connect_async(lab.name) as reader, connect_async(lab.name) as other:
            lab.process.do("thread.start()")
            ticks, found = 0, [0, 0]

            async def count(which: int, reader: AsyncReader) -> None:
                async for packet in reader:
                    assert packet.caplen == 60
                    found[which] += 1

            tasks = [asyncio.ensure_future(count(0, reader)), asyncio.ensure_future(count(1, other))]
            while min(found) < 200_000:
                await asyncio.sleep(0.001)
                ticks += 1
            assert ticks > 20  # the loop's other work went on
            lab.process.do("producer.stop(); thread.join(); producer.close()")
            await asyncio.gather(*tasks)
            for packets, one in zip(found, (reader, other), strict=True):
                ledger = one.reader.ledger()
                assert packets + ledger.dropped == ledger.accepted
                assert packets == ledger.delivered + ledger.buffered + ledger.abandoned

    run(main())


def test_timeout_loses_nothing(lab: Lab) -> None:
    async def main() -> None:
        async with connect_async(lab.name, immediate=True) as reader:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await reader.next_buffer()
            lab.append(3)
            lab.process.begin("producer.close()")
            assert await numbers(reader) == [0, 1, 2]
            lab.process.result()

    run(main())


def test_iterating_again_goes_on_where_a_timeout_struck(lab: Lab) -> None:
    async def collect(reader: AsyncReader, found: list[int]) -> None:
        async with asyncio.timeout(None) as limit:
            async for packet in reader:
                found.append(number_of(bytes(packet)))
                limit.reschedule(0)  # it strikes when others have their turn, in the middle of the buffer

    async def main() -> None:
        async with connect_async(lab.name) as reader:
            sent = lab.append(600)
            found: list[int] = []
            with pytest.raises(TimeoutError):
                await collect(reader, found)
            assert 0 < len(found) < 600
            async for packet in reader:
                found.append(number_of(bytes(packet)))
                if len(found) == 600:
                    break
            assert found == sent

    run(main())


def test_cancelled_task_leaves_the_reader_usable_and_nothing_registered(lab: Lab) -> None:
    async def main() -> None:
        async with connect_async(lab.name, immediate=True) as reader:
            for number in range(20):
                task = asyncio.ensure_future(reader.next_buffer())
                await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                lab.append()
                buffer = await reader.next_buffer()
                assert buffer is not None
                assert number_of(bytes(next(iter(buffer)))) == number

    run(main())


def test_second_task_that_waits_is_told(lab: Lab) -> None:
    async def main() -> None:
        async with connect_async(lab.name) as reader:
            first = asyncio.ensure_future(reader.next_buffer())
            await asyncio.sleep(0)
            with pytest.raises(ValueRefused, match="another task"):
                await reader.next_buffer()
            first.cancel()

    run(main())


def test_closing_ends_a_wait_in_another_task(lab: Lab) -> None:
    async def main() -> None:
        reader = await connect_async(lab.name)
        waiting = asyncio.ensure_future(numbers(reader))
        await asyncio.sleep(0.01)
        reader.close()
        assert await waiting == []
        async with connect_async(lab.name, immediate=True) as another:  # gets the same file descriptor
            lab.append()
            assert await another.next_buffer() is not None

    run(main())


def test_killed_producer_is_read_to_its_end(lab: Lab) -> None:
    async def main() -> None:
        async with connect_async(lab.name, timeout_ms=0) as reader:
            waiting = asyncio.ensure_future(numbers(reader))
            await asyncio.sleep(0)
            sent = lab.append(7)
            lab.kill()
            assert await waiting == sent
            assert reader.end_reason == "producer died"

    run(main())


def test_end_that_is_found_while_nobody_waits_any_more_is_not_lost(lab: Lab) -> None:
    async def main() -> None:
        async with connect_async(lab.name, timeout_ms=0) as reader:
            waiting = asyncio.ensure_future(reader.next_buffer())
            await asyncio.sleep(0)
            sent = lab.append(7)
            lab.kill()
            while not reader._looking and not waiting.done():
                await asyncio.sleep(0)
            if reader._looking:
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting
                assert await numbers(reader) == sent

    run(main())


def test_closing_while_it_finds_out_how_the_stream_ended_is_no_error(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = threading.Event()

    def lives(fd: int) -> bool:
        producer_lives(fd)
        looked.set()
        return True

    monkeypatch.setattr("zbuf.consumer.reading.reader.producer_lives", lives)

    async def main() -> None:
        reader = await connect_async(lab.name)
        waiting = asyncio.ensure_future(numbers(reader))
        await asyncio.sleep(0)
        lab.kill()
        while not looked.is_set():
            await asyncio.sleep(0.001)
        reader.close()
        assert await waiting == []

    run(main())


def test_packets_are_stale_after_the_next_buffer_was_taken(lab: Lab) -> None:
    async def main() -> None:
        async with connect_async(lab.name, immediate=True) as reader:
            lab.append()
            first = await reader.next_buffer()
            assert first is not None
            packet = next(iter(first))
            lab.append()
            await reader.next_buffer()
            with pytest.raises(StaleBuffer):
                bytes(packet)

    run(main())


def test_batches_come_as_arrays(lab: Lab) -> None:
    async def main() -> None:
        async with connect_async(lab.name) as reader:
            sent = lab.append(30)
            lab.process.begin("producer.close()")
            found = []
            async for batch in reader.index_batches():
                found += [int.from_bytes(bytes(batch.data[at : at + 8]), "little") for at in batch.index["offset"]]
            assert found == sent
            lab.process.result()

    run(main())


def test_requests_do_what_those_of_a_reader_do(lab: Lab) -> None:
    async def main() -> None:
        async with connect_async(lab.name, timeout_ms=0) as reader:
            assert not await reader.rotate()
            lab.append()
            assert await reader.rotate()
            assert (await reader.stats()).producer == lab.name
            await reader.set_filter("greater 100", flush=False)
            assert await reader.next_buffer() is not None
            lab.append(size=60)
            lab.append(size=200)
            waiting = asyncio.ensure_future(reader.next_buffer())  # which acknowledges the first
            await asyncio.sleep(0)
            assert await reader.rotate()
            second = await waiting
            assert second is not None
            assert [packet.caplen for packet in second] == [200]
            await reader.flush()
            with pytest.raises(Refused):
                await reader.set_filter("no such word")

    run(main())


def test_errors_of_connecting_are_those_of_connect(lab: Lab) -> None:
    async def main() -> None:
        with pytest.raises(ProducerNotFound):
            await connect_async(f"{lab.name}-not")
        with pytest.raises(Refused):
            async with connect_async(lab.name, filter="no such word"):
                pass
        with pytest.raises(ValueRefused):
            await connect_async(lab.name, snaplen=0)
        with pytest.raises(TypeError):
            await connect_async(lab.name, snap=0)  # type: ignore[call-arg]

    run(main())


def test_connecting_that_is_cancelled_leaves_no_reader_behind(lab: Lab) -> None:
    async def main() -> None:
        connecting = asyncio.ensure_future(connect_async(lab.name)._connect())
        await asyncio.sleep(0)
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting

    before = open_fds()
    run(main())
    lab.wait_descriptors(0)
    assert open_fds() == before


def test_reader_comes_back_with_its_producer(lab: Lab, remote: Callable[[], Remote]) -> None:
    async def main() -> None:
        async with connect_async(lab.name, reconnect=True, immediate=True) as reader:
            found: list[int] = []

            async def collect() -> None:
                async for packet in reader:
                    found.append(number_of(bytes(packet)))

            task = asyncio.ensure_future(collect())
            lab.append(3)
            lab.kill()
            while len(found) < 3:
                await asyncio.sleep(0.001)
            again = Lab(remote(), lab.name)
            while not again.process.ask("producer.wait_readers(1, timeout_s=0)"):
                await asyncio.sleep(0.01)
            again.append(2)
            while len(found) < 5:
                await asyncio.sleep(0.001)
            assert found == [0, 1, 2, 0, 1]
            reader.close()
            await task

    run(main())


def test_error_of_a_producer_that_came_back_is_told_once(lab: Lab, remote: Callable[[], Remote]) -> None:
    async def main() -> None:
        async with connect_async(lab.name, reconnect=True) as reader:
            waiting = asyncio.ensure_future(reader.next_buffer())
            await asyncio.sleep(0)
            lab.close()
            while reader.reader.fileno() >= 0:
                await asyncio.sleep(0.001)
            Lab(remote(), lab.name, linktype=101)
            with pytest.raises(ZbufError, match="link type 101"):
                await waiting
            assert reader.finished
            with pytest.raises(ZbufError, match="is closed: connect again"):
                await reader.next_buffer()

    run(main())
