"""A private Redis server for `taskq demo`, `taskq dev` and the tests; never for production.

The server is an ordinary `redis-server` or `valkey-server` process that listens on a unix
socket (mode 0600) in a directory that only this user can enter, and on no port unless asked.
It keeps nothing on disk. Three things make sure that none is left behind:

- `stop()`, also called at the interpreter's exit.
- A guard, a small shell between us and the server. It waits on a pipe of ours; when we die,
  even by `kill -9`, the pipe closes, and it kills the server and removes the directory.
- Should the guard be killed, too: every start first looks through the directories of earlier
  ones, and ends and removes those whose owner's lock is free.

A server that is not ours is never touched: we only speak to sockets in these directories.
"""

from __future__ import annotations

from taskq.embedded.program import find_server as find_server
from taskq.embedded.program import packaged_servers as packaged_servers
from taskq.embedded.server import EmbeddedRedis as EmbeddedRedis

__all__ = ["EmbeddedRedis", "find_server", "packaged_servers"]
