"""libFuzzer on the reader of capture files, under AddressSanitizer and UndefinedBehaviorSanitizer: make fuzz."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from support.project import ROOT, TESTS
from support.reference import block, interface, old_packet, option, packet, section, simple_packet

SECONDS = int(os.environ.get("ZBUF_FUZZ_S", "10"))
"""How long it goes on: a minute in CI, and less among all other tests."""
SANITIZERS = "-fsanitize=fuzzer,address,undefined"


def seeds() -> list[bytes]:
    """Files from which it finds its way to everything that there is to find."""
    found = []
    for order in "<>":
        head = section(order) + interface(order, resolution=9) + interface(order, 231, offset_s=-5)
        found.append(head + packet(b"some data", 5, 1, order=order, options=option(order, 2, bytes(4)) + bytes(4)))
        found.append(head + simple_packet(b"simple", 6, order=order) + old_packet(b"old", 9, 0, 7, order=order))
        found.append(head + b"".join(block(order, kind, bytes(24)) for kind in (4, 5, 9, 10, 0xBAD, 77)) + head)
    return found


def has_fuzzer() -> bool:
    """Whether there are clang and its runtime libraries; Debian has these in a package of their own."""
    if shutil.which("clang") is None:
        return False
    told = subprocess.run(["clang", "-print-runtime-dir"], capture_output=True, text=True, check=True)
    return any(Path(told.stdout.strip()).glob("libclang_rt.fuzzer*"))


@pytest.mark.slow
@pytest.mark.skipif(not has_fuzzer(), reason="clang or its runtime libraries are not installed: libclang-rt-dev")
def test_nothing_makes_the_reader_leave_its_window(tmp_path: Path) -> None:
    program, corpus = tmp_path / "fuzz", tmp_path / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(seeds()):
        (corpus / str(number)).write_bytes(b"\x10" + seed)
    source = TESTS / "support" / "native" / "fuzz_savefile.c"
    build = ["clang", "-g", "-O1", SANITIZERS, "-fno-sanitize-recover=all", "-D_GNU_SOURCE", f"-I{ROOT / 'src'}"]
    subprocess.run([*build, "-o", str(program), str(source)], check=True)
    limits = [f"-max_total_time={SECONDS}", "-max_len=4096", "-rss_limit_mb=1024", "-timeout=20"]
    done = subprocess.run([program, *limits, corpus], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
