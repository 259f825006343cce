from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone

import pytest

from taskq.errors import ConfigError
from taskq.options import BATCH_RESULT_TTL_S, DEFAULTS, Options
from taskq.retry import Retry


def made(**options) -> Options:
    return DEFAULTS.merge("resize.options()", options)


def fields(options: Options) -> dict[str, str]:
    return dict(zip(options.fields[::2], options.fields[1::2], strict=True))


def test_defaults_write_nothing():
    assert DEFAULTS.fields == []
    assert DEFAULTS.is_plain
    assert made(queue="high", timeout=180, result_ttl=500, failure_ttl=31_536_000).fields == []


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"timeout": 30}, {"timeout": "30"}),
        ({"timeout": None}, {"timeout": "-1"}),
        ({"timeout": timedelta(minutes=2)}, {"timeout": "120"}),
        ({"timeout": 0.25}, {"timeout": "1", "tq_timeout": "0.25"}),
        ({"result_ttl": 0}, {"result_ttl": "0"}),
        ({"result_ttl": -1}, {"result_ttl": "-1"}),
        ({"result_ttl": 0.5}, {"result_ttl": "1"}),
        ({"failure_ttl": timedelta(days=1)}, {"failure_ttl": "86400"}),
        ({"ttl": 9.5}, {"ttl": "10"}),
        ({"description": "make it small"}, {"description": "make it small"}),
        ({"at_front": True}, {"enqueue_at_front": "1"}),
        ({"redeliver": False}, {"tq_redeliver": "0"}),
        ({"retry": 3}, {"retries_left": "3"}),
        ({"retry": 0}, {}),
        ({"on_success": None, "on_failure": None}, {}),
        ({"durable": True}, {"tq_durable": "1"}),
        ({"durable": False}, {"tq_durable": "0"}),
    ],
)
def test_only_what_differs_from_rq_is_written(options, expected):
    assert fields(made(**options)) == expected


def test_backoff_becomes_rqs_intervals():
    written = fields(made(retry=Retry(3, backoff="exponential", base=1, cap=300)))
    assert written["retries_left"] == "3"
    assert json.loads(written["retry_intervals"]) == [1, 2, 4]


def test_what_rq_does_not_know_of_a_retry_stands_beside():
    policy = Retry(3, on=(OSError,))
    written = fields(made(retry=policy))
    assert Retry.from_field(written["tq_retry"]).matches(["builtins.OSError"])
    assert not Retry.from_field(written["tq_retry"]).matches(["builtins.ValueError"])


def test_results_of_a_batch_are_kept_a_day_unless_the_task_says_otherwise():
    def kept(options: Options) -> str | None:
        flat = options.batch_fields
        return dict(zip(flat[::2], flat[1::2], strict=True)).get("result_ttl")

    assert kept(DEFAULTS) == str(BATCH_RESULT_TTL_S)
    assert kept(made(result_ttl=60)) == "60"
    assert kept(made(result_ttl=500)) is None
    assert kept(made(result_ttl=0)) == "0"


def test_later_options_win_and_the_first_stay_as_they_are():
    first = made(queue="low", timeout=5)
    assert first.fields
    second = first.merge("x", {"queue": "high"})
    assert (second.queue, second.timeout, second.given) == ("high", 5, {"queue", "timeout"})
    assert first.queue == "low"
    assert second.merge("x", {"timeout": 7}).fields == ["timeout", "7"]
    assert second.fields == ["timeout", "5"]


def test_delay_and_at():
    moment = datetime(2030, 1, 1, tzinfo=timezone.utc)
    assert made(delay=timedelta(seconds=3)).delay == 3
    assert made(delay=0).delay is None
    assert made(at=moment).at == moment.timestamp()
    with pytest.raises(ConfigError, match="delay and at contradict each other"):
        made(delay=1, at=moment)
    # The later one replaces the earlier one.
    assert made(delay=60).merge("x", {"at": moment}).delay is None
    assert made(at=moment).merge("x", {"delay": 60}).at is None
    assert made(delay=60).merge("x", {"delay": None}).delay is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quue": "x"}, "there is no option 'quue'. Did you mean 'queue'? Options: queue, "),
        ({"retries": 3}, "there is no option 'retries'. Did you mean 'retry'?"),
        ({"mode": "thread"}, "'mode' belongs to the decorator"),
        ({"name": "a.b"}, "'name' belongs to the decorator"),
        ({"queue": ""}, "queue=''"),
        ({"queue": "a\nb"}, "without control characters"),
        ({"queue": 3}, "queue=3: must be a queue's name"),
        ({"timeout": 0}, "must be more than 0 seconds; None means no limit"),
        ({"timeout": -1}, "must be more than 0 seconds; None means no limit"),
        ({"timeout": "30"}, "timeout='30': must be seconds (int, float) or a timedelta."),
        ({"timeout": True}, "must be seconds"),
        ({"timeout": float("inf")}, "finite"),
        ({"timeout": float("nan")}, "finite"),
        ({"timeout": 1e15}, "less than 1,000 years"),
        ({"result_ttl": -2}, "or -1 for ever"),
        ({"result_ttl": None}, "-1 means for ever, 0 not at all"),
        ({"failure_ttl": -5}, "or -1 for ever"),
        ({"ttl": 0}, "more than 0 seconds"),
        ({"delay": -1}, "0 or more seconds"),
        ({"at": 1_700_000_000}, "must be an aware datetime; for seconds from now use delay="),
        ({"at": datetime(2030, 1, 1)}, "without a time zone"),  # noqa: DTZ001 - the point
        ({"at_front": 1}, "must be True or False"),
        ({"redeliver": None}, "must be True or False"),
        ({"unique": ""}, "a text that is not empty"),
        ({"unique": 3}, "must be True, a text"),
        ({"retry": -1}, "0 or more retries"),
        ({"retry": True}, "a number of retries or a Retry"),
        ({"retry": 2.5}, "a number of retries or a Retry"),
        ({"job_id": "a b"}, "letters, digits, underscores and dashes"),
        ({"job_id": "a:b"}, "letters, digits, underscores and dashes"),
        ({"job_id": "ä"}, "letters, digits, underscores and dashes"),
        ({"description": 3}, "must be a text"),
        ({"meta": [1]}, "must be a dict whose keys are texts"),
        ({"meta": {1: 2}}, "must be a dict whose keys are texts"),
        ({"on_success": print}, "must be a task"),
        ({"durable": 1}, "must be True or False"),
    ],
)
def test_wrong_values_are_refused_with_what_is_allowed(options, message):
    with pytest.raises(ConfigError) as caught:
        made(**options)
    assert str(caught.value).startswith("resize.options(): ")
    assert message in str(caught.value)


def test_what_is_not_plain():
    for options in (
        {"unique": True},
        {"job_id": "a"},
        {"meta": {"a": 1}},
        {"delay": 1},
        {"at": datetime.now(timezone.utc)},
        {"ttl": 3},
        {"at_front": True},
    ):
        assert not made(**options).is_plain, options
    assert made(unique=False, meta={}, job_id=None, at=None, delay=None).is_plain
