"""`taskq dashboard` as a person starts it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

from tests.dashboard import fill, served
from tests.support import ROOT


def _status(address: str, **headers: str) -> int:
    try:
        request = urllib.request.Request(address, headers=headers)
        with urllib.request.urlopen(request) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def _run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "taskq", "dashboard", *arguments],
        capture_output=True, text=True, cwd=ROOT, check=False, timeout=15,
        env={**os.environ, **env},
    )  # fmt: skip


def test_it_serves_and_streams(redis_url, redis_client):
    fill(redis_client)
    with served(redis_url, "--refresh", "0.2") as root:
        assert _status(f"{root}/") == 200
        assert _status(f"{root}/", Host="evil.example") == 400
        with urllib.request.urlopen(f"{root}/events?view=/jobs", timeout=10) as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            assert stream.readline() == b"retry: 2000\n"
            stream.readline()
            assert stream.readline() == b"event: page\n"
            lines = []
            while line := stream.readline().strip():
                lines.append(line)
            assert any(b"queued-0" in line for line in lines)
            redis_client.delete("rq:queue:default")
            while stream.readline() != b"event: page\n":
                pass


def test_a_token_from_a_file_and_an_end_with_live_viewers(redis_url, tmp_path):
    secret = tmp_path / "token"
    secret.write_text("tokentoken\n")
    with served(redis_url, "--token-file", str(secret), "--host", "127.0.0.1") as root:
        assert _status(f"{root}/") == 401
        assert _status(f"{root}/", Authorization="Bearer tokentoken") == 200
        request = urllib.request.Request(
            f"{root}/events?view=/", headers={"Authorization": "Bearer tokentoken"}
        )
        with urllib.request.urlopen(request, timeout=10) as stream:
            stream.readline()
    # `served` ended it with SIGTERM, within its patience, while a viewer was there


def test_settings_from_the_environment_and_the_file(redis_url, tmp_path):
    (tmp_path / "pyproject.toml").write_text(
        '[tool.taskq.dashboard]\ntitle = "from the file"\nroot-path = "/below"\n'
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "taskq", "dashboard"],
        stdout=subprocess.PIPE, text=True, cwd=tmp_path,
        env={**os.environ, "TASKQ_REDIS_URL": redis_url, "TASKQ_DASHBOARD_PORT": "0",
             "PYTHONUNBUFFERED": "1", "TASKQ_DASHBOARD_TOKEN": "tokentoken"},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        process.stdout.readline()
        address = process.stdout.readline().split()[1]
        assert address.endswith("/below/")
        request = urllib.request.Request(address, headers={"Authorization": "Bearer tokentoken"})
        with urllib.request.urlopen(request) as answer:
            assert b"from the file" in answer.read()
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=15)
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "env", "words"),
    [
        (["--host", "0.0.0.0"], {}, "show all jobs to anybody"),
        (["--token", "short"], {}, "shorter than 8"),
        (["--user", "ada"], {}, "both a user and a password"),
        (["--token-file", "/nowhere/x"], {}, "Cannot read --token-file"),
        (["--token", "tokentoken", "--token-file", "/x"], {}, "both given"),
        (["--root-path", "taskq/"], {}, "root path"),
        (["--url", "http://x"], {}, "no Redis URL"),
        ([], {"TASKQ_DASHBOARD_PORT": "no"}, "TASKQ_DASHBOARD_PORT"),
        (["--host", "203.0.113.1", "--token", "tokentoken"], {}, "Cannot listen on 203.0.113.1"),
    ],
)
def test_wrong_usage(arguments, env, words):
    done = _run("--port", "0", *arguments, **env) if not env else _run(*arguments, **env)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_secret_in_the_shared_file_is_refused(tmp_path):
    (tmp_path / "pyproject.toml").write_text('[tool.taskq.dashboard]\ntoken = "tokentoken"\n')
    done = subprocess.run(
        [sys.executable, "-m", "taskq", "dashboard"],
        capture_output=True, text=True, cwd=tmp_path, check=False, timeout=15,
    )  # fmt: skip
    assert done.returncode == 2
    assert "does not belong into a file" in done.stderr
    assert "tokentoken" not in done.stderr
