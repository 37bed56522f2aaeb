"""The container files, checked without an engine: what they say must fit the code, and no secret has a default."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from server import settings

ROOT = Path(__file__).parent.parent
VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?P<how>:[-?])?(?P<rest>[^}]*)\}")
GIVEN = {"POSTGRES_PASSWORD": "a" * 48, "GALLEY_WEB_PASSWORD": "b" * 48, "SECRET_KEY": "c" * 48}


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions in order: name and arguments, continued lines joined."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in text.splitlines() if line.strip()]


def last_stage() -> list[tuple[str, str]]:
    """The instructions of what is shipped."""
    found = instructions()
    return found[max(index for index, (name, _) in enumerate(found) if name == "FROM") :]


def health_check() -> list[str]:
    """The image's health check, as words."""
    (arguments,) = [arguments for name, arguments in last_stage() if name == "HEALTHCHECK"]
    words: list[str] = json.loads(arguments.split("CMD", 1)[1])
    return words


def compose(**given: str) -> dict[str, Any]:
    """docker-compose.yml with its variables filled in as Compose does: in the values, after reading."""

    def fill(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: fill(value) for key, value in node.items()}
        if isinstance(node, list):
            return [fill(value) for value in node]
        return VARIABLE.sub(value, node) if isinstance(node, str) else node

    def value(found: re.Match[str]) -> str:
        return given.get(found["name"], "") or (found["rest"] if found["how"] == ":-" else "")

    filled: dict[str, Any] = fill(yaml.safe_load((ROOT / "docker-compose.yml").read_text()))
    return filled


def tracked(*folders: str) -> list[str]:
    """The files that a clone has, and new ones on their way there."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *folders],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()]


def copied() -> list[str]:
    """What the shipped stage copies from this folder."""
    lines = [
        arguments.split() for name, arguments in last_stage() if name == "COPY" and "--from" not in arguments
    ]
    return [source for words in lines for source in words[:-1]]


@contextlib.contextmanager
def answering(status: int) -> Iterator[int]:
    """A server that says *status* to /livez and 404 to anything else."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/livez" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def test_the_image_is_built_in_two_stages_and_runs_as_an_ordinary_user() -> None:
    found = instructions()

    assert [arguments for name, arguments in found if name == "FROM"] == [
        "python:3.12-slim AS build",
        "python:3.12-slim",
    ]
    assert [arguments for name, arguments in last_stage() if name in {"USER", "EXPOSE"}] == [
        "1000:1000",
        "8000",
    ]
    assert "requirements-dev" not in (ROOT / "Dockerfile").read_text()


def test_what_the_image_carries_is_enough_to_run(tmp_path: Path) -> None:
    for name in tracked(*copied()):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)

    ran = subprocess.run(
        [sys.executable, "main.py", "serve"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "ENVIRONMENT": "production"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert ran.returncode == 2, ran.stderr
    assert ran.stderr.startswith("galley: SECRET_KEY is required in production")


def test_nothing_gets_into_the_image_by_accident() -> None:
    rules = [
        line
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    needed = {
        source for name, arguments in instructions() if name == "COPY" for source in arguments.split()[:-1]
    }

    assert rules[0] == "*"
    assert {rule[1:] for rule in rules if rule.startswith("!")} == {
        source for source in needed if not source.startswith(("--", "/"))
    }


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1), (404, 1)])
def test_the_health_check_tells_well_from_ill(status: int, code: int) -> None:
    with answering(status) as port:
        python, *words = health_check()
        ran = subprocess.run(
            [sys.executable, *words], env={"PORT": str(port)}, capture_output=True, check=False, timeout=20
        )

    assert python == "python"
    assert ran.returncode == code


def test_the_health_check_notices_that_nobody_is_there() -> None:
    _, *words = health_check()

    ran = subprocess.run(
        [sys.executable, *words], env={"PORT": "9"}, capture_output=True, check=False, timeout=20
    )

    assert ran.returncode != 0


def test_no_secret_has_a_default() -> None:
    text = (ROOT / "docker-compose.yml").read_text()

    found = list(VARIABLE.finditer(text))
    secrets = [variable for variable in found if re.search("PASSWORD|SECRET", variable["name"])]

    assert {variable["name"] for variable in secrets} == set(GIVEN)
    assert {variable["how"] for variable in secrets} == {":?"}
    assert not re.search(r"^\s*\w*(PASSWORD|SECRET_KEY): +[^$]", text, re.MULTILINE)


@pytest.mark.parametrize("service", ["app", "migrate"])
def test_the_services_start_with_settings_that_galley_accepts(
    service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = compose(**GIVEN)["services"][service]["environment"]
    for name in (
        name for name in os.environ if name.lower().removesuffix("_file") in settings.Settings.model_fields
    ):
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    read = settings.read()

    assert {name.lower() for name in environment} <= set(settings.Settings.model_fields)
    assert read.environment == "production"
    assert read.database_url.get_secret_value() == f"postgresql://galley_web:{'b' * 48}@db:5432/galley"
    assert bool(read.migrate_database_url.get_secret_value()) == (service == "migrate")
    assert read.embedded_model


def test_only_the_migration_knows_the_superuser() -> None:
    services = compose(**GIVEN)["services"]

    knowing = {
        name for name, service in services.items() if GIVEN["POSTGRES_PASSWORD"] in json.dumps(service)
    }

    assert knowing == {"db", "migrate"}


def test_the_app_waits_for_a_healthy_database_and_a_finished_migration() -> None:
    services = compose(**GIVEN)["services"]

    assert services["db"]["image"] == "pgvector/pgvector:pg18"
    assert services["migrate"]["depends_on"] == {"db": {"condition": "service_healthy"}}
    assert services["migrate"]["restart"] == "no"
    assert services["app"]["depends_on"] == {
        "db": {"condition": "service_healthy"},
        "migrate": {"condition": "service_completed_successfully"},
    }


def test_services_are_looked_after_and_kept_within_limits() -> None:
    services = compose(**GIVEN)["services"]

    assert {name: services[name]["healthcheck"].get("interval") for name in ("db", "app")} == {
        "db": "10s",
        "app": "10s",
    }
    for name in ("db", "app"):
        assert services[name]["deploy"]["resources"]["limits"] == {"cpus": "2", "memory": "2G"}
        assert services[name]["restart"] == "unless-stopped"


def test_data_stays_in_named_volumes_and_the_port_on_this_machine() -> None:
    parsed = compose(**GIVEN)

    assert parsed["services"]["db"]["volumes"] == ["database:/var/lib/postgresql"]
    assert parsed["services"]["app"]["volumes"] == ["data:/data"]
    assert set(parsed["volumes"]) == {"database", "data"}
    assert parsed["services"]["app"]["ports"] == ["127.0.0.1:8000:8000"]
    assert "ports" not in parsed["services"]["db"]
