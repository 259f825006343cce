"""The pytest plugin, in suites of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest_plugins = "pytester"

SHOP = """
from taskq import Depends, TaskQ

queue = TaskQ("redis://127.0.0.1:1/0")

def rate():
    return 2

@queue.task
def double(n: int, *, by: int = Depends(rate)) -> int:
    return n * by
"""

SUITE = """
from datetime import datetime, timezone
import pytest
import shop

def triple():
    return 3

def test_inline(taskq_inline):
    assert shop.double.delay(2).result() == 4

def test_manual(taskq_manual):
    handle = shop.double.delay(2)
    assert taskq_manual.run() == 1
    assert handle.result() == 4
    assert taskq_manual.enqueued(shop.double).count == 1

def test_factory(taskq_testing):
    t = taskq_testing("manual", now=datetime(2026, 1, 1, tzinfo=timezone.utc))
    shop.double.options(delay=60).delay(1)
    assert t.advance(60) == 1
    assert t.now.minute == 1

@pytest.mark.taskq(dependencies={shop.rate: triple}, now=datetime(2026, 1, 1, tzinfo=timezone.utc))
def test_marker(taskq_inline):
    assert shop.double.delay(2).result() == 6
    assert taskq_inline.now.year == 2026

def test_nothing_is_left():
    assert shop.queue._broker is None
"""

RUN = ("-p", "taskq.testing.plugin", "-p", "no:randomly", "--strict-markers")


@pytest.fixture
def suite(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makepyfile(shop=SHOP, test_shop=SUITE)
    return pytester


def test_the_app_is_named_in_the_configuration(suite):
    suite.makeini("[pytest]\ntaskq_app = shop:queue\npythonpath = .\n")
    suite.runpytest_subprocess(*RUN).assert_outcomes(passed=5)


def test_the_app_is_a_fixture_of_the_suite(suite):
    suite.makeini("[pytest]\npythonpath = .\n")
    suite.makeconftest("""
        import pytest

        @pytest.fixture
        def taskq_app():
            import shop
            return shop.queue
    """)
    suite.runpytest_subprocess(*RUN).assert_outcomes(passed=5)


def test_no_app(suite):
    suite.makeini("[pytest]\npythonpath = .\n")
    result = suite.runpytest_subprocess(*RUN, "-k", "inline")
    result.stdout.fnmatch_lines(["*Which app do these tests use? Name it: taskq_app = *"])


def test_a_suite_without_it_pays_nothing():
    assert _heavy("taskq.testing.plugin") == _heavy("pytest")


def _heavy(module: str) -> str:
    """Which of these an import brings along."""
    names = ("redis", "rq", "fakeredis", "hiredis", "lupa", "asyncio")
    code = f"import sys, {module}; print([name for name in {names} if name in sys.modules])"
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30
    ).stdout
