"""The Grafana board: each query finds something in what /metrics says, and Prometheus takes it."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.dashboard import fill, get, made, served
from tests.support import ROOT, wait_until

BOARD = json.loads((ROOT / "examples" / "grafana" / "taskq.json").read_text())
QUERIES = [target["expr"] for panel in BOARD["panels"] for target in panel["targets"]]
VARIABLES = {one["name"]: one["query"] for one in BOARD["templating"]["list"]}
SETTINGS = """
global: {scrape_interval: 1s, scrape_timeout: 1s}
scrape_configs: [{job_name: taskq, static_configs: [{targets: ["%s"]}]}]
"""
EMPTY = {"taskq_redis_memory_limit_bytes > 0"}  # this Redis has none


def count_a_minute(client: Any) -> None:
    """What the last full minute counted, so that there are rates, waits and run times."""
    minute = client.time()[0] // 60 - 1
    counted = {"enqueued": 60, "started": 60, "finished": 50, "failed": 10, "r60": 60, "w50": 60}
    for queue in ("default", ""):
        client.hset(f"taskq:stats:{queue}:{minute}", mapping={**counted, "run_us": 6_000_000})


async def test_each_query_asks_for_what_there_is(redis_url, redis_client):
    fill(redis_client)
    count_a_minute(redis_client)
    app = made(redis_url)
    text = (await get(app, "/metrics")).text
    await app.aclose()
    lines = [re.match(r"(\w+)(?:\{(.*)\})? ", line) for line in text.splitlines()]
    series = [(found[1], found[2] or "") for found in lines if found]
    assert len(QUERIES) > 15
    for query in QUERIES:
        (name,) = re.findall(r"taskq_\w+", query)
        labels = re.findall(r'(\w+)=~?"([^"]*)"', query)
        fitting = [
            label
            for label, value in labels
            if not any(
                one == name and (f'{label}="{value}"' in had or (value[0] == "$" and label in had))
                for one, had in series
            )
        ]
        assert any(one == name for one, _ in series), query
        assert fitting == [], query
    found = re.fullmatch(r"label_values\((\w+), (\w+)\)", VARIABLES["queue"]["query"])
    assert found
    assert any(name == found[1] and f'{found[2]}="' in labels for name, labels in series)


@contextmanager
def prometheus(program: str, folder: Path, target: str) -> Iterator[str]:
    """A real one that asks the dashboard each second; its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (folder / "prometheus.yml").write_text(SETTINGS % target.removeprefix("http://"))
    process = subprocess.Popen(
        [program, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
         f"--web.listen-address=127.0.0.1:{port}"],
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(15)


def ask(address: str, query: str) -> list[Any]:
    """The answer to an instant query; empty where there is none, or nobody answers yet."""
    try:
        with urllib.request.urlopen(
            f"{address}/api/v1/query?query={urllib.parse.quote(query)}", timeout=5
        ) as answer:
            found: list[Any] = json.load(answer)["data"]["result"]
            return found
    except urllib.error.HTTPError as error:
        if error.code == 503:
            return []
        pytest.fail(f"{query}: {error.read().decode()}")
    except OSError:
        return []


@pytest.mark.timeout(60)
def test_a_real_prometheus_answers_each_query(redis_url, redis_client, tmp_path):
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("prometheus is not installed (apt-get install prometheus)")
    fill(redis_client)
    count_a_minute(redis_client)
    with served(redis_url) as dashboard, prometheus(program, tmp_path, dashboard) as address:
        wait_until(lambda: ask(address, "up == 1"), 20)
        unanswered = [query for query in QUERIES if not ask(address, query.replace("$queue", ".+"))]
        assert set(unanswered) == EMPTY
        # rq-exporter's names, for the boards that people have
        assert ask(address, 'rq_jobs{status="failed"}')
        assert ask(address, "rq_workers")
    checker = shutil.which("promtool")
    if checker is not None:
        with served(redis_url) as dashboard:
            text = urllib.request.urlopen(f"{dashboard}/metrics").read()
        done = subprocess.run(
            [checker, "check", "metrics"], input=text, capture_output=True, timeout=20, check=False
        )
        assert (done.returncode, done.stderr) == (0, b"")
