"""Every error that zbuf raises on purpose; programs import them from ``zbuf.errors``.

Each message is one line that names the value at fault and says what to do: the commands print it as it is. Any other
exception is a bug of zbuf.
"""


class ZbufError(Exception):
    """The base class of all of them: catch it to catch every error of zbuf."""


class ValueRefused(ZbufError, ValueError):
    """A name, size, count or other setting that can't be used."""


class FilterError(ValueRefused):
    """A capture filter that libpcap does not compile, or an invalid filter program."""


class CaptureFileError(ZbufError):
    """A capture file that is missing, empty, not a capture, or damaged."""


class InterfaceError(ZbufError):
    """An interface that does not exist, is down, or may not be captured on."""


class SegmentError(ZbufError):
    """A segment that can't be made, or that is foreign, half-made or of another ABI."""


class CorruptBuffer(ZbufError):
    """A buffer whose bytes are not whole Enhanced Packet Blocks: its producer is broken or hostile."""


class StaleBuffer(ZbufError, ValueError):
    """A buffer, or a packet in it, used after it was acknowledged."""


class ConfigurationError(ZbufError):
    """A configuration file or a flag with a value that can't be used."""


class RunDirectoryError(ZbufError):
    """A run directory that can't be made or written."""


class ProducerNotFound(ZbufError):
    """No producer of that name answers."""


class ProducerExists(ZbufError):
    """A producer of that name is already running."""


class ControlError(ZbufError):
    """The other end of a control connection broke its rules, or went away in the middle of an answer."""


class Refused(ControlError):
    """The producer understood a request and refuses it; the message comes from the producer."""
