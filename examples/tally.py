"""Count the packets of several captures at once, in one thread of asyncio: python examples/tally.py NAME..."""

import asyncio
import sys

from zbuf import connect_async


async def tally(name: str) -> None:
    """A line for each second in which packets came, to the end of the capture."""
    async with connect_async(name, snaplen=1, wait_s=5) as reader:
        while not reader.finished:
            buffer = await reader.next_buffer(timeout=1)
            if buffer is not None:
                print(f"{name}: {len(buffer)} packets", flush=True)
    print(f"{name}: {reader.end_reason}")


async def main() -> None:
    """All of them."""
    async with asyncio.TaskGroup() as group:
        for name in sys.argv[1:]:
            group.create_task(tally(name))


asyncio.run(main())
