"""The run directory, the names in it, and the lock that keeps a name to one producer."""

import contextlib
import os
import shutil
import socket
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from zbuf.shared.control.rundir import (
    NameLock,
    make_run_directory,
    producer_names,
    run_directory,
    socket_path,
)
from zbuf.shared.errors import ProducerExists, RunDirectoryError, ValueRefused

NOBODY = 65534
CALM = settings(max_examples=100, derandomize=True, database=None, deadline=None)
Start = Callable[..., "subprocess.Popen[str]"]

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


# ---- which directory ------------------------------------------------------------------------------------------------


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Nothing in the environment says where, and the user is not root."""
    monkeypatch.delenv("ZBUF_RUN_DIR", raising=False)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    return monkeypatch


def test_run_dir_that_is_chosen_comes_first(nowhere: pytest.MonkeyPatch) -> None:
    nowhere.setenv("ZBUF_RUN_DIR", "/variable")
    nowhere.setenv("XDG_RUNTIME_DIR", "/xdg")
    assert run_directory("/chosen") == Path("/chosen")
    assert run_directory(Path("/chosen")) == Path("/chosen")


def test_variable_comes_second(nowhere: pytest.MonkeyPatch) -> None:
    nowhere.setenv("ZBUF_RUN_DIR", "/variable")
    nowhere.setenv("XDG_RUNTIME_DIR", "/xdg")
    assert run_directory() == run_directory("") == Path("/variable")
    nowhere.setattr(os, "geteuid", lambda: 0)
    assert run_directory() == Path("/variable")


def test_root_s_comes_third(nowhere: pytest.MonkeyPatch) -> None:
    nowhere.setenv("XDG_RUNTIME_DIR", "/xdg")
    nowhere.setattr(os, "geteuid", lambda: 0)
    assert run_directory() == Path("/run/zbuf")


def test_user_s_runtime_directory_comes_last(nowhere: pytest.MonkeyPatch) -> None:
    nowhere.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    assert run_directory() == Path("/run/user/1000/zbuf")


@pytest.mark.parametrize("empty", [False, True])
def test_no_directory_is_an_error_that_says_what_to_set(nowhere: pytest.MonkeyPatch, empty: bool) -> None:
    if empty:
        nowhere.setenv("ZBUF_RUN_DIR", "")
        nowhere.setenv("XDG_RUNTIME_DIR", "")
    with pytest.raises(RunDirectoryError, match=r"XDG_RUNTIME_DIR is not set: give --run-dir or set ZBUF_RUN_DIR"):
        run_directory()


# ---- making it ------------------------------------------------------------------------------------------------------


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A directory that every user can enter (pytest's own is for its user alone)."""
    path = Path(tempfile.mkdtemp(prefix="zbuf-test-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@contextlib.contextmanager
def nobody() -> Iterator[None]:
    """Be another user, in earnest: access(2) asks for the real user id."""
    os.setresuid(NOBODY, NOBODY, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


def test_new_run_directory_is_its_user_s_alone(tmp_path: Path) -> None:
    directory = tmp_path / "new" / "zbuf"
    make_run_directory(directory)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_run_directory_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    directory = tmp_path / "zbuf"
    directory.mkdir()
    directory.chmod(0o750)
    (directory / "lab.sock").touch()
    make_run_directory(directory)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o750
    assert producer_names(directory) == ["lab"]


@pytest.mark.parametrize("under", ["file", "file/zbuf", "loop"])
def test_directory_that_can_t_be_made_is_named(tmp_path: Path, under: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    directory = tmp_path / under
    with pytest.raises(RunDirectoryError, match=f"run directory {directory}: .*: choose another with --run-dir"):
        make_run_directory(directory)


@as_root
def test_directory_below_one_that_is_not_writable_is_refused(reachable: Path) -> None:
    directory = reachable / "zbuf"
    with nobody(), pytest.raises(RunDirectoryError, match=f"run directory {directory}: Permission denied: choose"):
        make_run_directory(directory)


@as_root
def test_root_s_directory_that_is_not_writable_is_refused(reachable: Path) -> None:
    with nobody(), pytest.raises(RunDirectoryError, match=f"run directory {reachable}: no permission to write"):
        make_run_directory(reachable)


@as_root
def test_root_s_directory_that_is_writable_is_accepted(reachable: Path) -> None:
    reachable.chmod(0o777)
    with nobody():
        make_run_directory(reachable)


@as_root
def test_directory_of_another_user_is_refused_even_to_root(tmp_path: Path) -> None:
    os.chown(tmp_path, 54321, -1)
    with pytest.raises(RunDirectoryError, match=f"run directory {tmp_path} belongs to user 54321: choose another"):
        make_run_directory(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is foreign to root's own files")
def test_directory_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(RunDirectoryError, match=f"run directory {tmp_path} belongs to user {owner}"):
        make_run_directory(tmp_path)


# ---- what is in it --------------------------------------------------------------------------------------------------


def test_producers_are_listed_in_order_by_their_sockets(tmp_path: Path) -> None:
    for file in ("zoo.sock", "lab.sock", "lab.1.sock", "lab.lock", "note.txt", "sock"):
        (tmp_path / file).touch()
    assert producer_names(tmp_path) == ["lab", "lab.1", "zoo"]


def test_directory_that_is_not_there_has_no_producers(tmp_path: Path) -> None:
    assert producer_names(tmp_path / "missing") == []


def test_directory_that_can_t_be_read_is_an_error_and_not_empty(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunDirectoryError, match="file: Not a directory"):
        producer_names(tmp_path / "file")


# ---- socket paths ---------------------------------------------------------------------------------------------------


def directory_for(parent: Path, name: str, path_bytes: int) -> Path:
    """A directory below `parent` in which the socket of `name` has a path of so many bytes."""
    room = path_bytes - len(os.fsencode(parent / f"{name}.sock")) - 1
    assert room > 0, "the temporary directory's own path is too long for this test"
    return parent / ("d" * room)


def test_socket_path_as_long_as_it_can_be_is_bound(reachable: Path) -> None:
    directory = directory_for(reachable, "lab", 107)
    directory.mkdir()
    path = socket_path(directory, "lab")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
    assert path.is_socket()
    assert producer_names(directory) == ["lab"]


def test_socket_path_of_one_byte_more_is_refused(reachable: Path) -> None:
    directory = directory_for(reachable, "lab", 108)
    with pytest.raises(ValueRefused, match=r"lab\.sock is longer than 107 bytes: use a shorter --run-dir"):
        socket_path(directory, "lab")


def test_socket_path_is_measured_in_bytes_and_not_in_characters() -> None:
    assert socket_path(Path("/" + "d" * 97), "lab").name == "lab.sock"
    with pytest.raises(ValueRefused, match="longer than 107 bytes"):
        socket_path(Path("/" + "d" * 96 + "ü"), "lab")


def test_socket_path_of_a_bad_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueRefused, match=r"producer name '\.\./lab'"):
        socket_path(tmp_path, "../lab")


# ---- the lock -------------------------------------------------------------------------------------------------------

HOLDER = """
    import sys
    from pathlib import Path
    from zbuf.shared.control.rundir import NameLock

    lock = NameLock(Path(sys.argv[1]), sys.argv[2])
    print("ready", flush=True)
    sys.stdin.read()
    lock.release()
"""


def assert_taken(directory: Path, name: str) -> None:
    with pytest.raises(ProducerExists, match=f"producer '{name}' runs already in {directory}: stop it, or choose"):
        NameLock(directory, name)


def test_name_is_taken_while_another_process_has_it(start: Start, tmp_path: Path) -> None:
    start(HOLDER, str(tmp_path), "lab")
    for _ in range(3):  # to be refused changes nothing
        assert_taken(tmp_path, "lab")


def test_name_is_free_after_its_process_was_killed(start: Start, tmp_path: Path) -> None:
    process = start(HOLDER, str(tmp_path), "lab")
    process.kill()
    process.wait()
    assert (tmp_path / "lab.lock").exists()
    NameLock(tmp_path, "lab").release()


def test_name_is_free_after_its_process_gave_it_up(start: Start, tmp_path: Path) -> None:
    process = start(HOLDER, str(tmp_path), "lab")
    process.communicate()
    assert process.returncode == 0
    assert not (tmp_path / "lab.lock").exists()
    NameLock(tmp_path, "lab").release()


def test_names_and_directories_have_locks_of_their_own(start: Start, tmp_path: Path) -> None:
    start(HOLDER, str(tmp_path), "lab")
    other = tmp_path / "other"
    other.mkdir()
    for directory, name in ((tmp_path, "lab.1"), (other, "lab")):
        NameLock(directory, name).release()


def test_name_can_t_be_taken_twice_in_one_process(tmp_path: Path) -> None:
    lock = NameLock(tmp_path, "lab")
    assert_taken(tmp_path, "lab")
    lock.release()
    NameLock(tmp_path, "lab").release()


def test_lock_of_a_file_that_its_holder_removed_meanwhile_does_not_count(tmp_path: Path) -> None:
    first = NameLock(tmp_path, "lab")
    opens = []

    class SlowLock(NameLock):
        """Between its first open and its lock, the holder of the name gives it up."""

        def _open(self, directory: Path) -> int:
            fd = super()._open(directory)
            opens.append(os.fstat(fd).st_ino)
            if len(opens) == 1:
                first.release()
            return fd

    second = SlowLock(tmp_path, "lab")
    assert len(opens) == 2
    assert (tmp_path / "lab.lock").exists()
    assert_taken(tmp_path, "lab")
    second.release()


def test_lock_is_not_inherited_by_programs_that_are_started(tmp_path: Path) -> None:
    lock = NameLock(tmp_path, "lab")
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, close_fds=False) as child:
        lock.release()
        NameLock(tmp_path, "lab").release()
        child.communicate()
    assert child.returncode == 0


def test_child_that_forgets_the_lock_leaves_it_to_its_parent(start: Start, tmp_path: Path) -> None:
    program = """
        import os, sys
        from pathlib import Path
        from zbuf.shared.control.rundir import NameLock

        lock = NameLock(Path(sys.argv[1]), "lab")
        go_on, done = os.pipe(), os.pipe()
        child = os.fork()
        if child == 0:
            lock.forget()
            os.write(done[1], b"!")
            os.close(go_on[1])
            os.read(go_on[0], 1)  # until the parent is gone
            os._exit(0)
        os.read(done[0], 1)
        print("ready", flush=True)
        sys.stdin.read()
    """
    process = start(program, str(tmp_path))
    assert_taken(tmp_path, "lab")
    process.kill()
    process.wait()
    NameLock(tmp_path, "lab").release()


@pytest.mark.parametrize("kind", ["directory", "link", "missing"])
def test_lock_that_can_t_be_opened_is_a_run_directory_error(tmp_path: Path, kind: str) -> None:
    directory = tmp_path / "missing" if kind == "missing" else tmp_path
    if kind == "directory":
        (tmp_path / "lab.lock").mkdir()
    if kind == "link":
        (tmp_path / "victim").touch()
        (tmp_path / "lab.lock").symlink_to(tmp_path / "victim")
    files = sorted(os.listdir("/proc/self/fd"))
    with pytest.raises(RunDirectoryError, match=f"run directory {directory}: .*: choose another with --run-dir"):
        NameLock(directory, "lab")
    assert sorted(os.listdir("/proc/self/fd")) == files


def test_being_refused_leaves_no_file_open(tmp_path: Path) -> None:
    lock = NameLock(tmp_path, "lab")
    files = sorted(os.listdir("/proc/self/fd"))
    assert_taken(tmp_path, "lab")
    assert sorted(os.listdir("/proc/self/fd")) == files
    lock.release()


def test_lock_file_is_its_user_s_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        lock = NameLock(tmp_path, "lab")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "lab.lock").stat().st_mode) == 0o600
    lock.release()
