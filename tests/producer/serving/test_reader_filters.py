"""Filters of readers are compiled elsewhere, within limits of time, of size, and of what may be looked up."""

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from support.processes import LIMIT_S

from zbuf.consumer import connect
from zbuf.producer import Producer
from zbuf.producer.compiling import Compiler, TooLong
from zbuf.producer.filters import compile_filter
from zbuf.producer.serving.limits import Limits
from zbuf.producer.serving.link_filters import LinkFilters
from zbuf.shared.errors import FilterError, Refused, ZbufError
from zbuf.shared.memory.pcapng import Interface

ETHERNET, RAW_IP = 1, 101
FOR_EVER = " or ".join(f"port {1000 + number}" for number in range(310))
"""libpcap's optimizer takes several seconds for this."""
NOBODY = 65534

pytestmark = pytest.mark.usefixtures("run_dir")


def sum_of(terms: int) -> str:
    """An expression whose program has about one instruction for each term."""
    return "+".join(["len"] * terms) + " < 1"


@pytest.fixture
def compiler() -> Iterator[Compiler]:
    compiler = Compiler()
    yield compiler
    compiler.close()


def compiled(compiler: Compiler, expression: str, *, names: bool = False) -> bytes:
    return asyncio.run(compiler.compile(expression, ETHERNET, uid=NOBODY, names=names))


# ---- the process that compiles --------------------------------------------------------------------------------------


def test_it_compiles_to_what_this_process_compiles_to(compiler: Compiler) -> None:
    for expression in ("tcp port 80", "host 10.0.0.1 or ip6 net 2001:db8::/32", "vlan 5 and portrange 1-100"):
        assert compiled(compiler, expression) == compile_filter(expression, ETHERNET)


@pytest.mark.parametrize("expression", ["host localhost", "port http", "net loopback", "portrange ftp-http"])
def test_names_are_looked_up_only_where_that_is_allowed(compiler: Compiler, expression: str) -> None:
    with pytest.raises(FilterError, match=r"unknown .* names are not looked up for readers: use numbers") as refused:
        compiled(compiler, expression)
    assert "\n" not in str(refused.value)


def test_allowed_names_are_found(compiler: Compiler) -> None:
    assert compiled(compiler, "host localhost", names=True) == compile_filter("host localhost", ETHERNET)


@pytest.mark.slow
def test_an_expression_that_takes_too_long_is_given_up(compiler: Compiler) -> None:
    with pytest.raises(TooLong, match=r"filter of 40.. characters takes more than 1 s to compile: use a shorter one"):
        compiled(compiler, FOR_EVER)
    assert compiled(compiler, "udp") == compile_filter("udp", ETHERNET)


def test_bytes_of_any_kind_come_back_as_an_error_of_one_line(compiler: Compiler) -> None:
    for expression in ("tcp\udcff", "x" * 4000, "(" * 2000, "\x01\x02", "tcp and (", "a\0b"):
        with pytest.raises(FilterError) as refused:
            compiled(compiler, expression)
        assert "\n" not in str(refused.value)


def test_another_process_takes_over_where_it_was_killed(compiler: Compiler) -> None:
    assert compiled(compiler, "udp")
    assert compiler._own is not None
    compiler._own._process.kill()
    compiler._own._process.wait()
    assert compiled(compiler, "tcp")


def test_late_filters_of_one_user_hold_others_up_for_half_a_second_in_all(compiler: Compiler) -> None:
    assert compiled(compiler, "udp")  # starts the process
    started_s = time.monotonic()
    assert compiler.compile_now("udp", RAW_IP, uid=NOBODY, names=False)
    for _ in range(20):
        with pytest.raises(TooLong):
            compiler.compile_now(FOR_EVER, ETHERNET, uid=NOBODY, names=False)
    assert time.monotonic() - started_s < LIMIT_S / 2
    assert compiler.compile_now("udp", RAW_IP, uid=NOBODY + 1, names=False)


# ---- a producer with readers ----------------------------------------------------------------------------------------


def test_a_filter_with_too_many_instructions_is_refused_and_the_log_says_whose(
    producer_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with Producer(producer_name, linger_s=0), caplog.at_level(logging.INFO):
        with pytest.raises(Refused, match=r"comes to 6.. instructions for each packet: at most 512 here") as refused:
            connect(producer_name, filter=sum_of(600))
        assert "\n" not in str(refused.value)
        connect(producer_name, filter=sum_of(100)).close()
    (line,) = [one.message for one in caplog.records if one.message.startswith("refused user ")]
    assert str(os.getuid()) in line
    assert "at most 512 here" in line


def test_the_filters_of_one_user_are_limited_together(producer_name: str) -> None:
    port = len(compile_filter("tcp port 80", ETHERNET)) // 8
    limits = Limits(filter_instructions_per_user=3 * port - 1)
    with (
        Producer(producer_name, linger_s=0, limits=limits),
        connect(producer_name, filter="tcp port 80") as first,
        connect(producer_name, filter="tcp port 80"),
    ):
        with pytest.raises(
            Refused, match=f"come to {3 * port} instructions for each packet: at most {3 * port - 1} here"
        ):
            connect(producer_name, filter="tcp port 80")
        with pytest.raises(Refused, match=r"come to .* instructions for each packet: at most"):
            first.set_filter(sum_of(100))
        first.set_filter("tcp port 81")
        connect(producer_name, filter="greater 100").close()
        connect(producer_name).close()


def test_an_interface_that_appears_is_not_waited_for_where_its_filter_compiles_too_long() -> None:
    def never(_expression: str, _linktype: int) -> bytes:
        raise TooLong("it takes too long")

    async def soon(expression: str, linktype: int) -> bytes:
        return compile_filter(expression, linktype)

    eth = Interface("eth", ETHERNET)
    filters = asyncio.run(LinkFilters.compiled("udp", [eth], soon, never))
    tun = Interface("tun", RAW_IP)
    assert filters.programs([eth, tun]) == [compile_filter("udp", ETHERNET), bytes([6, 0, 0, 0, 0, 0, 0, 0])]
    assert filters.warnings([eth, tun]) == ["no packets of tun (link type 101): it takes too long"]


def test_many_who_come_at_once_share_one_descriptor_also_where_they_do_not_wait_for_each_other(
    producer_name: str,
) -> None:
    with Producer(producer_name, linger_s=0) as producer, contextlib.ExitStack() as readers:
        producer._control._context.joining = _NoLocks()  # type: ignore[assignment]
        found: list[Any] = []
        threads = [
            threading.Thread(target=lambda: found.append(connect(producer_name, join="g", buffer_size=4096)))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for reader in found:
            readers.enter_context(reader)
        assert len(found) == 8
        assert [len(one.readers) for one in producer.stats().descriptors] == [8]


class _NoLocks:
    """In place of the locks by user and group: each who comes gets one of its own."""

    def setdefault(self, _key: object, _lock: asyncio.Lock) -> asyncio.Lock:
        return asyncio.Lock()


@pytest.mark.slow
def test_filters_that_take_long_keep_neither_others_nor_the_end_waiting(producer_name: str) -> None:
    said: list[str] = []

    def ask() -> None:
        try:
            connect(producer_name, filter=FOR_EVER, buffer_size=4096).close()
        except ZbufError as error:
            said.append(str(error))

    with Producer(producer_name, linger_s=0) as producer:
        askers = [threading.Thread(target=ask) for _ in range(20)]
        for asker in askers:
            asker.start()
        context = producer._control._context
        limit_s = time.monotonic() + LIMIT_S
        while len(context.compiler._waiting) < 20:
            assert time.monotonic() < limit_s
        connect(producer_name, buffer_size=4096).close()
        assert len(said) < 20  # it came before they were done
        started_s = time.monotonic()
    assert time.monotonic() - started_s < 10  # one after the other, they take 20 s of processor time
    for asker in askers:
        asker.join()
    assert len(said) == 20
