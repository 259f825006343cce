"""Our view of Redis: the only package that imports redis and rq.

`Broker` is what the rest of taskq talks to. Scripts are in `lua/`.
"""

from __future__ import annotations

from taskq.broker.client import Broker, BrokerError
from taskq.broker.records import Accepted, NewJob

__all__ = ["Accepted", "Broker", "BrokerError", "NewJob"]
