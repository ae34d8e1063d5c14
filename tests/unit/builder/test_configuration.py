"""The configuration file."""

import pytest

from builder.configuration import configuration_path, read_registry_settings
from builder.errors import UsageError


@pytest.fixture
def write(tmp_path):
    environment = {"XDG_CONFIG_HOME": str(tmp_path)}

    def write(text: str) -> dict[str, str]:
        path = tmp_path / "pybuild" / "config.toml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return environment

    return write


def test_no_file_is_an_empty_one(tmp_path):
    assert read_registry_settings({"XDG_CONFIG_HOME": str(tmp_path)}).insecure == frozenset()


def test_registries(write):
    assert read_registry_settings(write('[registries]\ninsecure = ["lan:5000"]\n')).insecure == {"lan:5000"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[registries\n", "config.toml'"),
        ("[registers]\n", "unknown table 'registers'"),
        ('[registries]\ninsecur = ["x"]\n', 'unknown key "insecur"'),
        ("[registries]\nconnections = 0\n", "connections is 0"),
    ],
)
def test_a_wrong_file_is_named(write, text, said):
    with pytest.raises(UsageError, match=r"configuration .*config\.toml") as error:
        read_registry_settings(write(text))
    assert said in str(error.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "pybuild" / "config.toml").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"config\.toml.*is a directory"):
        read_registry_settings({"XDG_CONFIG_HOME": str(tmp_path)})


def test_place():
    assert configuration_path({"HOME": "/h"}) == "/h/.config/pybuild/config.toml"
    assert configuration_path({"HOME": "/h", "XDG_CONFIG_HOME": "/c"}) == "/c/pybuild/config.toml"
