from __future__ import annotations

import base64
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from layers.registry import credentials
from layers.registry.credentials import Credentials
from layers.registry.errors import CredentialsError
from layers.registry.settings import RegistrySettings

SECRET = "hunter2:with:colons"


def entry(user: str, password: str = SECRET) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


def write(path: Path, config: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(config))
    return path


def helper(home: Path, name: str, script: str) -> None:
    path = home / "bin" / f"docker-credential-{name}"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def user_of(registry: str, settings: RegistrySettings, repository: str = "a/b") -> str | None:
    found = credentials.find(registry, repository, settings)
    return found.credentials.username if found.credentials else None


def test_nothing_is_found_where_nothing_is(settings: RegistrySettings) -> None:
    assert credentials.find("r.example", "a", settings) == credentials.Found(None)


def test_order_of_the_files(environ: Path, settings: RegistrySettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file hides those after it; REGISTRY_AUTH_FILE and the settings hide all others."""
    write(environ / ".config/containers/auth.json", {"auths": {"r.example": entry("config")}})
    assert user_of("r.example", settings) == "config"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(environ / "other"))
    assert user_of("r.example", settings) is None
    write(environ / "other/containers/auth.json", {"auths": {"r.example": entry("xdg")}})
    assert user_of("r.example", settings) == "xdg"
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(environ / "run"))
    write(environ / "run/containers/auth.json", {"auths": {"r.example": entry("runtime")}})
    assert user_of("r.example", settings) == "runtime"
    write(environ / ".docker/config.json", {"auths": {"r.example": entry("docker")}})
    assert user_of("r.example", settings) == "docker"
    monkeypatch.setenv("DOCKER_CONFIG", str(environ / "dc"))
    assert user_of("r.example", settings) == "runtime"
    write(environ / "dc/config.json", {"auths": {"r.example": entry("dockerconfig")}})
    assert user_of("r.example", settings) == "dockerconfig"
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(environ / "absent.json"))
    assert user_of("r.example", settings) is None
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(write(environ / "env.json", {"auths": {"r.example": entry("env")}})))
    assert user_of("r.example", settings) == "env"
    first = write(environ / "1.json", {})
    second = write(environ / "2.json", {"auths": {"r.example": entry("explicit")}})
    assert user_of("r.example", settings._replace(auth_files=(first, second))) == "explicit"


@pytest.mark.parametrize(
    "key",
    ["r.example", "https://r.example", "http://r.example/", "https://r.example/v1/", "https://r.example/v2/"],
)
def test_spellings_of_a_registry(environ: Path, settings: RegistrySettings, key: str) -> None:
    write(environ / ".docker/config.json", {"auths": {"other.example": entry("no"), key: entry("yes")}})
    assert user_of("r.example", settings) == "yes"


@pytest.mark.parametrize(
    "key", ["https://index.docker.io/v1/", "docker.io", "index.docker.io", "https://registry-1.docker.io"]
)
def test_spellings_of_docker_hub(environ: Path, settings: RegistrySettings, key: str) -> None:
    write(environ / ".docker/config.json", {"auths": {key: entry("hub")}})
    assert user_of("docker.io", settings) == "hub"
    assert user_of("quay.io", settings) is None


def test_the_port_belongs_to_the_name(environ: Path, settings: RegistrySettings) -> None:
    write(environ / ".docker/config.json", {"auths": {"127.0.0.1:5000": entry("yes"), "127.0.0.1": entry("no")}})
    assert user_of("127.0.0.1:5000", settings) == "yes"
    assert user_of("127.0.0.1:5001", settings) is None


def test_the_most_particular_key_wins(environ: Path, settings: RegistrySettings) -> None:
    auths = {"q.io": entry("host"), "q.io/team": entry("team"), "q.io/team/app": entry("app")}
    write(environ / ".config/containers/auth.json", {"auths": auths})
    assert user_of("q.io", settings, "team/app") == "app"
    assert user_of("q.io", settings, "team/other/deep") == "team"
    assert user_of("q.io", settings, "teams") == "host"


def test_forms_of_an_entry(environ: Path, settings: RegistrySettings) -> None:
    auths = {
        "plain": {"username": "u", "password": "p"},
        "identity": {**entry("u", ""), "identitytoken": "refresh"},
        "ready": {"registrytoken": "bearer"},
        "empty": {},
        "zero": {"auth": base64.b64encode(b"u:p\0\0").decode()},
    }
    write(environ / ".docker/config.json", {"auths": auths})
    found = {name: credentials.find(name, "a", settings).credentials for name in auths}
    assert found["plain"] == Credentials("u", "p")
    assert found["identity"] == Credentials("u", "", "refresh")
    assert found["ready"] == Credentials(registry_token="bearer")
    assert found["empty"] is None
    assert found["zero"] == Credentials("u", "p")


@pytest.mark.parametrize("text", ["{", "[]", '{"auths": {"r.example": {"auth": "%%%"}}}', '"secretsecret"'])
def test_a_damaged_file_is_named_and_not_quoted(environ: Path, settings: RegistrySettings, text: str) -> None:
    path = environ / ".docker/config.json"
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(CredentialsError) as caught:
        credentials.find("r.example", "a", settings)
    assert "secretsecret" not in str(caught.value)
    assert str(path) in str(caught.value) or "base64" in str(caught.value)


def test_an_empty_file_is_an_empty_object(environ: Path, settings: RegistrySettings) -> None:
    path = environ / ".docker/config.json"
    path.parent.mkdir()
    path.touch()
    assert user_of("r.example", settings) is None


def test_secrets_are_not_shown() -> None:
    assert "topsecret" not in repr(Credentials("user", "topsecret", "topsecret", "topsecret"))


# -- helpers ---------------------------------------------------------------------------------------------------------
def test_helper_of_a_registry_before_auths_before_the_shared_one(environ: Path, settings: RegistrySettings) -> None:
    answer = """cat > "$HOME/asked"; printf '{"ServerURL":"x","Username":"%s","Secret":"s"}' """
    helper(environ, "own", answer + "own")
    helper(environ, "shared", answer + "shared")
    write(
        environ / ".docker/config.json",
        {
            "auths": {"b.example": entry("inline")},
            "credsStore": "shared",
            "credHelpers": {"a.example": "own"},
        },
    )
    assert user_of("a.example", settings) == "own"
    assert (environ / "asked").read_text() == "a.example"
    assert user_of("b.example", settings) == "inline"
    assert user_of("c.example", settings) == "shared"
    assert user_of("docker.io", settings) == "shared"
    assert (environ / "asked").read_text() == "https://index.docker.io/v1/"


def test_helper_with_an_identity_token(environ: Path, settings: RegistrySettings) -> None:
    helper(environ, "x", """printf '{"Username":"<token>","Secret":"refresh"}'""")
    write(environ / ".docker/config.json", {"credsStore": "x"})
    assert credentials.find("r.example", "a", settings).credentials == Credentials(identity_token="refresh")


@pytest.mark.parametrize(
    ("script", "remark"),
    [
        ("echo credentials not found in native keychain; exit 1", ""),
        ("echo the keyring is locked; exit 1", "docker-credential-x failed: the keyring is locked"),
        ("echo not json", "did not answer with a JSON object"),
        ("echo '[]'", "did not answer with a JSON object"),
        ("exec sleep 60", "did not answer in 0.2 s"),
        ("", "did not answer with a JSON object"),
    ],
)
def test_a_helper_that_fails_is_a_remark(environ: Path, settings: RegistrySettings, script: str, remark: str) -> None:
    helper(environ, "x", script)
    write(environ / ".docker/config.json", {"credsStore": "x"})
    if "sleep" in script:
        settings = settings._replace(patience=settings.patience._replace(helper_seconds=0.2))
    found = credentials.find("r.example", "a", settings)
    assert found.credentials is None
    assert remark in " ".join(found.remarks)
    assert bool(remark) == bool(found.remarks)


def test_a_helper_that_is_missing_is_a_remark(environ: Path, settings: RegistrySettings) -> None:
    write(environ / ".docker/config.json", {"credHelpers": {"r.example": "gone"}, "credsStore": "../../bin/sh"})
    found = credentials.find("r.example", "a", settings)
    assert found.credentials is None
    assert "docker-credential-gone is not installed" in found.remarks[0]
    assert "is no name of a credential helper" in found.remarks[1]


# -- writing ---------------------------------------------------------------------------------------------------------
def test_store_keeps_what_else_is_in_the_file(environ: Path, settings: RegistrySettings) -> None:
    path = write(
        environ / ".docker/config.json",
        {"psFormat": "table", "auths": {"other": entry("o"), "https://r.example/v1/": entry("old")}},
    )
    path.chmod(0o644)
    assert credentials.store("r.example", Credentials("new", SECRET), settings) == str(path)
    content = json.loads(path.read_text())
    assert content["psFormat"] == "table"
    assert set(content["auths"]) == {"other", "r.example"}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert credentials.find("r.example", "a", settings).credentials == Credentials("new", SECRET)
    assert os.listdir(path.parent) == ["config.json"]


def test_store_makes_the_file_and_its_directory(environ: Path, settings: RegistrySettings) -> None:
    credentials.store("docker.io", Credentials("hub", "p"), settings)
    path = environ / ".docker/config.json"
    assert list(json.loads(path.read_text())["auths"]) == ["https://index.docker.io/v1/"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    credentials.store("r.example", Credentials("u", identity_token="refresh"), settings)
    assert credentials.find("r.example", "a", settings).credentials == Credentials("u", "", "refresh")


def test_store_follows_a_link(environ: Path, settings: RegistrySettings) -> None:
    target = write(environ / "dotfiles/docker.json", {})
    link = environ / ".docker/config.json"
    link.parent.mkdir()
    link.symlink_to(target)
    credentials.store("r.example", Credentials("u", "p"), settings)
    assert link.is_symlink()
    assert "r.example" in json.loads(target.read_text())["auths"]


def test_store_gives_the_secret_to_the_helper_alone(environ: Path, settings: RegistrySettings) -> None:
    helper(environ, "x", """echo "$1" > "$HOME/action"; cat > "$HOME/given" """)
    path = write(environ / ".docker/config.json", {"credsStore": "x"})
    before = path.read_text()
    assert credentials.store("r.example", Credentials("u", SECRET), settings) == "docker-credential-x"
    assert json.loads((environ / "given").read_text()) == {
        "ServerURL": "r.example",
        "Username": "u",
        "Secret": SECRET,
    }
    assert (environ / "action").read_text() == "store\n"
    assert path.read_text() == before


def test_a_helper_that_repeats_the_secret_is_not_quoted(environ: Path, settings: RegistrySettings) -> None:
    helper(environ, "x", "cat; exit 3")
    write(environ / ".docker/config.json", {"credsStore": "x"})
    with pytest.raises(CredentialsError, match="failed: status 3") as caught:
        credentials.store("r.example", Credentials("u", SECRET), settings)
    assert SECRET not in str(caught.value)


def test_erase_empties_all_places(environ: Path, settings: RegistrySettings, monkeypatch: pytest.MonkeyPatch) -> None:
    docker = write(environ / ".docker/config.json", {"auths": {"r.example": entry("a"), "o": entry("o")}})
    podman = write(environ / ".config/containers/auth.json", {"auths": {"https://r.example": entry("b")}})
    assert credentials.erase("r.example", settings) == (str(docker), str(podman))
    assert list(json.loads(docker.read_text())["auths"]) == ["o"]
    assert credentials.erase("r.example", settings) == ()
    helper(environ, "x", """cat > "$HOME/erased" """)
    write(docker, {"credHelpers": {"r.example": "x"}})
    assert credentials.erase("r.example", settings) == ("docker-credential-x",)
    assert (environ / "erased").read_text() == "r.example"


def test_erase_all_empties_all_places_of_all_registries(environ: Path, settings: RegistrySettings) -> None:
    docker = write(environ / ".docker/config.json", {"auths": {"r.example": entry("a"), "o": entry("o")}, "kept": 1})
    podman = write(environ / ".config/containers/auth.json", {"auths": {"r.example": entry("b")}})
    assert credentials.erase_all(settings) == (str(docker), str(podman))
    assert json.loads(docker.read_text()) == {"auths": {}, "kept": 1}
    helper(environ, "own", """cat > "$HOME/erased-$1" """)
    write(docker, {"credsStore": "shared"})
    write(podman, {"credHelpers": {"docker.io": "own"}})
    keys = '{"https://one.example": "u", "two.example": "v"}'
    helper(environ, "shared", f"""[ "$1" != list ] && {{ cat; echo; }} >> "$HOME/forgotten" || printf '%s' '{keys}'""")
    assert credentials.erase_all(settings) == ("docker-credential-shared", "docker-credential-own")
    assert (environ / "forgotten").read_text().split() == ["https://one.example", "two.example"]
    assert (environ / "erased-erase").read_text() == "https://index.docker.io/v1/"
    write(podman, {})
    helper(environ, "shared", "echo nonsense")
    with pytest.raises(CredentialsError, match="docker-credential-shared did not answer with a JSON object"):
        credentials.erase_all(settings)


def test_a_file_that_cannot_be_written_is_named(environ: Path, settings: RegistrySettings) -> None:
    (environ / ".docker").write_text("a file in the way")
    with pytest.raises(CredentialsError, match=r"config\.json"):
        credentials.store("r.example", Credentials("u", SECRET), settings)
