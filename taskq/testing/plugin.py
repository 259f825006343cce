"""Fixtures for users' own suites; pytest finds them by itself where taskq is installed.

Loaded in every suite of such an environment, so nothing is imported here that takes time:
redis, fakeredis and the app come with the first test that asks for a fixture.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Literal, Protocol

import pytest

if TYPE_CHECKING:
    from taskq.app import TaskQ
    from taskq.testing.session import Session

_MARKER = "taskq"
_NO_APP = (
    "Which app do these tests use? Name it: taskq_app = shop.queue:queue in pytest's "
    'configuration, app = "shop.queue:queue" under [tool.taskq] of pyproject.toml, TASKQ_APP, '
    '@pytest.mark.taskq(app="shop.queue:queue"), or a fixture taskq_app of your own.'
)


class MakesSessions(Protocol):
    """What the fixture `taskq_testing` is."""

    def __call__(self, mode: Literal["inline", "manual"] = "inline", **arguments: Any) -> Session:
        """Begin `app.testing(mode, **arguments)`; it ends with the test."""
        ...


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the setting `taskq_app`."""
    parser.addini("taskq_app", "app of the taskq fixtures: package.module:app", default="")


def pytest_configure(config: pytest.Config) -> None:
    """Describe the marker."""
    config.addinivalue_line(
        "markers",
        f"{_MARKER}(app=..., now=..., dependencies=...): app of this test's taskq fixtures, and "
        "arguments of queue.testing().",
    )


@pytest.fixture
def taskq_app(request: pytest.FixtureRequest) -> TaskQ:
    """The app under test; a fixture of this name in your conftest.py takes its place."""
    from taskq.finder import find_app  # noqa: PLC0415 (the module's docstring)
    from taskq.settings import load  # noqa: PLC0415

    app: Any = _marked(request).get("app") or request.config.getini("taskq_app") or load().app
    if not app:
        raise pytest.UsageError(_NO_APP)
    return find_app(app) if isinstance(app, str) else app


@pytest.fixture
def taskq_testing(request: pytest.FixtureRequest, taskq_app: TaskQ) -> Iterator[MakesSessions]:
    """Begin a `testing()` with arguments of your own, until the end of the test.

    For example `t = taskq_testing("manual", now=...)`.
    """
    marked = _marked(request)
    marked.pop("app", None)
    with ExitStack() as stack:

        def begin(mode: Literal["inline", "manual"] = "inline", **arguments: Any) -> Session:
            return stack.enter_context(taskq_app.testing(mode, **{**marked, **arguments}))

        yield begin


@pytest.fixture
def taskq_inline(taskq_testing: MakesSessions) -> Session:
    """In this test each job runs when it is enqueued."""
    return taskq_testing("inline")


@pytest.fixture
def taskq_manual(taskq_testing: MakesSessions) -> Session:
    """In this test jobs run when it says so: `taskq_manual.run()`."""
    return taskq_testing("manual")


def _marked(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Arguments of the markers, the closest to the test last."""
    given: dict[str, Any] = {}
    for marker in reversed(list(request.node.iter_markers(_MARKER))):
        given.update(marker.kwargs)
    return given
