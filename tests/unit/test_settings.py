"""Where settings come from, and what a wrong one says."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskq.errors import ConfigError
from taskq.settings import Settings, load, redact, redis_url


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project as working directory."""
    (tmp_path / "pyproject.toml").write_text("")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(project: Path, text: str) -> None:
    (project / "pyproject.toml").write_text(f"[tool.taskq]\n{text}\n")


def test_defaults(project: Path):
    assert load() == Settings(file=project / "pyproject.toml")
    assert redis_url() == ("redis://localhost:6379/0", "default")


def test_the_file_is_found_above_and_takes_dashes(project: Path, monkeypatch: pytest.MonkeyPatch):
    write(project, 'app = "shop.queue:queue"\nmax-bytes = 500\n[tool.taskq.worker]\nprocesses = 3')
    below = project / "a" / "b"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    settings = load()
    assert (settings.app, settings.max_bytes) == ("shop.queue:queue", 500)
    assert settings.table["worker"] == {"processes": 3}


def test_the_nearest_file_counts_even_if_it_says_nothing(
    project: Path, monkeypatch: pytest.MonkeyPatch
):
    write(project, 'app = "outer:queue"')
    inner = project / "inner"
    inner.mkdir()
    (inner / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    monkeypatch.chdir(inner)
    assert load().app == ""


def test_a_file_can_be_named(project: Path):
    other = project / "other.toml"
    other.write_text('[tool.taskq]\napp = "other:queue"\n')
    assert load(other).app == "other:queue"
    with pytest.raises(ConfigError, match="Cannot read .*none.toml"):
        load(project / "none.toml")


def test_the_environment_wins_over_the_file(project: Path, monkeypatch: pytest.MonkeyPatch):
    write(project, 'app = "file:queue"\nserializer = "json"\naccept = ["json"]')
    monkeypatch.setenv("TASKQ_APP", "env:queue")
    monkeypatch.setenv("TASKQ_SERIALIZER", "pickle")
    monkeypatch.setenv("TASKQ_ACCEPT", "json, pickle")
    monkeypatch.setenv("TASKQ_SECRET", "new,old")
    monkeypatch.setenv("TASKQ_MAX_BYTES", "42")
    monkeypatch.setenv("TASKQ_EAGER", "yes")
    assert load() == Settings(
        app="env:queue",
        serializer="pickle",
        accept=("json", "pickle"),
        secret=("new", "old"),
        max_bytes=42,
        eager=True,
        file=project / "pyproject.toml",
        table={"app": "file:queue", "serializer": "json", "accept": ["json"]},
    )


def test_an_empty_variable_is_as_if_unset(project: Path, monkeypatch: pytest.MonkeyPatch):
    write(project, 'app = "file:queue"\nredis-url = "redis://file"')
    monkeypatch.setenv("TASKQ_APP", "")
    monkeypatch.setenv("TASKQ_REDIS_URL", "")
    assert load().app == "file:queue"
    assert redis_url() == ("redis://file", "pyproject.toml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("app = 3", r"app under \[tool.taskq\] in .*pyproject.toml is 3, not a text"),
        ('serializer = "xml"', "serializer under .* is 'xml'. Allowed: json, pickle"),
        ('accept = ["json", 3]', "accept under .* not a list of texts"),
        ('accept = ["yaml"]', "accept under .* is 'yaml'. Allowed: json, pickle"),
        ('accept = ["json", " "]', r"accept under .* is \['json', ' '\], which has an empty part"),
        ("max_bytes = 0", "max_bytes under .* is 0, not a number of bytes above 0"),
        ("max_bytes = true", "max_bytes under .* is True"),
        ("eager = 2", "eager under .* is 2. Allowed: 1, true"),
        ('secret = "abc"', "Set TASKQ_SECRET instead"),
        (
            'redis_url = "localhost:6379"',
            "redis_url under .* no Redis URL. It begins with: redis://",
        ),
        ("app = ", "Cannot read .*pyproject.toml"),
    ],
)
def test_a_wrong_value_in_the_file(project: Path, text: str, message: str):
    write(project, text)
    with pytest.raises(ConfigError, match=message):
        load()


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("TASKQ_SERIALIZER", "xml", "TASKQ_SERIALIZER is 'xml'. Allowed: json, pickle"),
        ("TASKQ_ACCEPT", "json,xml", "TASKQ_ACCEPT is 'xml'"),
        ("TASKQ_ACCEPT", "json,", "TASKQ_ACCEPT is 'json,', which has an empty part"),
        ("TASKQ_ACCEPT", ",", "TASKQ_ACCEPT is ',', which has an empty part"),
        ("TASKQ_MAX_BYTES", "1 MB", "TASKQ_MAX_BYTES is '1 MB', not a number of bytes"),
        ("TASKQ_EAGER", "perhaps", "TASKQ_EAGER is 'perhaps'. Allowed: 1, true"),
    ],
)
def test_a_wrong_value_in_the_environment(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, message: str
):
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=message):
        load()


def test_tool_taskq_must_be_a_table(project: Path):
    (project / "pyproject.toml").write_text('[tool]\ntaskq = "x"\n')
    with pytest.raises(ConfigError, match="tool.taskq in .* is 'x', not a table"):
        load()


def test_a_deleted_working_directory_has_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert load() == Settings()


@pytest.mark.parametrize("secret", ["", " ", ",", " , ", "hunter2,", ",hunter2", "a,,hunter2"])
def test_an_empty_secret_is_refused(secret: str, monkeypatch: pytest.MonkeyPatch):
    """Else a mistake of the deployment would switch signatures off, or anybody could sign."""
    monkeypatch.setenv("TASKQ_SECRET", secret)
    with pytest.raises(ConfigError, match="TASKQ_SECRET is empty or has an empty part") as caught:
        load()
    assert "hunter2" not in str(caught.value)


def test_an_empty_secret_in_the_file_is_refused(project: Path):
    write(project, 'secret = ""')
    with pytest.raises(ConfigError, match="Set TASKQ_SECRET instead"):
        load()


def test_secrets_do_not_show():
    assert "hunter2" not in repr(Settings(secret=("hunter2",), redis_url="redis://:hunter2@h"))


# --- the URL of Redis -------------------------------------------------------------


def test_order_of_the_url(project: Path, monkeypatch: pytest.MonkeyPatch):
    write(project, 'redis-url = "redis://file/3"')
    assert redis_url() == ("redis://file/3", "pyproject.toml")
    monkeypatch.setenv("REDIS_URL", "redis://plain")
    assert redis_url() == ("redis://plain", "REDIS_URL")
    monkeypatch.setenv("TASKQ_REDIS_URL", "rediss://ours")
    assert redis_url() == ("rediss://ours", "TASKQ_REDIS_URL")
    assert redis_url("unix:///x.sock") == ("unix:///x.sock", "argument")


@pytest.mark.parametrize("url", ["", "localhost", "redis", "http://h", "redis:/h"])
def test_a_url_that_is_none(url: str, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ConfigError, match="The URL given is .*, no Redis URL"):
        redis_url(url)


def test_a_wrong_url_names_its_variable_and_hides_its_password(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("REDIS_URL", "htp://user:hunter2@host")
    with pytest.raises(ConfigError, match="REDIS_URL is 'htp://user:") as caught:
        redis_url()
    assert "hunter2" not in str(caught.value)


# --- the server of `taskq dev` ----------------------------------------------------


@pytest.fixture
def listening(tmp_path_factory: pytest.TempPathFactory):
    """A unix socket on which somebody listens."""
    path = tmp_path_factory.mktemp("s") / "s"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        yield path


def announce(folder: Path, url: object) -> None:
    (folder / ".taskq").mkdir()
    (folder / ".taskq" / "dev.json").write_text(json.dumps({"url": url, "pid": 1}))


def test_a_running_dev_server_is_found_from_below(
    project: Path, listening: Path, monkeypatch: pytest.MonkeyPatch
):
    announce(project, f"unix://{listening}")
    below = project / "below"
    below.mkdir()
    monkeypatch.chdir(below)
    assert redis_url() == (f"unix://{listening}", ".taskq/dev.json")


def test_a_running_dev_server_on_a_port(project: Path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"redis://127.0.0.1:{server.getsockname()[1]}/0"
        announce(project, url)
        assert redis_url() == (url, ".taskq/dev.json")
    assert redis_url()[1] == "default"


def test_the_file_of_a_dead_dev_server_is_ignored(project: Path, listening: Path):
    announce(project, f"unix://{listening}")
    listening.unlink()
    assert redis_url()[1] == "default"


@pytest.mark.parametrize(
    "url", [3, None, "redis://192.0.2.1:6379", "rediss://127.0.0.1", "nonsense"]
)
def test_a_dev_file_cannot_lead_elsewhere(project: Path, url: object):
    announce(project, url)
    assert redis_url()[1] == "default"


def test_a_dev_file_with_a_plain_file_as_socket(project: Path):
    (project / "plain").touch()
    announce(project, f"unix://{project / 'plain'}")
    assert redis_url()[1] == "default"


@pytest.mark.parametrize("text", ["", "[]", "{", "{}", "\0"])
def test_a_damaged_dev_file(project: Path, text: str):
    (project / ".taskq").mkdir()
    (project / ".taskq" / "dev.json").write_text(text)
    assert redis_url()[1] == "default"


@pytest.mark.skipif(os.name != "posix" or os.getuid() != 0, reason="needs root to give a file away")
def test_the_dev_file_of_another_user_is_ignored(project: Path, listening: Path):
    announce(project, f"unix://{listening}")
    os.chown(project / ".taskq" / "dev.json", 65534, 65534)
    assert redis_url()[1] == "default"


# --- passwords --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("redis://:pw@host/0", "redis://:***@host/0"),
        ("redis://user:pw@host/0", "redis://user:***@host/0"),
        ("redis://token@host", "redis://***@host"),
        ("redis://user:p@w@host", "redis://user:***@host"),
        ("redis://user:p/w#x?@host", "redis://user:***@host"),
        ("user:pw@host", "user:***@host"),
        ("unix://user:pw@/run/r.sock?db=1", "unix://user:***@/run/r.sock?db=1"),
        ("unix:///run/r.sock?password=pw&db=1", "unix:///run/r.sock?password=***&db=1"),
        (
            "redis+sentinel://u:pw@a:1,b:2/m/0?sentinel_password=pw",
            "redis+sentinel://u:***@a:1,b:2/m/0?sentinel_password=***",
        ),
    ],
)
def test_redact(url: str, shown: str):
    assert redact(url) == shown


@given(st.text(), st.text(alphabet=st.characters(blacklist_characters=":/?#[]@"), max_size=9))
def test_redact_never_shows_a_password(noise: str, user: str):
    assert "hunter2" not in redact(f"redis://{user}:{noise}hunter2{noise}@host/0")


def test_a_url_in_the_environment_needs_no_file(project: Path, monkeypatch: pytest.MonkeyPatch):
    write(project, "broken")
    monkeypatch.setenv("REDIS_URL", "redis://x")
    assert redis_url() == ("redis://x", "REDIS_URL")
