"""The errors of zbuf: every one that it raises on purpose, below ZbufError.

This is where programs import them from; ``from zbuf import StaleBuffer`` gives the same classes. They are defined in
:mod:`zbuf.shared.errors`, which both sides use.
"""

from zbuf.shared.errors import (
    CaptureFileError,
    ConfigurationError,
    ControlError,
    CorruptBuffer,
    FilterError,
    InterfaceError,
    ProducerExists,
    ProducerNotFound,
    Refused,
    RunDirectoryError,
    SegmentError,
    StaleBuffer,
    ValueRefused,
    ZbufError,
)

__all__ = [
    "CaptureFileError",
    "ConfigurationError",
    "ControlError",
    "CorruptBuffer",
    "FilterError",
    "InterfaceError",
    "ProducerExists",
    "ProducerNotFound",
    "Refused",
    "RunDirectoryError",
    "SegmentError",
    "StaleBuffer",
    "ValueRefused",
    "ZbufError",
]
