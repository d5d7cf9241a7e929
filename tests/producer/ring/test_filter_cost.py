"""A filter's cost is measured, and its user pays: where that share is used up, packets are dropped unfiltered."""

from support.numbered_packets import MakeRig
from support.rig import ETHERNET, adds_up, parse_blocks

from zbuf.producer.filters import compile_filter
from zbuf.producer.ring.filter_share import FilterShare, IdleTime

COSTLY = "+".join(["ether[0]"] * 100) + " > 0"
"""Hundreds of instructions for each packet, and accepts none."""


def test_packets_are_dropped_unfiltered_and_counted_once_a_share_is_used_up(make_rig: MakeRig) -> None:
    rig, share = make_rig(), FilterShare(IdleTime())
    rig.descriptor.set_filter(compile_filter(COSTLY, ETHERNET))
    rig.descriptor.charge(share)
    while not share.passed_over:
        rig.append(1000)
    ledger = rig.descriptor.ledger()
    assert 0 < share.passed_over == ledger["dropped"] == ledger["accepted"]
    assert ledger["filtered"] == ledger["received"] - share.passed_over
    assert adds_up(ledger)


def test_the_next_packet_tells_how_many_were_dropped_unfiltered(make_rig: MakeRig) -> None:
    rig, share = make_rig(), FilterShare(IdleTime())
    rig.descriptor.set_filter(compile_filter(COSTLY, ETHERNET))
    rig.descriptor.charge(share)
    while not share.passed_over:
        rig.append()
    rig.descriptor.set_filter(b"", flush=False)
    rig.append()
    (packet,) = parse_blocks(rig.stored())
    assert packet.dropped == share.passed_over


def test_a_costly_filter_pays_and_an_ordinary_one_does_not(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.descriptor.charge(FilterShare(IdleTime()))
    rig.descriptor.set_filter(compile_filter(COSTLY, ETHERNET))
    rig.append()
    costly_ns = rig.descriptor.cost_ns
    rig.descriptor.set_filter(compile_filter("tcp port 80", ETHERNET))
    rig.append()
    assert rig.descriptor.cost_ns < costly_ns / 4
    assert costly_ns > 0


def test_whoever_has_no_filter_pays_nothing(make_rig: MakeRig) -> None:
    rig, share = make_rig(), FilterShare(IdleTime())
    rig.descriptor.charge(share)
    rig.append(10_000)
    assert share.passed_over == 0
    assert rig.descriptor.cost_ns == 0


def test_nobody_pays_where_no_share_is_set(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.descriptor.set_filter(compile_filter(COSTLY, ETHERNET))
    rig.append(3)
    assert rig.descriptor.ledger()["filtered"] == 3
    assert rig.descriptor.cost_ns == 0
