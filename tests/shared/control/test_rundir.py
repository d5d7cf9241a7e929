"""Run directories, the directories of producers in them, and what clients find there."""

import contextlib
import fcntl
import os
import shutil
import socket
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from zbuf.shared.control import rundir
from zbuf.shared.control.rundir import every_directory, open_directory, open_run_directory, run_directory, search_path
from zbuf.shared.control.rundir_look import connect_to, look_for, producer_names, running
from zbuf.shared.control.rundir_place import ProducerDirectory, socket_path
from zbuf.shared.errors import ProducerExists, RunDirectoryError, ValueRefused

NOBODY = 65534
OTHER = 54321
Start = Callable[..., "subprocess.Popen[str]"]

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A directory that every user can enter (pytest's own is for its user alone)."""
    path = Path(tempfile.mkdtemp(prefix="zbuf-test-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@contextlib.contextmanager
def user(uid: int = NOBODY) -> Iterator[None]:
    """Be another user, in earnest, and in no group of root's."""
    groups = os.getgroups()
    os.setgroups([])
    os.setresgid(uid, uid, 0)
    os.setresuid(uid, uid, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)
        os.setgroups(groups)


def owner_and_mode(path: Path) -> tuple[int, int, int]:
    look = path.lstat()
    return look.st_uid, look.st_gid, stat.S_IMODE(look.st_mode)


def open_files() -> list[str]:
    return sorted(os.listdir("/proc/self/fd"))


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
def test_user_without_a_runtime_directory_has_one_below_tmp_that_is_named_for_the_user(
    nowhere: pytest.MonkeyPatch, empty: bool
) -> None:
    if empty:
        nowhere.setenv("ZBUF_RUN_DIR", "")
        nowhere.setenv("XDG_RUNTIME_DIR", "")
    assert run_directory() == Path("/tmp/zbuf-1000")


def test_clients_look_into_the_user_s_own_and_then_into_the_system_s(nowhere: pytest.MonkeyPatch) -> None:
    nowhere.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    assert search_path() == [Path("/run/user/1000/zbuf"), Path("/run/zbuf"), Path("/run/zbufd")]
    assert search_path("/chosen") == every_directory("/chosen") == [Path("/chosen")]
    nowhere.setenv("ZBUF_RUN_DIR", "/variable")
    assert search_path() == every_directory() == [Path("/variable")]


def test_directories_of_other_users_are_those_that_are_named_for_their_owners(
    nowhere: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    owner = tmp_path.stat().st_uid
    for name in (f"zbuf-{owner}", f"zbuf-{owner + 1}", "zbuf-", "zbuf-x", f"other-{owner}"):
        (tmp_path / name).mkdir()
    users = tmp_path / "users"
    (users / str(owner) / "zbuf").mkdir(parents=True)
    (users / str(owner + 1) / "zbuf").mkdir(parents=True)
    nowhere.setattr(rundir, "_TEMPORARY", tmp_path)
    nowhere.setattr(rundir, "_USERS", users)
    others = every_directory()[len(search_path()) :]
    assert others == [users / str(owner) / "zbuf", tmp_path / f"zbuf-{owner}"]


# ---- opening a run directory ----------------------------------------------------------------------------------------


def test_new_run_directory_is_its_user_s_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        os.close(open_run_directory(tmp_path / "new" / "zbuf"))
    finally:
        os.umask(before)
    assert owner_and_mode(tmp_path / "new" / "zbuf") == (os.geteuid(), os.getegid(), 0o755)


def test_run_directory_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    tmp_path.chmod(0o750)
    ProducerDirectory(tmp_path, "lab", socket_mode=0o666).release()
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o750


@pytest.mark.parametrize("under", ["file", "file/zbuf", "loop"])
def test_directory_that_can_t_be_made_is_named(tmp_path: Path, under: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    directory = tmp_path / under
    files = open_files()
    with pytest.raises(RunDirectoryError, match=f"run directory {directory}: .*: choose another with --run-dir"):
        open_run_directory(directory)
    assert open_files() == files


@as_root
def test_directory_below_one_that_is_not_writable_is_refused(reachable: Path) -> None:
    directory = reachable / "zbuf"
    with user(), pytest.raises(RunDirectoryError, match=f"run directory {directory}: Permission denied: choose"):
        open_run_directory(directory)


@as_root
def test_root_s_directory_that_is_not_writable_is_refused(reachable: Path) -> None:
    with user(), pytest.raises(RunDirectoryError, match=f"run directory {reachable}: no permission to write"):
        ProducerDirectory(reachable, "lab")


@as_root
def test_directory_of_another_user_is_refused_even_to_root(tmp_path: Path) -> None:
    os.chown(tmp_path, OTHER, -1)
    with pytest.raises(RunDirectoryError, match=f"run directory {tmp_path} belongs to user {OTHER}: choose another"):
        ProducerDirectory(tmp_path, "lab")
    ProducerDirectory(tmp_path, "lab", uid=OTHER).release()


def test_directory_where_everybody_may_remove_what_is_another_s_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(RunDirectoryError, match=rf"everybody may remove what is in it: chmod \+t {tmp_path}"):
        ProducerDirectory(tmp_path, "lab")
    tmp_path.chmod(0o1777)
    ProducerDirectory(tmp_path, "lab").release()


def test_own_links_are_followed_relative_ones_and_those_in_the_middle_too(tmp_path: Path) -> None:
    (tmp_path / "real" / "deep").mkdir(parents=True)
    (tmp_path / "absolute").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "relative").symlink_to("../absolute/deep")
    fd = open_directory(tmp_path / "absolute" / "relative")
    assert os.path.samestat(os.fstat(fd), (tmp_path / "real" / "deep").stat())
    os.close(fd)


@as_root
@pytest.mark.parametrize("below", ["", "new"])
def test_link_of_another_user_is_not_followed(reachable: Path, below: str) -> None:
    etc = reachable / "etc"
    etc.mkdir()
    (reachable / "home").mkdir()
    (reachable / "home" / "zbuf").symlink_to(etc)
    os.lchown(reachable / "home" / "zbuf", OTHER, OTHER)
    before, files = owner_and_mode(etc), open_files()
    with pytest.raises(RunDirectoryError, match=f"user {OTHER} made a symbolic link on the way there"):
        ProducerDirectory(reachable / "home" / "zbuf" / below, "lab", uid=OTHER)
    assert (owner_and_mode(etc), list(etc.iterdir()), open_files()) == (before, [], files)


# ---- a producer's own directory -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("socket_mode", "mode"), [(0o600, 0o700), (0o660, 0o710), (0o666, 0o711), (0o606, 0o701), (0o644, 0o700)]
)
def test_those_who_may_use_the_socket_may_enter_and_nobody_else_may_read(
    tmp_path: Path, socket_mode: int, mode: int
) -> None:
    place = ProducerDirectory(tmp_path, "lab", socket_mode=socket_mode)
    assert owner_and_mode(tmp_path / "lab") == (os.geteuid(), os.getegid(), mode)
    place.release()


@as_root
def test_directory_is_given_to_the_user_and_group_and_the_run_directory_is_not(tmp_path: Path) -> None:
    before = owner_and_mode(tmp_path)
    place = ProducerDirectory(tmp_path, "lab", socket_mode=0o660, uid=OTHER, gid=NOBODY)
    assert owner_and_mode(tmp_path / "lab") == (OTHER, NOBODY, 0o2710)
    assert owner_and_mode(tmp_path) == before
    place.release()


def test_released_directory_is_gone_with_its_socket_and_link(tmp_path: Path) -> None:
    place = ProducerDirectory(tmp_path, "lab")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(str(place.socket))
        assert os.path.samestat((tmp_path / "lab.sock").stat(), place.socket.stat())
        place.release()
    place.release()
    assert list(tmp_path.iterdir()) == []


@as_root
def test_user_can_t_remove_or_take_what_another_s_is_in_a_directory_for_all(reachable: Path) -> None:
    reachable.chmod(0o1777)
    with user():
        place = ProducerDirectory(reachable, "lab")
    with user(OTHER):
        for remove, what in ((os.rmdir, "lab"), (os.unlink, "lab.sock"), (os.unlink, "lab/control.sock")):
            with pytest.raises(PermissionError):
                remove(reachable / what)
        with pytest.raises(ProducerExists, match=f"the name 'lab' is taken in {reachable} by user nobody: choose"):
            ProducerDirectory(reachable, "lab")
        ProducerDirectory(reachable, "other").release()
    with pytest.raises(ProducerExists, match="by user nobody"):  # it lives, so that root does not replace it either
        ProducerDirectory(reachable, "lab")
    with user():
        place.release()
    assert list(reachable.iterdir()) == []


@as_root
@pytest.mark.parametrize("kind", ["empty", "full", "link", "file"])
def test_root_replaces_what_another_user_has_planted_under_its_name(reachable: Path, kind: str) -> None:
    reachable.chmod(0o1777)
    victim = reachable / "victim"
    victim.mkdir()
    (victim / "precious").touch()
    with user():
        planted = reachable / "lab"
        if kind in ("empty", "full"):
            planted.mkdir()
        if kind == "full":
            (planted / "deep").mkdir()
            (planted / "control.sock").symlink_to(victim / "precious")
            (planted / "deep" / "link").symlink_to(victim)
        if kind == "link":
            planted.symlink_to(victim)
        if kind == "file":
            planted.touch()
        (reachable / "lab.sock").symlink_to(victim / "precious")
    ProducerDirectory(reachable, "lab").release()
    assert [one.name for one in reachable.iterdir()] == ["victim"]
    assert (victim / "precious").exists()


def test_directory_with_other_files_in_it_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "note").touch()
    files = open_files()
    with pytest.raises(RunDirectoryError, match=f"directory {tmp_path}/lab has files that are not zbuf's: remove it"):
        ProducerDirectory(tmp_path, "lab")
    assert open_files() == files
    assert (tmp_path / "lab" / "note").exists()


def listen(path: Path) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listening.bind(str(path))
    listening.listen()
    return listening


def test_what_a_killed_producer_of_an_older_version_left_is_removed(tmp_path: Path) -> None:
    listen(tmp_path / "lab.sock").close()
    (tmp_path / "lab.lock").touch()
    assert producer_names(tmp_path) == []
    ProducerDirectory(tmp_path, "lab").release()
    assert list(tmp_path.iterdir()) == []


def test_producer_of_an_older_version_has_its_name(tmp_path: Path) -> None:
    with listen(tmp_path / "lab.sock"):
        assert producer_names(tmp_path) == ["lab"]
        connect_to(tmp_path, "lab", 1).close()
        with pytest.raises(ProducerExists):
            ProducerDirectory(tmp_path, "lab")


@as_root
def test_group_that_a_user_is_not_in_is_told_in_one_line(reachable: Path) -> None:
    reachable.chmod(0o1777)
    with user(), pytest.raises(RunDirectoryError, match=f"can't give it to group {OTHER}: .*: start as root, or as a"):
        ProducerDirectory(reachable, "lab", gid=OTHER)
    assert list(reachable.iterdir()) == []


# ---- what is in a run directory -------------------------------------------------------------------------------------


def test_producers_are_listed_in_order_and_neither_dead_ones_nor_other_files(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        for name in ("zoo", "lab", "lab.1"):
            place = ProducerDirectory(tmp_path, name)
            stack.callback(place.release)
            stack.enter_context(listen(place.socket))
        dead = ProducerDirectory(tmp_path, "dead")
        stack.callback(dead.release)
        listen(dead.socket).close()
        for directory in ("empty", "not a name", "x" * 49):
            (tmp_path / directory).mkdir()
        for file in ("a.sock", "lab.lock", "note.txt", "sock"):
            (tmp_path / file).touch()
        assert producer_names(tmp_path) == ["lab", "lab.1", "zoo"]


@as_root
def test_producer_that_is_closed_to_a_user_is_told_from_a_dead_one(reachable: Path) -> None:
    place = ProducerDirectory(reachable, "lab")
    with listen(place.socket):
        with user():
            (found,) = running(reachable)
            assert (found.name, found.owner, found.state) == ("lab", 0, "closed")
            with pytest.raises(PermissionError):
                connect_to(reachable, "lab", 1)
        place.forget()  # as if it had been killed
        with user():
            assert look_for(reachable, "lab") is None
            assert running(reachable) == []


def test_no_link_is_followed_to_a_socket_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "whole").symlink_to(tmp_path)
    (tmp_path / "run" / "flat.sock").symlink_to(tmp_path / "control.sock")
    (tmp_path / "run" / "inner").mkdir()
    (tmp_path / "run" / "inner" / "control.sock").symlink_to(tmp_path / "control.sock")
    files = open_files()
    with listen(tmp_path / "control.sock"):
        for name in ("whole", "flat", "inner"):
            with pytest.raises(FileNotFoundError):
                connect_to(tmp_path / "run", name, 1)
        assert running(tmp_path / "run") == []
    assert open_files() == files


def test_directory_that_is_not_there_has_no_producers(tmp_path: Path) -> None:
    assert producer_names(tmp_path / "missing") == []


def test_directory_that_can_t_be_read_is_an_error_and_not_empty(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunDirectoryError, match="file: Not a directory"):
        producer_names(tmp_path / "file")


# ---- socket paths ---------------------------------------------------------------------------------------------------


def directory_for(parent: Path, name: str, path_bytes: int) -> Path:
    """A directory below `parent` in which the socket of `name` has a path of so many bytes."""
    room = path_bytes - len(os.fsencode(parent / name / "control.sock")) - 1
    assert room > 0, "the temporary directory's own path is too long for this test"
    return parent / ("d" * room)


def test_socket_path_as_long_as_it_can_be_is_bound(reachable: Path) -> None:
    place = ProducerDirectory(directory_for(reachable, "lab", 107), "lab")
    with listen(place.socket):
        assert producer_names(place.run_dir) == ["lab"]
    place.release()


def test_socket_path_of_one_byte_more_is_refused(reachable: Path) -> None:
    directory = directory_for(reachable, "lab", 108)
    with pytest.raises(ValueRefused, match=r"lab/control\.sock is longer than 107 bytes: use a shorter --run-dir"):
        ProducerDirectory(directory, "lab")
    assert list(reachable.iterdir()) == []


def test_socket_path_is_measured_in_bytes_and_not_in_characters() -> None:
    assert socket_path(Path("/" + "d" * 89), "lab").parent.name == "lab"
    with pytest.raises(ValueRefused, match="longer than 107 bytes"):
        socket_path(Path("/" + "d" * 88 + "ü"), "lab")


def test_socket_path_of_a_bad_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueRefused, match=r"producer name '\.\./lab'"):
        socket_path(tmp_path, "../lab")


# ---- one producer to a name -----------------------------------------------------------------------------------------

HOLDER = """
    import sys
    from pathlib import Path
    from zbuf.shared.control.rundir_place import ProducerDirectory

    place = ProducerDirectory(Path(sys.argv[1]), sys.argv[2])
    print("ready", flush=True)
    sys.stdin.read()
    place.release()
"""


def assert_taken(directory: Path, name: str) -> None:
    with pytest.raises(ProducerExists, match=f"producer '{name}' runs already in {directory}: stop it, or choose"):
        ProducerDirectory(directory, name)


def test_name_is_taken_while_another_process_has_it(start: Start, tmp_path: Path) -> None:
    start(HOLDER, str(tmp_path), "lab")
    for _ in range(3):  # to be refused changes nothing
        assert_taken(tmp_path, "lab")


def test_name_is_free_after_its_process_was_killed(start: Start, tmp_path: Path) -> None:
    process = start(HOLDER, str(tmp_path), "lab")
    process.kill()
    process.wait()
    assert (tmp_path / "lab").exists()
    ProducerDirectory(tmp_path, "lab").release()


def test_name_is_free_after_its_process_gave_it_up(start: Start, tmp_path: Path) -> None:
    process = start(HOLDER, str(tmp_path), "lab")
    process.communicate()
    assert process.returncode == 0
    assert list(tmp_path.iterdir()) == []
    ProducerDirectory(tmp_path, "lab").release()


def test_names_and_directories_are_apart(start: Start, tmp_path: Path) -> None:
    start(HOLDER, str(tmp_path), "lab")
    other = tmp_path / "run"
    for directory, name in ((tmp_path, "lab.1"), (other, "lab")):
        ProducerDirectory(directory, name).release()


def test_name_can_t_be_taken_twice_in_one_process(tmp_path: Path) -> None:
    place = ProducerDirectory(tmp_path, "lab")
    assert_taken(tmp_path, "lab")
    place.release()
    ProducerDirectory(tmp_path, "lab").release()


def test_producer_whose_new_directory_was_taken_for_a_dead_one_s_makes_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, made = os.mkdir, []

    def make_and_lose(path: str, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        make(path, mode, dir_fd=dir_fd)
        made.append(path)
        if len(made) == 1:
            os.rmdir(path, dir_fd=dir_fd)
            make(path, mode, dir_fd=dir_fd)
            held.append(os.open(path, os.O_RDONLY, dir_fd=dir_fd))
            fcntl.flock(held[0], fcntl.LOCK_EX)
            os.rmdir(path, dir_fd=dir_fd)

    held: list[int] = []
    monkeypatch.setattr(os, "mkdir", make_and_lose)
    place = ProducerDirectory(tmp_path, "lab")
    assert made == ["lab", "lab"]
    os.close(held[0])
    assert_taken(tmp_path, "lab")
    place.release()


def test_lock_is_not_inherited_by_programs_that_are_started(tmp_path: Path) -> None:
    place = ProducerDirectory(tmp_path, "lab")
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, close_fds=False) as child:
        place.release()
        ProducerDirectory(tmp_path, "lab").release()
        child.communicate()
    assert child.returncode == 0


def test_child_that_forgets_the_name_leaves_it_to_its_parent(start: Start, tmp_path: Path) -> None:
    program = """
        import os, sys
        from pathlib import Path
        from zbuf.shared.control.rundir_place import ProducerDirectory

        place = ProducerDirectory(Path(sys.argv[1]), "lab")
        go_on, done = os.pipe(), os.pipe()
        child = os.fork()
        if child == 0:
            place.forget()
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
    ProducerDirectory(tmp_path, "lab").release()


def test_being_refused_leaves_no_file_open(tmp_path: Path) -> None:
    place = ProducerDirectory(tmp_path, "lab")
    files = open_files()
    assert_taken(tmp_path, "lab")
    assert open_files() == files
    place.release()
