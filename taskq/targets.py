"""What `on_success` and `on_failure` may be: a task, or the URL of a webhook.

A URL must be https; plain http only to this machine, and to hosts that the settings
name. Which addresses a host has is looked at when the webhook is sent.
"""

from __future__ import annotations

import ipaddress
from typing import Any
from urllib.parse import urlsplit

from taskq.endings import Ending
from taskq.errors import InvalidArguments
from taskq.settings import load

_SAMPLE = Ending("id", "task", "queue")
_LONGEST = 2_000


def wrong_target(value: Any) -> str:
    """Return why `value` can be neither called nor enqueued; "" where it can.

    Args:
        value: a text (a URL), or a task, also one of `.options()`.
    """
    return wrong_url(value) if isinstance(value, str) else _wrong_task(value)


def _wrong_task(value: Any) -> str:
    # By its looks: tasks are made of options, so their class cannot be imported here.
    opts, signature = getattr(value, "opts", None), getattr(value, "signature", None)
    if opts is None or signature is None or isinstance(value, type):
        return "must be a task (one that @queue.task or @task made), or an https:// URL."
    try:
        signature.check((_SAMPLE,), {})
    except InvalidArguments as error:
        why = str(error).replace(" Nothing was enqueued.", "")
        return f"is called with one argument, an Ending: {why}"
    for option in ("job_id", "unique"):
        if getattr(opts, option) is not None:
            return f"has {option}=, and the id of a callback is made from the job's. Leave it out."
    return ""


def wrong_url(url: str) -> str:
    """Return why `url` is no address that a webhook may be sent to; "" where it is."""
    try:
        parts = urlsplit(url)
        host, _port = parts.hostname, parts.port
    except ValueError as error:
        return f"is no URL: {error}."
    if len(url) > _LONGEST or not url.isascii() or not url.isprintable() or " " in url:
        return f"must be a URL of at most {_LONGEST:,} ASCII characters, without spaces."
    if parts.scheme not in ("https", "http") or not host:
        return "must be a task, or an https:// URL."
    if parts.username is not None or parts.password is not None:
        return "has a login in it, which logs would show. Let the receiver check the signature."
    if parts.scheme == "http" and not is_loopback(host) and host not in load().webhook_http:
        return (
            "must be https: what a webhook says would be readable on its way. To allow http to "
            f"that host, set TASKQ_WEBHOOK_HTTP={host}."
        )
    return ""


def is_loopback(host: str) -> bool:
    """Whether a URL's host is by its name this machine itself."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
