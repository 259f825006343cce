"""taskq.dashboard: the read-only web page. `taskq dashboard` serves it; apps mount it.

It never writes, never unpickles, never imports what a job names: its connection refuses
all but reads (`taskq.broker.readonly`), and pages come from `taskq.inspector`.
"""

from __future__ import annotations

from typing import Any

try:
    from taskq.dashboard.app import Dashboard
except ModuleNotFoundError as missing:
    if (missing.name or "").partition(".")[0] not in ("starlette", "jinja2", "markupsafe"):
        raise
    raise ModuleNotFoundError(
        f'The dashboard needs {missing.name}. Install it: pip install "taskq[dashboard]"',
        name=missing.name,
    ) from missing
from taskq.dashboard.settings import DashboardSettings
from taskq.dashboard.wsgi import WsgiDashboard

__all__ = ["Dashboard", "DashboardSettings", "WsgiDashboard", "create_app", "create_wsgi_app"]


def create_app(redis_url: str = "", **settings: Any) -> Dashboard:
    """The dashboard as an ASGI application, to be served or mounted.

    Args:
        redis_url: Redis; by default where the settings of taskq say.
        settings: see `DashboardSettings`: `token`, `user`, `password`, `behind_proxy`,
            `allowed_hosts`, `root_path`, `refresh_s`, `redact`, `hide_arguments`, `title`.

    Raises:
        ConfigError: a setting is wrong, or contradicts another.
    """
    return Dashboard(DashboardSettings(redis_url=redis_url, **settings))


def create_wsgi_app(redis_url: str = "", **settings: Any) -> WsgiDashboard:
    """The same as a WSGI application, for Flask and Django; takes what `create_app` takes."""
    return WsgiDashboard(create_app(redis_url, **settings))
