"""Locks of folders: one run at a time, by any path; a killed run releases its lock."""

import errno
import os
import signal
import socket
from pathlib import Path

import many_processes
import pytest

from dcjax.core.errors import FileError
from dcjax.runs import error_log, locks, shared_workdirs

# Holds a lock, forks a child that lives on, as data loaders do, and waits.
_HOLD = """
import os, pathlib, sys, time
from dcjax.runs import locks
locks.hold(pathlib.Path(sys.argv[1]))
child = os.fork()
if child:
    print(child, flush=True)
time.sleep(600)
"""


def test_second_run_is_refused_and_names_the_first(tmp_path: Path) -> None:
    workdir = tmp_path / "runs" / "one"
    with shared_workdirs.lock(str(workdir)):
        (tmp_path / "link").symlink_to(workdir)
        for path in (workdir, tmp_path / "link", tmp_path / "runs" / ".." / "link" / ".." / "one"):
            with (
                pytest.raises(OSError, match="A run is under way in --workdir=") as refusal,
                shared_workdirs.lock(str(path)),
            ):
                pass
            message = str(refusal.value)
            assert f"{path}, held by process {os.getpid()} on {socket.gethostname()}" in message
            assert "take another --workdir" in message
        assert locks.is_held(workdir)
        with shared_workdirs.lock(str(tmp_path / "runs" / "other")):
            pass
    assert not locks.is_held(workdir)
    with shared_workdirs.lock(str(workdir)):
        pass


def test_lock_of_a_killed_run_is_released(tmp_path: Path) -> None:
    process = many_processes.python("-c", _HOLD, str(tmp_path))
    assert process.stdout is not None
    child = int(process.stdout.readline())
    try:
        with pytest.raises(locks.HeldError, match=f"process {process.pid} on "):
            locks.hold(tmp_path)
        process.kill()
        process.wait()
        os.kill(child, 0)  # the child still runs
        locks.release(locks.hold(tmp_path))
    finally:
        os.kill(child, signal.SIGKILL)
        process.communicate()


def test_bucket_folder_is_locked_on_this_machine_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with shared_workdirs.lock("gs://bucket/one"):
        assert "gs://bucket/one is locked on this machine alone" in capsys.readouterr().out
        with (
            pytest.raises(OSError, match="held by process"),
            shared_workdirs.lock("gs://bucket/one"),
        ):
            pass
        with shared_workdirs.lock("gs://other/one"):  # its curves are also elsewhere
            pass


def test_folder_that_cannot_be_locked_is_reported_and_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))  # like some network file systems

    monkeypatch.setattr("fcntl.flock", refuse)
    with shared_workdirs.lock(str(tmp_path)):
        pass
    assert f"warning   {tmp_path} cannot be locked (No locks available)" in capsys.readouterr().out


def test_pipe_in_place_of_a_lock_or_log_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "run.lock")
    os.mkfifo(tmp_path / "error.log")
    assert not locks.is_held(tmp_path)
    with (
        pytest.raises(FileError, match=r"run.lock is a named pipe \(FIFO\)"),
        shared_workdirs.lock(str(tmp_path)),
    ):
        pass
    message = error_log.append(tmp_path, "Traceback", ["launch.py"], version="1")
    assert message.endswith("error.log is a named pipe (FIFO).")


def test_lock_that_was_removed_while_another_waits_is_held_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").touch()  # so that the folder stays
    first = locks.hold(tmp_path)
    monkeypatch.setattr(locks.time, "sleep", lambda _: locks.remove(tmp_path, first))
    second = locks.hold(tmp_path)  # has opened the file that is removed while it waits
    monkeypatch.setattr(locks.time, "sleep", lambda _: None)
    with pytest.raises(locks.HeldError):
        locks.hold(tmp_path)
    locks.release(second)
