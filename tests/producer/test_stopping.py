"""A producer stops when it is told to, whatever it is doing."""

import itertools
import os
from pathlib import Path

import pytest
from support.captures import pcap, sample
from support.embedding import PAGE, PER_PAGE, NewRemote, adds_up, in_thread, only
from support.processes import LIMIT_S, numbered, take

from zbuf.consumer import connect
from zbuf.producer import FileSource, Producer

pytestmark = pytest.mark.usefixtures("run_dir")


@pytest.mark.parametrize("lossless", [False, True])
def test_stop_from_another_thread_ends_the_endless_publishing_of_a_file(
    producer_name: str, tmp_path: Path, lossless: bool
) -> None:
    (tmp_path / "lab.pcap").write_bytes(pcap(sample(1000)))
    with (
        Producer(producer_name, lossless=lossless, linger_s=0) as producer,
        connect(producer_name, buffer_size=1 << 20) as reader,
    ):
        with in_thread(producer.publish, FileSource([str(tmp_path / "lab.pcap")]), loops=0) as results:
            assert reader.next_buffer(LIMIT_S) is not None
            producer.stop()
        assert results == [producer.offered]
        assert producer.stopped
        assert adds_up(only(producer.stats().descriptors))


def test_stop_from_another_thread_ends_the_publishing_of_an_endless_iterator(producer_name: str) -> None:
    with Producer(producer_name) as producer, connect(producer_name, immediate=True) as reader:
        with in_thread(producer.publish, map(numbered, itertools.count())) as results:
            take(reader, 1)
            producer.stop()
        assert results[0] > 0


def test_stop_ends_the_wait_of_a_lossless_producer_for_a_reader_that_does_not_read(producer_name: str) -> None:
    with (
        Producer(producer_name, lossless=True, linger_s=0) as producer,
        connect(producer_name, buffer_size=PAGE) as reader,
    ):
        with in_thread(producer.publish, map(numbered, itertools.count())):
            while only(reader.stats().descriptors).buffered < 2 * PER_PAGE:
                os.sched_yield()
            producer.stop()
        ledger = only(producer.stats().descriptors)
        assert (ledger.received, ledger.dropped, ledger.buffered) == (2 * PER_PAGE, 0, 2 * PER_PAGE)
        assert not producer.append(numbered(0))


def test_interrupt_in_the_middle_of_publishing_ends_it_in_good_order(
    remote: NewRemote, producer_name: str, tmp_path: Path
) -> None:
    (tmp_path / "lab.pcap").write_bytes(pcap(sample(1000)))
    process = remote()
    process.do("source = FileSource([path])", path=str(tmp_path / "lab.pcap"))
    process.do("producer = Producer(name, linger_s=0)", name=producer_name)
    with connect(producer_name) as reader:
        process.begin("with producer: producer.publish(source, loops=0)")
        assert reader.next_buffer(LIMIT_S) is not None
        process.signal(2)
        with pytest.raises(KeyboardInterrupt):
            process.result()
        for _ in reader.buffers():
            pass
        assert reader.end_reason == "closed"
        assert adds_up(reader.ledger())


def test_interrupt_in_the_middle_of_somebody_elses_request_leaves_nobody_waiting(
    remote: NewRemote, producer_name: str
) -> None:
    # Whoever appends carries out what others have asked for meanwhile, and that is where Ctrl-C may hit.
    process = remote()
    process.do("producer = Producer(name, linger_s=0)", name=producer_name)
    process.do(
        """
        def interrupt(*_):
            raise KeyboardInterrupt

        def ask():
            try:
                producer.stats()
            except BaseException:
                pass

        producer._roster.statistics = interrupt
        owner = producer._owner
        owner._right.acquire()
        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        while not any("stats" in command.__qualname__ for command, _ in list(owner._commands)):
            pass
        owner._right.release()
        try:
            owner._serve_if_idle()
        except KeyboardInterrupt:
            interrupted = True
        asking.join(5)
        """
    )
    assert process.ask("interrupted")
    assert not process.ask("asking.is_alive()")
    process.do("producer.close()")
