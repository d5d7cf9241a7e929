"""What the tests of zbuf top share: a producer with a reader, which gets packets all the time."""

from collections.abc import Iterator

import pytest
from support.processes import Lab

from zbuf.consumer import connect
from zbuf.consumer.reading.reader import Reader


def feed(lab: Lab) -> None:
    """Have the producer append packets until its process is killed."""
    lab.process.do(
        """
        def feeding():
            while True:
                producer.append(numbered(1, 60))
                producer.append(numbered(1, 200))
        thread = threading.Thread(target=feeding, daemon=True)
        thread.start()
        """
    )


@pytest.fixture
def busy_lab(lab: Lab) -> Iterator[Reader]:
    """A reader that reads nothing, of a producer that appends without an end."""
    with connect(lab.name, filter="len > 100\r or len < 1", buffer_size=4096) as reading:
        feed(lab)
        yield reading
