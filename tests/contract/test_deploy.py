"""examples/deploy: every command and option exists, and who stops a worker waits for its grace."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from taskq.cli import main
from taskq.cli.options import Duration
from tests.support import ROOT

DEPLOY = ROOT / "examples" / "deploy"
AFTER_GRACE_S = 15
"""What was cut off is given back, what ended is recorded: that much at least, after `--grace`."""
DOCUMENTS = [
    document
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text())
]
COMPOSE = yaml.safe_load((DEPLOY / "docker" / "compose.yaml").read_text())
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))


def pods() -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    for document in DOCUMENTS:
        if document["kind"] == "Deployment":
            spec = document["spec"]["template"]["spec"]
            for container in spec["containers"]:
                yield document["metadata"]["name"], spec, container


def unit(path: Path) -> dict[str, str]:
    lines = (line for line in path.read_text().splitlines() if re.match(r"[A-Z]\w+=", line))
    return dict(line.split("=", 1) for line in lines)


def procfile(path: Path) -> list[list[str]]:
    lines = [line.partition(": ") for line in path.read_text().splitlines()]
    assert all(name and colon for name, colon, _command in lines)
    commands = [shlex.split(command) for _name, _colon, command in lines]
    assert all(command[0] == "taskq" for command in commands)
    return [command[1:] for command in commands]


def dockerfile(instruction: str) -> str:
    text = (DEPLOY / "docker" / "Dockerfile").read_text()
    (found,) = re.findall(rf"^{instruction} (.*)$", text, re.MULTILINE)
    return str(found)


def commands() -> Iterator[tuple[str, list[str]]]:
    """Where it stands, and what is given to `taskq`."""
    for path in (ROOT / "Procfile", DEPLOY / "heroku" / "Procfile"):
        for command in procfile(path):
            yield str(path.relative_to(ROOT)), command
    for path in UNITS:
        program, *rest = shlex.split(unit(path)["ExecStart"])
        assert program.endswith("/bin/taskq")
        yield path.name, rest
    for name, _spec, container in pods():
        yield name, container["args"]
    for name, service in COMPOSE["services"].items():
        if "build" in service:
            yield f"compose {name}", service["command"]
    yield "Dockerfile", yaml.safe_load(dockerfile("CMD"))


COMMANDS = list(commands())


def parsed(arguments: list[str]) -> dict[str, Any]:
    """The values of the options, checked by the command itself."""
    name, *rest = arguments
    assert name in main.entries, f"there is no `taskq {name}`"
    command = main.get_command(click.Context(main), name)
    assert command is not None
    return command.make_context(name, list(rest)).params


@pytest.mark.parametrize(
    ("where", "arguments"), COMMANDS, ids=[f"{where} {rest[0]}" for where, rest in COMMANDS]
)
def test_the_command_takes_what_it_is_given(where: str, arguments: list[str]):
    values = parsed(arguments)
    if arguments[0] in ("worker", "scheduler") and where != "Procfile":
        assert values["app"] == "shop:queue"


def grace_s(arguments: list[str]) -> float:
    assert "--grace" in arguments, "say it where the other period stands, too"
    return float(parsed(arguments)["grace"])


def seconds(text: object) -> float:
    return float(Duration().convert(str(text), None, None))


def test_who_stops_a_worker_waits_longer_than_its_grace():
    waits: list[tuple[list[str], float]] = []
    for _name, spec, container in pods():
        if container["args"][0] == "worker":
            waits.append((container["args"], spec["terminationGracePeriodSeconds"]))
    for path in UNITS:
        arguments = shlex.split(unit(path)["ExecStart"])[1:]
        if arguments[0] == "worker":
            assert unit(path)["KillMode"] == "mixed"
            waits.append((arguments, seconds(unit(path)["TimeoutStopSec"])))
    service = COMPOSE["services"]["worker"]
    waits.append((service["command"], seconds(service["stop_grace_period"])))
    assert len(waits) == 3
    for arguments, wait_s in waits:
        assert wait_s >= grace_s(arguments) + AFTER_GRACE_S, arguments
    heroku = [one for one in procfile(DEPLOY / "heroku" / "Procfile") if one[0] == "worker"]
    assert [grace_s(one) for one in heroku] == [
        20
    ]  # Heroku kills after 30 s, and nobody can ask for more


def test_probes_go_to_the_port_and_paths_that_are_served():
    probed = 0
    for name, _spec, container in pods():
        probes = {key: value for key, value in container.items() if key.endswith("Probe")}
        ports = (
            {port["name"]: port["containerPort"] for port in container["ports"]} if probes else {}
        )
        for kind, probe in probes.items():
            probed += 1
            values = parsed(container["args"])
            kept = "health_" if container["args"][0] == "worker" else ""
            assert ports[probe["httpGet"]["port"]] == values[f"{kept}port"], name
            assert values[f"{kept}host"] == "0.0.0.0"
            wanted = "/readyz" if kind == "readinessProbe" else "/healthz"
            assert probe["httpGet"]["path"] == wanted
    assert probed == 5
    values = parsed(yaml.safe_load(dockerfile("CMD")))
    assert f":{values['health_port']}/healthz" in dockerfile("HEALTHCHECK .* CMD")
    assert dockerfile("EXPOSE") == str(values["health_port"])


def test_the_scaler_looks_at_queues_that_the_workers_serve():
    (scaled,) = [one for one in DOCUMENTS if one["kind"] == "ScaledObject"]
    (worker,) = [one for one in pods() if one[2]["args"][0] == "worker"]
    assert scaled["spec"]["scaleTargetRef"]["name"] == worker[0]
    lists = {trigger["metadata"]["listName"] for trigger in scaled["spec"]["triggers"]}
    assert lists == {f"rq:queue:{name}" for name in parsed(worker[2]["args"])["queues"]}
    auth = {one["metadata"]["name"] for one in DOCUMENTS if one["kind"] == "TriggerAuthentication"}
    assert {one["authenticationRef"]["name"] for one in scaled["spec"]["triggers"]} == auth


def test_no_password_stands_in_a_file():
    for path in DEPLOY.rglob("*"):
        if path.is_file() and path.suffix != ".pyc":
            assert not re.search(r"redis://[^/\s]*:[^/@\s.]+@(?!\.\.\.)", path.read_text()), path


def test_the_app_of_the_examples_can_be_loaded():
    done = subprocess.run(
        [sys.executable, "-c", "import shop; print(len(shop.queue.tasks))"],
        cwd=DEPLOY, capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip
    assert done.stdout == "3\n"


def test_systemd_takes_the_units(tmp_path: Path):
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    taskq = tmp_path / "taskq"
    taskq.write_text("#!/bin/sh\n")
    taskq.chmod(0o755)
    copies = []
    for path in UNITS:
        text = path.read_text().replace("/opt/shop/.venv/bin/taskq", str(taskq))
        copies.append(tmp_path / path.name)
        copies[-1].write_text(text.replace("User=shop", "User=root"))
    done = subprocess.run(
        [program, "verify", *map(str, copies)],
        capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    complaints = [line for line in done.stderr.splitlines() if "taskq-" in line]
    assert complaints == []


def test_compose_takes_the_file(tmp_path: Path):
    program = shutil.which("docker-compose")
    if program is None:
        pytest.skip("docker-compose is not installed")
    text = (DEPLOY / "docker" / "compose.yaml").read_text()
    copy = tmp_path / "compose.yaml"
    copy.write_text(text.replace("name: shop\n", "", 1))  # not known to version 1
    done = subprocess.run(
        [program, "--project-name", "shop", "--file", str(copy), "config"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    shown = yaml.safe_load(done.stdout)["services"]
    assert set(shown) == {"redis", "worker", "scheduler", "dashboard"}
    assert shown["worker"]["environment"] == {"TASKQ_REDIS_URL": "redis://redis:6379/0"}


def test_manifests_fit_the_schemas_of_kubernetes():
    """Of its own kinds; KEDA's are its own."""
    program = shutil.which("kubernetes-validate")
    if program is None:
        pytest.skip("kubernetes-validate is not installed (pip; 100 MB of schemas)")
    paths = [one for one in (DEPLOY / "kubernetes").glob("*.yaml") if one.name != "keda.yaml"]
    done = subprocess.run(
        [program, "--strict", *map(str, paths)],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr.count("passed") + done.stdout.count("passed") == 4
