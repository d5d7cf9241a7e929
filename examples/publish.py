"""Make any Python program a producer: python examples/publish.py NAME COUNT"""

import sys

from zbuf import Producer

with Producer(sys.argv[1], lossless=True) as producer:
    producer.wait_readers(1)
    for number in range(int(sys.argv[2])):
        producer.append(b"\xff" * 12 + b"\x88\xb5" + number.to_bytes(46, "big"))
print(f"{producer.offered} packets published")
