"""Whether a Redis server is fit to keep jobs: what it may throw away, and when."""

from __future__ import annotations

import ipaddress
from typing import Any, NamedTuple

from taskq.inspector.server import server_info
from taskq.inspector.values import items, text, whole

SKEW_S = 1.0
"""Dates in records come from clients' clocks; a larger difference to Redis's shows in them."""

OLDEST = (6, 2)

HOLES: dict[str, tuple[tuple[int, ...], ...]] = {
    "Redis": ((6, 2, 20), (7, 2, 11), (7, 4, 6), (8, 0, 4), (8, 2, 2)),
    "Valkey": ((7, 2, 11), (8, 0, 6), (8, 1, 4)),
}
"""First safe version of each line: CVE-2025-49844 (code execution through a Lua script)."""


class Complaint(NamedTuple):
    """One thing about the server.

    Attributes:
        code: what kind.
        severity: "error": jobs get lost; "warning": they may; "note": worth knowing.
        text: what is so, and what to do.
    """

    code: str
    severity: str
    text: str


COMMANDS = (
    ("INFO",),
    ("CONFIG", "GET", "save"),
    ("CONFIG", "GET", "appendonly"),
    ("CONFIG", "GET", "appendfsync"),
    ("CONFIG", "GET", "protected-mode"),
    ("CONFIG", "GET", "requirepass"),
    ("CONFIG", "GET", "bind"),
)
"""What is asked; managed servers refuse CONFIG, and are judged by INFO alone."""


def complaints(replies: list[Any], skew_s: float) -> list[Complaint]:
    """Judge the replies to `COMMANDS`.

    Args:
        replies: in their order; errors count as unknown.
        skew_s: this machine's clock minus Redis's.
    """
    info = _info(replies[0])
    config: dict[str, str] = {}
    for reply in replies[1:]:
        flat = [text(part) for part in items(reply)]
        config.update(zip(flat[::2], flat[1::2]))
    found = [
        *_memory(info),
        *_persistence(info, config),
        *_exposure(config),
        *_version(replies[0], info),
        *_role(info),
    ]
    if abs(skew_s) > SKEW_S:
        side = "ahead of" if skew_s > 0 else "behind"
        found.append(
            Complaint(
                "clock",
                "warning",
                f"This machine's clock is {abs(skew_s):.1f} s {side} Redis's."
                " Leases and due times use Redis's, so nothing is lost; dates in records "
                "may look wrong. Run NTP on both.",
            )
        )
    return found


def _info(reply: Any) -> dict[str, str]:
    lines = reply.decode("utf-8", "replace").splitlines() if isinstance(reply, bytes) else []
    return {k: v.strip() for k, colon, v in (line.partition(":") for line in lines) if colon}


def _memory(info: dict[str, str]) -> list[Complaint]:
    policy, limit = info.get("maxmemory_policy", ""), whole(info.get("maxmemory")) or 0
    used = whole(info.get("used_memory")) or 0
    found = []
    if policy not in ("", "noeviction"):
        now = "deletes jobs" if limit else "will delete jobs as soon as there is a maxmemory"
        found.append(
            Complaint(
                "eviction",
                "error" if limit else "warning",
                f"maxmemory-policy is {policy}: a full Redis {now}. "
                "Set it to noeviction: then enqueueing is refused, and nothing lost.",
            )
        )
    evicted = whole(info.get("evicted_keys")) or 0
    if evicted:
        found.append(
            Complaint("evicted", "error", f"{evicted:,} keys were evicted since Redis started; "
                      "jobs may be among them.")
        )  # fmt: skip
    if limit and used > 0.9 * limit:
        found.append(
            Complaint("full", "warning", f"{used / limit:.0%} of maxmemory ({limit:,} bytes) is "
                      "used. Raise it, or lower result_ttl and failure_ttl.")
        )  # fmt: skip
    if not limit:
        found.append(
            Complaint("unlimited", "note", "maxmemory is not set: a backlog may use all memory of "
                      "the machine, and the kernel then kills Redis.")
        )  # fmt: skip
    return found


def _persistence(info: dict[str, str], config: dict[str, str]) -> list[Complaint]:
    found = []
    aof = info.get("aof_enabled") == "1"
    for field, what in (("rdb_last_bgsave_status", "snapshot"), ("aof_last_write_status", "write")):
        if info.get(field) == "err":
            found.append(
                Complaint("disk", "error", f"Redis's last {what} to disk failed ({field}): it may "
                          "refuse writes. Look at its log and its disk.")
            )  # fmt: skip
    if not aof and config.get("save") == "":
        found.append(
            Complaint("persistence", "warning", "Redis keeps nothing on disk (appendonly no, no "
                      "save): its restart loses every job. Set appendonly yes.")
        )  # fmt: skip
    elif not aof and info:
        found.append(
            Complaint("persistence", "note", "Redis only takes snapshots (appendonly no): a crash "
                      "of Redis loses what came after the last one. Set appendonly yes.")
        )  # fmt: skip
    elif config.get("appendfsync") == "no":
        found.append(
            Complaint("persistence", "warning", "appendfsync is no: a crash of the machine loses "
                      "what the kernel had not written yet. Set everysec or always.")
        )  # fmt: skip
    return found


def _exposure(config: dict[str, str]) -> list[Complaint]:
    if config.get("protected-mode") != "no" or config.get("requirepass"):
        return []
    if all(_is_loopback(one) for one in config.get("bind", "*").split() or ["*"]):
        return []
    return [
        Complaint("exposed", "error", "Redis listens beyond this machine without a password and "
                  "with protected-mode off: whoever reaches it can run code on your workers. Set a "
                  "password, or bind 127.0.0.1.")
    ]  # fmt: skip


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address.lstrip("-")).is_loopback
    except ValueError:
        return address == "localhost"


def _version(reply: Any, info: dict[str, str]) -> list[Complaint]:
    server = server_info(reply)
    numbers = tuple(int(part) for part in server.version.split(".")[:3] if part.isdigit())
    protocol = tuple(int(p) for p in info.get("redis_version", "").split(".")[:2] if p.isdigit())
    if len(protocol) == 2 and protocol < OLDEST:
        return [
            Complaint("version", "error", f"{server.kind} {server.version} is older than 6.2, "
                      "which taskq needs. Upgrade it.")
        ]  # fmt: skip
    lines = HOLES.get(server.kind, ())
    if len(numbers) < 2 or not lines or numbers[:2] > lines[-1][:2]:
        return []
    safe = next((line for line in lines if line[:2] == numbers[:2]), None)
    if safe is not None and numbers >= safe:
        return []
    wanted = ".".join(map(str, safe or next(line for line in lines if line > numbers)))
    return [
        Complaint("version", "warning", f"{server.kind} {server.version} has a known hole "
                  f"(CVE-2025-49844: code execution by who may run scripts). Upgrade to {wanted} "
                  "or later.")
    ]  # fmt: skip


def _role(info: dict[str, str]) -> list[Complaint]:
    found = []
    if info.get("role") == "slave":
        found.append(
            Complaint("replica", "error", "This is a replica: it takes no writes, and what it "
                      "shows may be old. Connect to its master.")
        )  # fmt: skip
    if info.get("loading") == "1":
        found.append(Complaint("loading", "warning", "Redis is still loading its data."))
    return found
