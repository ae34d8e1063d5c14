"""The configuration of an image: how it is run and what it is made of (image-spec, config.md; moby's additions).

Written in the form BuildKit writes: the keys at the top sorted, the fields of ``config`` in the order of Go's
structure, what is empty left out.

Invariants: values are immutable; what this package does not know is kept in ``extra`` (top level) and ``config_extra``
(inside ``config``). An image whose bytes were read and hashed is never written anew: the store keeps those bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from layers import gojson
from layers.descriptor import NOTHING
from layers.digest import ChainId, Digest, chain_ids
from layers.errors import FormatError
from layers.platform import Platform
from unionfs.namedtuple import NamedTuple

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class RootFS(NamedTuple):
    """The layers of an image by the digests of their uncompressed tars, bottom first."""

    diff_ids: tuple[Digest, ...] = ()

    @property
    def chain_ids(self) -> tuple[ChainId, ...]:
        """The id of the stack after each layer."""
        return chain_ids(self.diff_ids)


class History(NamedTuple):
    """What made a layer, or changed the configuration alone (``empty_layer``). ``created`` is RFC 3339."""

    created: str | None = None
    created_by: str = ""
    comment: str = ""
    empty_layer: bool = False
    author: str = ""


class Healthcheck(NamedTuple):
    """How health is probed; an empty ``test`` inherits, ``("NONE",)`` turns the check off; 0 inherits a number."""

    test: tuple[str, ...] = ()
    interval_ns: int = 0
    timeout_ns: int = 0
    start_period_ns: int = 0
    start_interval_ns: int = 0
    retries: int = 0


class ImageConfig(NamedTuple):
    """The whole configuration. ``env`` holds ``KEY=VALUE``; ``created`` is RFC 3339 or None.

    Empty ``entrypoint`` and ``cmd`` mean that there is none.
    """

    architecture: str = ""
    os: str = "linux"
    variant: str = ""
    created: str | None = None
    author: str = ""
    user: str = ""
    exposed_ports: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    working_dir: str = ""
    labels: Mapping[str, str] = NOTHING
    stop_signal: str = ""
    args_escaped: bool = False
    healthcheck: Healthcheck | None = None
    on_build: tuple[str, ...] = ()
    shell: tuple[str, ...] = ()
    rootfs: RootFS = RootFS()
    history: tuple[History, ...] = ()
    extra: Mapping[str, Any] = NOTHING
    config_extra: Mapping[str, Any] = NOTHING

    @property
    def platform(self) -> Platform:
        """What the image runs on, as written, not normalised."""
        return Platform(self.os, self.architecture, self.variant)

    def to_bytes(self) -> bytes:
        """The bytes whose digest is the image's id; equal values give equal bytes."""
        fields: gojson.JsonObject = dict(self.extra)
        fields |= {"architecture": self.architecture, "config": _config_json(self), "os": self.os}
        fields["rootfs"] = {"type": "layers", "diff_ids": list(self.rootfs.diff_ids)}
        fields |= gojson.without_empty(
            {
                "created": self.created,
                "author": self.author,
                "variant": self.variant,
                "history": [_history_json(entry) for entry in self.history],
            }
        )
        return gojson.dumps(dict(sorted(fields.items())))

    @classmethod
    def from_bytes(cls, raw: bytes) -> ImageConfig:
        """The configuration in these bytes.

        Raises:
            FormatError: the bytes hold no configuration of an image.
        """
        fields = gojson.loads_object(raw, "image config")
        rootfs = gojson.as_object(fields.get("rootfs"), "image config: rootfs")
        if rootfs.get("type", "layers") != "layers":
            raise FormatError(f'image config: rootfs has the type "{rootfs["type"]}", expected "layers"')
        diff_ids = gojson.as_texts(rootfs.get("diff_ids"), "image config: diff_ids")
        history = gojson.as_list(fields.get("history"), "image config: history")
        config = gojson.as_object(fields.get("config"), "image config: config")
        return _with_config(
            cls(
                architecture=gojson.as_text(fields.get("architecture"), "image config: architecture"),
                os=gojson.as_text(fields.get("os"), "image config: os"),
                variant=gojson.as_text(fields.get("variant"), "image config: variant"),
                created=gojson.as_text(fields.get("created"), "image config: created") or None,
                author=gojson.as_text(fields.get("author"), "image config: author"),
                rootfs=RootFS(tuple(Digest(diff_id) for diff_id in diff_ids)),
                history=tuple(_read_history(entry) for entry in history),
                extra={key: value for key, value in fields.items() if key not in _TOP} or NOTHING,
            ),
            config,
        )


_TOP = frozenset({"architecture", "os", "variant", "created", "author", "rootfs", "history", "config"})
_CONFIG = frozenset(
    {
        "User",
        "ExposedPorts",
        "Env",
        "Entrypoint",
        "Cmd",
        "Volumes",
        "WorkingDir",
        "Labels",
        "StopSignal",
        "ArgsEscaped",
        "Healthcheck",
        "OnBuild",
        "Shell",
    }
)
_HEALTH_FIELDS = (
    ("Interval", "interval_ns"),
    ("Timeout", "timeout_ns"),
    ("StartPeriod", "start_period_ns"),
    ("StartInterval", "start_interval_ns"),
    ("Retries", "retries"),
)


def _config_json(image: ImageConfig) -> gojson.JsonObject:
    fields: gojson.JsonObject = {
        "User": image.user,
        "ExposedPorts": {port: {} for port in sorted(image.exposed_ports)},
        "Env": list(image.env),
        "Entrypoint": list(image.entrypoint),
        "Cmd": list(image.cmd),
        "Volumes": {volume: {} for volume in sorted(image.volumes)},
        "WorkingDir": image.working_dir,
        "Labels": dict(sorted(image.labels.items())),
        "StopSignal": image.stop_signal,
        "ArgsEscaped": image.args_escaped,
        "Healthcheck": None if image.healthcheck is None else _health_json(image.healthcheck),
        "OnBuild": list(image.on_build),
        "Shell": list(image.shell),
    }
    written = gojson.without_empty(fields)
    if image.healthcheck is not None:
        written["Healthcheck"] = fields["Healthcheck"]
    return written | dict(sorted(image.config_extra.items()))


def _health_json(health: Healthcheck) -> gojson.JsonObject:
    fields: gojson.JsonObject = {"Test": list(health.test)}
    fields |= {name: getattr(health, attribute) for name, attribute in _HEALTH_FIELDS}
    return gojson.without_empty(fields)


def _history_json(entry: History) -> gojson.JsonObject:
    return gojson.without_empty(
        {
            "created": entry.created,
            "created_by": entry.created_by,
            "author": entry.author,
            "comment": entry.comment,
            "empty_layer": entry.empty_layer,
        }
    )


def _with_config(image: ImageConfig, config: gojson.JsonObject) -> ImageConfig:
    """The image with the fields of ``config`` filled in."""

    def texts(name: str) -> tuple[str, ...]:
        return gojson.as_texts(config.get(name), f"image config: {name}")

    def text(name: str) -> str:
        return gojson.as_text(config.get(name), f"image config: {name}")

    def keys(name: str) -> tuple[str, ...]:
        return tuple(sorted(gojson.as_object(config.get(name), f"image config: {name}")))

    health = config.get("Healthcheck")
    return image._replace(
        user=text("User"),
        exposed_ports=keys("ExposedPorts"),
        env=texts("Env"),
        entrypoint=texts("Entrypoint"),
        cmd=texts("Cmd"),
        volumes=keys("Volumes"),
        working_dir=text("WorkingDir"),
        labels=gojson.as_text_map(config.get("Labels"), "image config: Labels") or NOTHING,
        stop_signal=text("StopSignal"),
        args_escaped=bool(config.get("ArgsEscaped")),
        healthcheck=None if health is None else _read_health(health),
        on_build=texts("OnBuild"),
        shell=texts("Shell"),
        config_extra={key: value for key, value in config.items() if key not in _CONFIG} or NOTHING,
    )


def _read_health(value: object) -> Healthcheck:
    fields = gojson.as_object(value, "image config: Healthcheck")
    numbers = {
        attribute: gojson.as_int(fields.get(name), f"image config: Healthcheck {name}")
        for name, attribute in _HEALTH_FIELDS
    }
    return Healthcheck(gojson.as_texts(fields.get("Test"), "image config: Healthcheck Test"), **numbers)


def _read_history(value: object) -> History:
    fields = gojson.as_object(value, "image config: history")
    return History(
        created=gojson.as_text(fields.get("created"), "image config: history created") or None,
        created_by=gojson.as_text(fields.get("created_by"), "image config: history created_by"),
        comment=gojson.as_text(fields.get("comment"), "image config: history comment"),
        empty_layer=bool(fields.get("empty_layer")),
        author=gojson.as_text(fields.get("author"), "image config: history author"),
    )
