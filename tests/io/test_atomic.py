import errno
import fcntl
import os
import resource
import subprocess
import sys

import pytest

from cellkit.errors import LockedError, OutputError
from cellkit.io.atomic import LOCK_NAME, check_writable, lock, lock_file, output_error, remove_leftovers, written_whole


def write(path, data=b"whole"):
    with written_whole(path) as part:
        assert part.parent == path.parent
        assert part.name.startswith(".")
        part.write_bytes(data)


def test_a_file_appears_whole_and_alone(tmp_path):
    path = tmp_path / "räume & more.tif"
    write(path)
    write(path, b"again")
    assert path.read_bytes() == b"again"
    assert list(tmp_path.iterdir()) == [path]


def test_the_file_is_synchronised_before_it_gets_its_name(tmp_path, monkeypatch):
    path, order = tmp_path / "a", []
    monkeypatch.setattr(os, "fsync", lambda descriptor: order.append(path.exists()))
    write(path)
    assert order == [False, True]  # the file, then the folder that has its name


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), SystemExit(1)])
def test_whatever_exception_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "a"
    write(path, b"old")

    def fail():
        with written_whole(path) as part:
            part.write_bytes(b"half")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (errno.ENOSPC, "no space is left on the device (free some space, or write elsewhere with -o)"),
        (errno.EDQUOT, "the disk quota is used up (free some space, or write elsewhere with -o)"),
        (errno.EROFS, "the file system is read-only (write elsewhere with -o)"),
        (errno.EACCES, "permission denied (write elsewhere with -o, or change the permissions of the folder)"),
        (errno.EIO, "Input/output error (write elsewhere with -o)"),
    ],
)
def test_what_the_system_refuses_is_one_line(tmp_path, monkeypatch, number, text):
    path = tmp_path / "a"

    def refuse(descriptor):
        raise OSError(number, "refused")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OutputError) as caught:
        write(path)
    assert str(caught.value) == f"{path}: could not be written: {text}"
    assert not any(tmp_path.iterdir())


def test_a_missing_folder_is_known_before_the_work(tmp_path):
    path = tmp_path / "none" / "a"
    with pytest.raises(OutputError) as caught, written_whole(path):
        pytest.fail("the block must not begin")
    expected = "could not be written: its folder does not exist (create it first, or check the path)"
    assert str(caught.value) == f"{path}: {expected}"


def test_a_file_that_outgrows_what_is_allowed_leaves_nothing(tmp_path):
    path = tmp_path / "a"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OutputError, match="larger than the system allows"):
            write(path, bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not any(tmp_path.iterdir())


def test_a_long_name_has_room_for_its_temporary_name(tmp_path):
    path = tmp_path / ("ä" * 125 + ".tif")
    write(path)
    assert path.exists()


def test_hdf5_errors_tell_their_number(tmp_path):
    error = output_error(tmp_path, RuntimeError("Can't decrement id (errno = 28, error message = 'No space')"))
    assert "no space is left on the device" in str(error)
    assert "odd (write elsewhere" in str(output_error(tmp_path, RuntimeError("odd")))


def test_check_writable_leaves_nothing(tmp_path):
    check_writable(tmp_path / "a")
    with pytest.raises(OutputError, match=r"a folder has this name \(choose another name\)"):
        check_writable(tmp_path)
    with pytest.raises(OutputError, match=r"its folder does not exist"):
        check_writable(tmp_path / "none" / "a")
    assert not any(tmp_path.iterdir())


def test_leftovers_of_dead_processes_alone_are_removed(tmp_path):
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    gone, other, running = (
        tmp_path / name
        for name in (f".a.{int(dead.stdout)}.part", f".b.{int(dead.stdout)}.part", f".a.{os.getpid()}.part")
    )
    for path in (gone, other, running):
        path.write_bytes(b"half")
    remove_leftovers(tmp_path, "a")
    assert set(tmp_path.iterdir()) == {other, running}
    remove_leftovers(tmp_path)
    assert set(tmp_path.iterdir()) == {running}


def test_two_runs_at_once_on_one_folder(tmp_path):
    with lock(tmp_path):
        with pytest.raises(LockedError) as caught, lock(tmp_path):
            pytest.fail("the second must not enter")
        assert str(caught.value) == f"{tmp_path}: another run is writing into this folder (wait for it to end)"
    assert not any(tmp_path.iterdir())
    with lock(tmp_path):
        pass


def test_a_killed_run_leaves_no_lock(tmp_path):
    code = (
        "import os, sys, pathlib; from cellkit.io.atomic import lock\n"
        f"with lock(pathlib.Path({str(tmp_path)!r})): os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert (tmp_path / LOCK_NAME).exists()
    with lock(tmp_path):
        pass
    assert not any(tmp_path.iterdir())


def test_a_lock_of_a_removed_file_is_taken_again(tmp_path, monkeypatch):
    flock, calls = fcntl.flock, []

    def removed_in_between(descriptor, operation):
        if not calls:
            (tmp_path / LOCK_NAME).unlink()
        calls.append(operation)
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", removed_in_between)
    with lock(tmp_path):
        assert (tmp_path / LOCK_NAME).exists()
    assert len(calls) == 2


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch, caplog):
    def unsupported(descriptor, operation):
        raise OSError(errno.ENOTSUP, "no locks")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with lock(tmp_path):
        pass
    assert "this file system has no locks; let only one run write here" in caplog.text


def test_a_file_is_made_by_one_run_at_a_time(tmp_path):
    first, second = tmp_path / "a.ckpt", tmp_path / "b.ckpt"
    with lock_file(first), lock_file(second), lock(tmp_path):
        with pytest.raises(LockedError) as caught, lock_file(first):
            pass
        assert str(caught.value) == f"{first}: another run is making it (wait for it to end, or choose another -o)"
    assert not any(tmp_path.iterdir())
    with lock_file(first):
        pass


def test_a_read_only_folder_cannot_be_locked(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise OSError(errno.EROFS, "read-only")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(OutputError, match="the file system is read-only"), lock(tmp_path):
        pass
