import json

import pytest

from layers.config import Healthcheck, History, ImageConfig, RootFS
from layers.digest import sha256
from layers.errors import FormatError

FULL = ImageConfig(
    architecture="arm",
    variant="v7",
    created="2020-01-01T00:00:00Z",
    author="me",
    user="1000:50",
    exposed_ports=("443/tcp", "80/tcp"),
    env=("PATH=/bin", "X=<&>"),
    entrypoint=("/bin/sh", "-c"),
    cmd=("true",),
    volumes=("/data",),
    working_dir="/w",
    labels={"b": "2", "a": "1"},
    stop_signal="SIGINT",
    healthcheck=Healthcheck(("CMD", "true"), interval_ns=10**9, retries=3),
    on_build=("RUN x",),
    shell=("/bin/bash", "-c"),
    rootfs=RootFS((sha256(b"1"),)),
    history=(
        History("2020-01-01T00:00:00Z", "RUN x # buildkit", "buildkit.dockerfile.v0"),
        History(created_by="CMD", empty_layer=True),
    ),
    extra={"os.version": "1", "docker_version": "20"},
    config_extra={"Hostname": "h"},
)


@pytest.mark.parametrize("config", [FULL, ImageConfig(), ImageConfig(healthcheck=Healthcheck())])
def test_config_survives(config: ImageConfig) -> None:
    raw = config.to_bytes()
    again = ImageConfig.from_bytes(raw)
    assert again == config
    assert again.to_bytes() == raw


def test_bytes_have_the_form_of_buildkit() -> None:
    config = ImageConfig(
        architecture="amd64",
        created="2020-01-01T00:00:00Z",
        env=("PATH=/bin",),
        cmd=("sh", "-c", "a && b"),
        rootfs=RootFS((sha256(b""),)),
        history=(History("2020-01-01T00:00:00Z", "COPY a b", "buildkit.dockerfile.v0"),),
    )
    assert config.to_bytes() == (
        b'{"architecture":"amd64","config":{"Env":["PATH=/bin"],"Cmd":["sh","-c","a \\u0026\\u0026 b"]},'
        b'"created":"2020-01-01T00:00:00Z",'
        b'"history":[{"created":"2020-01-01T00:00:00Z","created_by":"COPY a b","comment":"buildkit.dockerfile.v0"}],'
        b'"os":"linux","rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' % sha256(b"").hex.encode()
    )


def test_order_of_labels_does_not_matter() -> None:
    assert FULL._replace(labels={"a": "1", "b": "2"}).to_bytes() == FULL.to_bytes()


def test_null_fields_of_docker_are_read() -> None:
    raw = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": None, "Labels": None, "Volumes": None, "Env": None},
    }
    raw |= {"rootfs": {"type": "layers", "diff_ids": None}, "history": None}
    assert ImageConfig.from_bytes(json.dumps(raw).encode()) == ImageConfig(architecture="amd64")


@pytest.mark.parametrize(
    "fields",
    [
        {"config": []},
        {"config": {"Env": "x"}},
        {"config": {"Labels": {"a": 1}}},
        {"rootfs": {"type": "other"}},
        {"rootfs": {"diff_ids": ["x"]}},
        {"history": {}},
    ],
)
def test_bad_configs(fields: object) -> None:
    with pytest.raises(FormatError):
        ImageConfig.from_bytes(json.dumps(fields).encode())
