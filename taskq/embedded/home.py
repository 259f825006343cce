"""Directories of servers: private, locked while their owner lives, swept after crashes."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from taskq.errors import ConfigError

_SOCKET_PATH_BYTES = 103  # macOS has room for 104 with the closing zero byte, Linux for 108


def ask(path: Path, command: bytes) -> bytes:
    """Send an inline command and return the start of the answer; b"" where nobody answers."""
    with socket.socket(socket.AF_UNIX) as connection, suppress(OSError):
        connection.settimeout(0.5)
        connection.connect(str(path))
        connection.sendall(command)
        return connection.recv(256)
    return b""


@dataclass
class Home:
    """A server's directory, and the lock that says that its owner lives."""

    path: Path
    ours: bool
    lock: int

    @property
    def socket(self) -> Path:
        """Where the server listens."""
        return self.path / "redis.sock"

    @property
    def log(self) -> Path:
        """What the server had to say."""
        return self.path / "redis.log"

    def release(self) -> None:
        """Remove what is ours and give up the lock."""
        if self.ours:
            shutil.rmtree(self.path, ignore_errors=True)
        else:
            self.socket.unlink(missing_ok=True)
        os.close(self.lock)


def given_home(path: Path) -> Home:
    """Lock a directory that the user has named, and end a server that was left there.

    Raises:
        ConfigError: it is in use, somebody else's, or its path is too long.
    """
    path = path.resolve()
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check_owner(path)
    _check_length(path)
    lock = _try_lock(path)
    if lock is None:
        raise ConfigError(f"{path} is in use by another embedded Redis. Choose another directory.")
    home = Home(path, ours=False, lock=lock)
    _end_orphan(home)
    return home


def own_home() -> Home:
    """Make a new directory, after the removal of what crashed owners left.

    Raises:
        ConfigError: there is no place that only this user can write to.
    """
    base = _base()
    with _exclusively(base):  # nobody sweeps a directory between its making and its locking
        for left in base.glob("redis-*"):
            lock = _try_lock(left)
            if lock is not None:
                orphan = Home(left, ours=True, lock=lock)
                if _end_orphan(orphan):
                    orphan.release()
                else:
                    os.close(lock)
        path = Path(tempfile.mkdtemp(prefix="redis-", dir=base))
        lock = _try_lock(path)
        assert lock is not None  # nobody else has seen the directory
        return Home(path, ours=True, lock=lock)


def _base() -> Path:
    """This user's directory for servers, short enough for the path of a socket."""
    name = f"taskq-{os.getuid()}"
    base = Path(tempfile.gettempdir()).resolve() / name
    if len(os.fsencode(base)) + len("/redis-12345678/redis.sock") > _SOCKET_PATH_BYTES:
        base = Path("/tmp") / name  # noqa: S108 (its owner and mode are checked below)
    with suppress(FileExistsError):
        base.mkdir(mode=0o700)
    _check_owner(base)
    return base


def _check_owner(path: Path) -> None:
    status = path.lstat()
    if path.is_symlink() or not path.is_dir() or status.st_uid != os.getuid():
        raise ConfigError(f"{path} is not a directory of this user. Remove it, or set TMPDIR.")
    if status.st_mode & 0o022:
        raise ConfigError(f"Others may write to {path}; run: chmod go-w {path}")


def _check_length(path: Path) -> None:
    if len(os.fsencode(path)) + len("/redis.sock") > _SOCKET_PATH_BYTES:
        raise ConfigError(
            f"{path} is too long for a unix socket (at most {_SOCKET_PATH_BYTES - 11} bytes). "
            "Choose a shorter directory."
        )


def _try_lock(directory: Path) -> int | None:
    """Lock a directory for its owner's life; None where the owner lives."""
    import fcntl  # noqa: PLC0415 (not on Windows)

    lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


@contextmanager
def _exclusively(directory: Path) -> Iterator[None]:
    import fcntl  # noqa: PLC0415 (not on Windows)

    lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _end_orphan(home: Home) -> bool:
    """End a server whose owner and guard died; whether nothing of it is left."""
    if _listening(home.socket):
        ask(home.socket, b"SHUTDOWN NOSAVE\r\n")
    return not _listening(home.socket)


def _listening(path: Path) -> bool:
    """Whether a process has this socket open, even if it is frozen and answers nothing."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(0.5)
        try:
            connection.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except OSError:
            return True
        return True
