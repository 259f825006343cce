"""The commands that look and change, against a real server."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time

import pytest
import rq
from click.testing import CliRunner

from taskq.cli import info, main
from taskq.embedded import EmbeddedRedis
from tests.support import ROOT, wait_until

APP = """
    from taskq import TaskQ

    queue = TaskQ()

    print("imported")

    @queue.task
    def add(a: int, b: int = 2) -> int:
        return a + b

    @queue.task(queue="web")
    async def fetch(url: str) -> str:
        return url

    @queue.task
    def fail(text: str) -> None:
        raise ValueError(text)
"""


@pytest.fixture
def cli(redis_url, tmp_path, monkeypatch):
    """Run a command here; gives click's result, or the JSON it printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TASKQ_REDIS_URL", redis_url)

    def run(*args, code=0, data=False):
        result = CliRunner().invoke(main, [*args, "--json"] if data else list(args))
        assert result.exit_code == code, result.output
        return json.loads(result.stdout) if data else result

    return run


@pytest.fixture
def app(app_module):
    return f"{app_module(APP, name='shop_cli').__name__}:queue"


@pytest.fixture
def jobs(redis_client):
    """By stock RQ: one finished, two failed, three queued, one scheduled."""
    queue = rq.Queue("default", connection=redis_client)
    made = [queue.enqueue("builtins.abs", -1), queue.enqueue("operator.truediv", 1, 0)]
    made += [queue.enqueue("builtins.int", "x")]
    rq.SimpleWorker([queue], connection=redis_client).work(burst=True, logging_level="CRITICAL")
    other = rq.Queue("other", connection=redis_client)
    made += [other.enqueue("builtins.abs", number) for number in range(3)]
    return [job.id for job in made]


# --- ping -----------------------------------------------------------------------------


def test_ping(cli, redis_url):
    text = cli("ping").stdout
    assert re.fullmatch(
        rf"(Redis|Valkey) [\d.]+ at {re.escape(redis_url)} \(TASKQ_REDIS_URL\) "
        r"answers in [\d.]+ ms\.\n",
        text,
    )
    data = cli("ping", data=True)
    assert (data["url"], data["source"]) == (redis_url, "TASKQ_REDIS_URL")
    assert set(data) == {"url", "source", "kind", "version", "round_trip_ms"}


def test_ping_without_redis_says_where_it_looked(cli, monkeypatch):
    url = "redis://user:hunter2@127.0.0.1:1/0"
    result = cli("ping", "--redis-url", url, code=1)
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert "No Redis at redis://user:***@127.0.0.1:1/0" in result.stderr
    assert "hunter2" not in result.output


# --- info -----------------------------------------------------------------------------


def test_info(cli, jobs):
    lines = cli("info").stdout.splitlines()
    (pace,) = [n for n, line in enumerate(lines) if line.startswith("last 5 min")]
    rows = {line.split()[0]: line.split() for line in lines[:pace] if line}
    assert rows["queue"][1:] == [
        "queued", "started", "scheduled", "deferred", "finished", "failed", "canceled", "wait",
    ]  # fmt: skip
    assert rows["default"][1:8] == ["0", "0", "0", "0", "1", "2", "0"]
    assert rows["other"][1] == "3"
    assert rows["total"][1] == "3"
    assert 'No workers. Start one: "taskq worker APP".' in lines
    rates = {line.split()[0]: line.split() for line in lines[pace + 1 : pace + 4]}
    assert rates["default"][3] == "-"  # a stock worker's, gone before anybody looked
    assert "█" in rates["other"][-1]
    assert rates["other"][-2] == "never"


def test_info_as_json(cli, jobs):
    data = cli("info", data=True)
    assert set(data) == {
        "redis", "at", "suspended", "queues", "workers", "queue_count", "worker_count", "totals",
        "rates",
    }  # fmt: skip
    assert data["totals"]["failed"] == 2
    assert set(data["rates"]) == {"", "default", "other"}
    assert data["rates"]["other"]["waiting"] == 3
    assert data["queues"][1]["oldest_waiting_s"] >= 0


def test_info_of_an_empty_server(cli):
    assert "No queues yet." in cli("info").stdout


def test_info_neutralises_names(cli, redis_client):
    redis_client.sadd("rq:queues", "rq:queue:ev\x1b[2Jil")
    redis_client.hset("rq:worker:w\x1b", mapping={"state": "\x1b[31m", "hostname": "\n"})
    redis_client.sadd("rq:workers", "rq:worker:w\x1b")
    text = cli("info").stdout
    assert "\x1b" not in text
    assert "ev\\x1b[2Jil" in text


# --- lists ----------------------------------------------------------------------------


def test_jobs(cli, jobs):
    lines = cli("jobs").stdout.splitlines()
    assert lines[0].split() == ["id", "status", "task", "queue", "when", "took"]
    assert {line.split()[0] for line in lines[1:]} == set(jobs)
    assert len(cli("jobs", "--limit", "2").stdout.splitlines()) == 3


@pytest.mark.parametrize(
    ("args", "picked"),
    [
        (["--status", "queued"], [3, 4, 5]),
        (["-q", "default", "--status", "finished", "--status", "failed"], [0, 1, 2]),
        (["--task", "truediv"], [1]),
        (["--task", "builtins.*", "-q", "default"], [0, 2]),
        (["--error", "ZeroDivision"], [1]),
        (["--since", "1h"], [0, 1, 2, 3, 4, 5]),
        (["--since", "2100-01-01T00:00:00Z"], []),
    ],
)
def test_filters(cli, jobs, args, picked):
    data = cli("jobs", *args, data=True)
    assert {job["id"] for job in data["jobs"]} == {jobs[at] for at in picked}
    assert set(data) == {"jobs", "total", "scanned", "complete"}


def test_failed(cli, jobs):
    text = cli("failed").stdout
    assert "ZeroDivisionError: division by zero" in text
    assert len(text.splitlines()) == 3
    assert cli("failed", "--error", "nope").stdout == "No failed jobs.\n"


def test_a_corrupt_job_is_listed_and_shown(cli, redis_client):
    redis_client.sadd("rq:queues", "rq:queue:default")
    redis_client.hset("rq:job:bad", mapping={"status": "\x1b[2J", "data": b"\xff", "origin": "\n"})
    redis_client.set("rq:job:worse", "no hash")
    redis_client.rpush("rq:queue:default", "bad", "worse", "gone")
    text = cli("jobs").stdout
    assert "\x1b" not in text
    assert {line.split()[0] for line in text.splitlines()[1:]} == {"bad", "worse", "gone"}
    assert "unreadable" in cli("job", "worse").stdout
    assert "\\x1b[2J" in cli("job", "bad").stdout


# --- one job --------------------------------------------------------------------------


def test_job(cli, jobs):
    text = cli("job", jobs[1]).stdout
    assert text.startswith("operator.truediv  failed\n")
    assert "ZeroDivisionError: division by zero" in text
    assert "Traceback (most recent call last)" in text
    data = cli("job", jobs[1], data=True)
    assert data["status"] == "failed"
    assert data["results"][0]["kind"] == "failed"
    assert data["call"] == {"form": "pickle", "size_bytes": data["call"]["size_bytes"]}


def test_no_such_job(cli):
    result = cli("job", "nothing", code=1)
    assert result.stderr.startswith("Error: No job nothing at ")


# --- retry and cancel -----------------------------------------------------------------


def test_retry_by_id(cli, jobs, redis_client):
    assert cli("retry", jobs[1], "--yes").stdout == "1 job queued again.\n"
    assert redis_client.lrange("rq:queue:default", 0, -1) == [jobs[1].encode()]
    result = cli("retry", jobs[1], "nope", "--yes", code=1)
    assert result.stdout == "0 jobs queued again.\n"
    assert result.stderr.splitlines() == [
        "nope: no such job.",
        f"{jobs[1]}: not failed, canceled or stopped.",
    ]


def test_retry_by_filter_oldest_first(cli, jobs, redis_client):
    redis_client.zadd("rq:failed:default", {jobs[2]: 5e9, jobs[1]: 4e9})  # RQ's are of one second
    data = cli("retry", "--all", "--yes", data=True)
    assert data == {"queued": [jobs[1], jobs[2]], "refused": [], "missing": []}
    assert cli("retry", "--all", "--yes").stdout == "No jobs fit.\n"


def test_a_retried_job_runs(cli, jobs, redis_client):
    redis_client.hset(f"rq:job:{jobs[2]}", "data", rq.Queue(
        "x", connection=redis_client).create_job("builtins.int", args=("7",)).data)  # fmt: skip
    cli("retry", jobs[2], "--yes")
    queue = rq.Queue("default", connection=redis_client)
    rq.SimpleWorker([queue], connection=redis_client).work(burst=True, logging_level="CRITICAL")
    assert rq.job.Job.fetch(jobs[2], connection=redis_client).return_value() == 7


def test_cancel(cli, jobs, redis_client):
    assert cli("cancel", "-q", "other", "--limit", "2", "--yes").stdout == "2 jobs canceled.\n"
    assert redis_client.lrange("rq:queue:other", 0, -1) == [jobs[3].encode()]
    result = cli("cancel", jobs[0], jobs[3], "--yes", code=1)
    assert result.stdout == "1 job canceled.\n"
    assert result.stderr == f"{jobs[0]}: has ended already.\n"


@pytest.mark.parametrize("command", ["retry", "cancel"])
def test_a_dry_run_changes_nothing(cli, jobs, redis_client, command):
    before = redis_client.lrange("rq:queue:other", 0, -1), redis_client.zcard("rq:failed:default")
    text = cli(command, "--all", "--dry-run").stdout
    assert re.match(r"Would (run again|be canceled): [23] jobs\n", text)
    data = cli(command, "--all", "--dry-run", data=True)
    assert data["count"] == len(data["ids"]) == len(data["sample"])
    assert before == (
        redis_client.lrange("rq:queue:other", 0, -1), redis_client.zcard("rq:failed:default"),
    )  # fmt: skip


@pytest.mark.parametrize("command", ["retry", "cancel"])
def test_without_a_terminal_it_refuses(cli, jobs, redis_client, command):
    result = cli(command, "--all", code=2)
    assert "say --yes, or --dry-run to see them" in result.stderr
    assert redis_client.llen("rq:queue:other") == 3
    assert redis_client.zcard("rq:failed:default") == 2


def test_many_are_changed_in_pages(cli, redis_client):
    queue = rq.Queue("many", connection=redis_client)
    queue.enqueue_many([rq.Queue.prepare_data("builtins.abs", (n,)) for n in range(450)])
    assert cli("cancel", "--all", "--yes").stdout == "450 jobs canceled.\n"
    assert cli("retry", "--status", "canceled", "--yes").stdout == "450 jobs queued again.\n"
    assert redis_client.llen("rq:queue:many") == 450


# --- enqueue --------------------------------------------------------------------------


def test_enqueue_prints_the_id_alone(cli, app, redis_client):
    result = cli("enqueue", "add", "1", "b=5", "--app", app)
    assert re.fullmatch(r"[\w-]{22}\n", result.stdout)
    data = json.loads(redis_client.hget(f"rq:job:{result.stdout.strip()}", "data"))
    assert data == ["shop_cli.add", None, [1], {"b": 5}]


def test_enqueue_takes_negative_numbers_and_urls(cli, app, redis_client):
    def sent(*args):
        job_id = cli("enqueue", "--app", app, *args).stdout.strip()
        return json.loads(redis_client.hget(f"rq:job:{job_id}", "data"))[2:]

    assert sent("add", "-1", "-2.5") == [[-1, -2.5], {}]
    assert sent("fetch", "http://x/?a=b") == [["http://x/?a=b"], {}]
    assert sent("fetch", "--", "--text") == [["--text"], {}]


def test_enqueue_options(cli, app, redis_client):
    cli("enqueue", "add", "1", "--job-id", "a", "-q", "high", "--delay", "1h", "--app", app)
    assert redis_client.hget("rq:job:a", "status") == b"scheduled"
    assert redis_client.zscore("rq:scheduled:high", "a") == pytest.approx(
        time.time() + 3600, abs=60
    )
    cli("enqueue", "add", "1", "--job-id", "b", "--at", "2100-01-01T00:00:00Z", "--app", app)
    assert redis_client.zscore("rq:scheduled:default", "b") == 4102444800


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["add", "1", "c=4"], 2, "add() got an unexpected argument 'c'."),
        (["add"], 2, "misses the argument 'a'"),
        (["nothing"], 2, "no task 'nothing' in app shop_cli:queue (3 tasks"),
        (["add", "1", "--job-id", "a/b"], 2, "only letters, digits"),
        (["add", "1", "--delay", "1", "--at", "2100-01-01T00:00:00Z"], 2, "contradict"),
    ],
)
def test_a_wrong_call_is_not_enqueued(cli, app, redis_client, args, code, message):
    result = cli("enqueue", "--app", app, *args, code=code)
    assert message in result.stderr
    assert redis_client.keys("rq:job:*") == []


def test_enqueue_needs_an_app(cli):
    assert 'Which app? "taskq enqueue" needs one' in cli("enqueue", "add", code=2).stderr


def test_a_duplicate_id(cli, app):
    cli("enqueue", "add", "1", "--job-id", "a", "--app", app)
    assert "Job id 'a'" in cli("enqueue", "add", "1", "--job-id", "a", "--app", app, code=1).stderr


def test_enqueue_and_wait(cli, app, worker):
    worker(app)
    assert cli("enqueue", "add", "1", "--app", app, "--wait").stdout == "3\n"
    data = cli("enqueue", "fetch", "x", "-q", "default", "--app", app, "--wait", data=True)
    assert data["result"] == "x"
    result = cli("enqueue", "fail", "as agreed", "--app", app, "--wait", code=1)
    assert "failed: " in result.stderr
    assert "ValueError: as agreed" in result.stderr


def test_waiting_in_vain_says_why(cli, app):
    result = cli("enqueue", "add", "1", "--app", app, "--wait", "--timeout", "0.2", code=1)
    assert "No worker listens to 'default'" in result.stderr
    assert result.stderr.count("\n") == 1


# --- as a program: terminal, signals, pipes -----------------------------------------------


def start(*args, redis_url, **settings):
    env = {**os.environ, "TASKQ_REDIS_URL": redis_url, "TERM": "xterm", "COLUMNS": "120"}
    command = [sys.executable, "-m", "taskq", *args]
    return subprocess.Popen(command, env=env, cwd=ROOT, **settings)


class Terminal:
    """A program on a pseudo-terminal."""

    def __init__(self, *args, redis_url):
        self.master, slave = pty.openpty()
        self.process = start(*args, redis_url=redis_url, stdin=slave, stdout=slave, stderr=slave)
        os.close(slave)
        self.seen = ""

    def expect(self, text, timeout=10.0):
        def reads():
            while select.select([self.master], [], [], 0.05)[0]:
                try:
                    self.seen += os.read(self.master, 65536).decode()
                except OSError:  # Linux's way of saying that the program has ended
                    break
            return text in self.seen

        wait_until(reads, timeout, message=lambda: f"{text!r} not in {self.seen!r}")

    def type(self, text):
        os.write(self.master, text.encode())

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self.master)


@pytest.fixture
def terminal(redis_url):
    opened = []

    def make(*args):
        opened.append(Terminal(*args, redis_url=redis_url))
        return opened[-1]

    yield make
    for each in opened:
        each.close()


def test_on_a_terminal_it_asks_first(terminal, jobs, redis_client):
    shell = terminal("retry", "--all")
    shell.expect("Run again 2 jobs? [y/N]")
    assert jobs[1] in shell.seen
    shell.type("n\n")
    assert shell.process.wait(10) == 0
    assert redis_client.zcard("rq:failed:default") == 2
    shell = terminal("retry", "--all")
    shell.expect("[y/N]")
    shell.type("y\n")
    shell.expect("2 jobs queued again.")
    assert redis_client.zcard("rq:failed:default") == 0


def test_ctrl_c_at_the_question_changes_nothing(terminal, jobs, redis_client):
    shell = terminal("retry", "--all")
    shell.expect("[y/N]")
    shell.process.send_signal(signal.SIGINT)
    assert shell.process.wait(10) == 130
    assert redis_client.zcard("rq:failed:default") == 2


def test_colours_on_a_terminal(terminal, jobs):
    shell = terminal("failed")
    shell.expect("\x1b[31mfailed")


def test_watch_redraws_until_interrupted(terminal, jobs, redis_client):
    shell = terminal("info", "--watch", "--interval", "0.1")
    shell.expect("total")
    redis_client.rpush("rq:queue:brand-new", "x")
    redis_client.sadd("rq:queues", "rq:queue:brand-new")
    shell.expect("brand-new")
    shell.process.send_signal(signal.SIGINT)
    assert shell.process.wait(10) == 130
    shell.expect("\x1b[?1049l")  # the alternate screen is left
    assert "Traceback" not in shell.seen


def test_watch_waits_out_an_outage(terminal, tmp_path):
    place = tmp_path / "redis"
    with EmbeddedRedis.start(directory=place) as server:
        shell = terminal("info", "--watch", "--interval", "0.1", "--redis-url", server.url)
        shell.expect("No queues yet.")
    shell.expect("No Redis at")
    shell.seen = ""
    with EmbeddedRedis.start(directory=place):
        shell.expect("No queues yet.")


def test_watch_without_rich(monkeypatch, capsys):
    def lines():
        seen.append(1)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return ["a line"]

    seen = []
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(KeyboardInterrupt):
        info._watch(lines, 0.001)
    assert capsys.readouterr().out.count("a line") == 2


def test_another_prefix(cli, redis_client, monkeypatch):
    redis_client.sadd("shop:queues", "shop:queue:default")
    redis_client.rpush("shop:queue:default", "j")
    redis_client.hset(
        "shop:job:j",
        mapping={"status": "queued", "origin": "default", "data": '["a.b", null, [], {}]'},
    )
    assert cli("jobs", data=True)["jobs"] == []
    monkeypatch.setenv("RQ_KEY_PREFIX", "shop")
    assert cli("jobs", data=True)["jobs"][0]["task"] == "a.b"
    assert cli("cancel", "j", "--yes").stdout == "1 job canceled.\n"
    assert redis_client.zcard("shop:canceled:default") == 1


def test_watch_as_json_is_a_line_each_time(redis_url, jobs):
    process = start(
        "info", "--watch", "--json", "--interval", "0.05", redis_url=redis_url,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    lines = [process.stdout.readline() for _ in range(3)]
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert [json.loads(line)["totals"]["failed"] for line in lines] == [2, 2, 2]
    assert process.returncode == 130
    assert "Traceback" not in err


def test_a_reader_that_leaves_is_no_error(redis_url, redis_client):
    for number in range(3000):
        redis_client.rpush("rq:queue:default", f"job-{number}-{'x' * 60}")
    redis_client.sadd("rq:queues", "rq:queue:default")
    process = start(
        "jobs", "--limit", "3000", redis_url=redis_url,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(10) == 1


def test_secrets_are_never_shown(redis_tcp_url):
    url = redis_tcp_url.replace("redis://", "redis://nobody:hunter2@")
    for command in ("ping", "info", "jobs", "failed"):
        process = start(
            command, redis_url=url, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        text, _ = process.communicate(timeout=15)
        assert process.returncode == 1
        assert "hunter2" not in text
        assert "Traceback" not in text
