"""What there is to capture on, as libpcap lists it: interfaces, their link types, their time stamp types."""

import os
import socket

from cpython.bytes cimport PyBytes_FromStringAndSize

from zbuf.producer.pcap cimport (
    PCAP_ERRBUF_SIZE,
    PCAP_IF_LOOPBACK,
    PCAP_IF_RUNNING,
    PCAP_IF_UP,
    pcap_addr,
    pcap_create,
    pcap_close,
    pcap_datalink_val_to_description_or_dlt,
    pcap_datalink_val_to_name,
    pcap_findalldevs,
    pcap_free_datalinks,
    pcap_free_tstamp_types,
    pcap_freealldevs,
    pcap_geterr,
    pcap_if_t,
    pcap_list_datalinks,
    pcap_list_tstamp_types,
    pcap_t,
    pcap_tstamp_type_val_to_description,
    pcap_tstamp_type_val_to_name,
)
from zbuf.producer.sources.live.libpcap_interface cimport LiveInterface

from zbuf.producer.sources.live.netdevice import printable
from zbuf.shared.errors import InterfaceError

cdef extern from "<netinet/in.h>" nogil:
    cdef struct in_addr:
        pass
    cdef struct in6_addr:
        pass
    cdef struct sockaddr_in:
        in_addr sin_addr
    cdef struct sockaddr_in6:
        in6_addr sin6_addr

FLAGS = {PCAP_IF_UP: "Up", PCAP_IF_RUNNING: "Running", PCAP_IF_LOOPBACK: "Loopback"}


def find_devices():
    """(name, description, flags, addresses) of each device that libpcap can open, in the order of tcpdump -D.

    A name is as of os.fsdecode(). Flags are Up, Running and Loopback.

    Raises:
        InterfaceError: the kernel does not say.
    """
    cdef pcap_if_t *found
    cdef char errbuf[PCAP_ERRBUF_SIZE]
    if pcap_findalldevs(&found, errbuf) < 0:
        raise InterfaceError(f"interfaces can't be listed: {errbuf.decode('utf-8', 'backslashreplace')}")
    try:
        return _all_of(found)
    finally:
        pcap_freealldevs(found)


cdef list _all_of(pcap_if_t *one):
    listed = []
    while one != NULL:
        description = "" if one.description == NULL else one.description.decode("utf-8", "backslashreplace")
        flags = [name for flag, name in FLAGS.items() if one.flags & flag]
        listed.append((os.fsdecode(one.name), description, flags, _addresses_of(one.addresses)))
        one = one.next
    return listed


cdef list _addresses_of(pcap_addr *one):
    listed = []
    while one != NULL:
        if one.addr != NULL and one.addr.sa_family == socket.AF_INET:
            bits = PyBytes_FromStringAndSize(<char *>&(<sockaddr_in *>one.addr).sin_addr, sizeof(in_addr))
            listed.append(socket.inet_ntop(socket.AF_INET, bits))
        elif one.addr != NULL and one.addr.sa_family == socket.AF_INET6:
            bits = PyBytes_FromStringAndSize(<char *>&(<sockaddr_in6 *>one.addr).sin6_addr, sizeof(in6_addr))
            listed.append(socket.inet_ntop(socket.AF_INET6, bits))
        one = one.next
    return listed


def find_link_types(str name not None):
    """(name, description) of each link type that an interface can be captured with, for -y.

    Raises:
        InterfaceError: it can't be opened.
    """
    cdef int *found
    cdef LiveInterface interface = LiveInterface(name, promiscuous=False)
    cdef int count = pcap_list_datalinks(interface.pcap, &found)
    if count < 0:
        raise InterfaceError(f"{printable(name)}: {interface.error()}")
    try:
        return [(_text(pcap_datalink_val_to_name(found[at])), _text(pcap_datalink_val_to_description_or_dlt(found[at])))
                for at in range(count)]
    finally:
        pcap_free_datalinks(found)
        interface.close()


def find_time_stamp_types(str name not None):
    """(name, description) of each way in which an interface can stamp packets, for -j; none where there is no choice.

    Raises:
        InterfaceError: there is no such interface.
    """
    cdef int *found
    cdef char errbuf[PCAP_ERRBUF_SIZE]
    cdef pcap_t *pcap = pcap_create(os.fsencode(name), errbuf)
    if pcap == NULL:
        raise InterfaceError(f"{printable(name)}: {errbuf.decode('utf-8', 'backslashreplace')}")
    try:
        count = pcap_list_tstamp_types(pcap, &found)
        if count < 0:
            raise InterfaceError(f"{printable(name)}: {pcap_geterr(pcap).decode('utf-8', 'backslashreplace')}")
        types = [(_text(pcap_tstamp_type_val_to_name(found[at])), _text(pcap_tstamp_type_val_to_description(found[at])))
                 for at in range(count)]
        if count:
            pcap_free_tstamp_types(found)
        return types
    finally:
        pcap_close(pcap)


cdef str _text(const char *name):
    return "" if name == NULL else name.decode()
