from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from layers.errors import FormatError
from layers.registry import configured
from layers.registry.settings import DEFAULTS, RegistrySettings


def test_nothing_is_the_usual() -> None:
    assert configured.settings_from({}) == DEFAULTS._replace(mirrors={})


def test_the_example_of_the_module() -> None:
    assert configured.__doc__ is not None
    example = configured.__doc__.partition("::\n")[2]
    table = tomllib.loads("\n".join(line.strip() for line in example.splitlines()))["registries"]
    assert configured.settings_from(table) == RegistrySettings(
        insecure=frozenset({"registry.lan:5000"}),
        mirrors={"docker.io": ("mirror.lan:5000",)},
        ca_files=(Path("/etc/ssl/lan.pem"),),
        auth_files=(Path("/run/secrets/auth.json"),),
        connections=4,
        part_bytes=16 << 20,
    )


def test_the_home_is_expanded(environ: Path) -> None:
    assert configured.settings_from({"ca-files": ["~/ca.pem"]}).ca_files == (environ / "ca.pem",)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"part-bytes": 1}, "registries: part-bytes is 1, expected 65536 to 1073741824, or 0 for no parts"),
        ({"insecrue": []}, 'registries: unknown key "insecrue", expected one of insecure, ca-files'),
        ({"insecure": "host"}, "registries: insecure is no list of texts"),
        ({"insecure": ["http://host.example"]}, 'registries: insecure: "http://host.example" is no registry'),
        ({"insecure": ["word"]}, '"word" is no registry'),
        ({"mirrors": []}, "registries: mirrors is no table"),
        ({"mirrors": {"docker.io": [1]}}, 'registries: mirrors of "docker.io" is no list of texts'),
        ({"mirrors": {"docker.io/x": []}}, 'registries: mirrors: "docker.io/x" is no registry'),
        ({"connections": 0}, "registries: connections is 0, expected 1 to 32"),
        ({"connections": "4"}, "registries: connections is 4, expected 1 to 32"),
        ({"ca-files": ["ca.pem"]}, 'registries: ca-files: "ca.pem" is no absolute path'),
    ],
)
def test_what_is_wrong_is_named(table: dict[str, object], message: str) -> None:
    with pytest.raises(FormatError) as caught:
        configured.settings_from(table)
    assert str(caught.value).startswith(message) or message in str(caught.value)
