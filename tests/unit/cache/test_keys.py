"""What changes a key and what doesn't, as tables (spec: docs/formats, "Cache keys")."""

import inspect

import pytest

from cache import keys
from cache.keys import CONTENT, DEFINITION, KeyedMount, KeyedSource, StepInput

PARENT = StepInput("k" * 64, "sha256:" + "1" * 64)
RUN = {
    "parent": PARENT,
    "argv": ("/bin/sh", "-c", "make"),
    "env": ("PATH=/bin", "VERSION=1"),
    "cwd": "/src",
    "user": "0",
    "platform": "linux/amd64",
    "hostname": "builder",
    "extra_hosts": (("db", "10.0.0.1"),),
    "mounts": (KeyedMount("cache", "/root/.cache", id="pip", sharing="shared"), KeyedMount("tmpfs", "/tmp")),
    "network": "default",
    "security": "sandbox",
    "ulimits": ("nofile=1024:1024",),
    "devices": (),
    "stdin": b"",
    "epoch": None,
}
CACHE_MOUNT, TMPFS = RUN["mounts"]
RUN_CHANGES = [
    ("parent", StepInput("k" * 64, "sha256:" + "2" * 64)),
    ("argv", ("/bin/sh", "-c", "make all")),
    ("argv", ("/bin/sh", "-c make")),
    ("argv", ("/bin/sh", "-c", "make", "")),
    ("env", ("PATH=/bin", "VERSION=2")),
    ("env", ("VERSION=1", "PATH=/bin")),
    ("env", ("PATH=/bin",)),
    ("env", ("PATH=/bin", "VERSION")),
    ("env", ("PATH=/bin", "VERSION=1", "X=")),
    ("cwd", "/"),
    ("user", "1000"),
    ("platform", "linux/arm64"),
    ("hostname", ""),
    ("extra_hosts", (("database", "10.0.0.1"),)),
    ("extra_hosts", ()),
    ("mounts", (CACHE_MOUNT,)),
    ("mounts", (CACHE_MOUNT._replace(target="/cache"), TMPFS)),
    ("mounts", (CACHE_MOUNT._replace(sharing="locked"), TMPFS)),
    ("mounts", (CACHE_MOUNT._replace(read_only=True), TMPFS)),
    ("mounts", (CACHE_MOUNT._replace(mode=0o700), TMPFS)),
    ("mounts", (CACHE_MOUNT._replace(uid=1), TMPFS)),
    ("mounts", (CACHE_MOUNT._replace(gid=1), TMPFS)),
    ("mounts", (CACHE_MOUNT._replace(source="a"), TMPFS)),
    ("mounts", (CACHE_MOUNT._replace(input="c" * 64), TMPFS)),
    ("mounts", (CACHE_MOUNT, TMPFS._replace(size_bytes=1))),
    ("mounts", (TMPFS, CACHE_MOUNT)),
    ("network", "none"),
    ("security", "insecure"),
    ("ulimits", ()),
    ("devices", ("/dev/fuse",)),
    ("stdin", b"echo"),
    ("epoch", 0),
    ("ignores_owners", True),
]


@pytest.mark.parametrize("strength", [DEFINITION, CONTENT])
@pytest.mark.parametrize(("name", "value"), RUN_CHANGES)
def test_each_part_of_run_changes_its_key(strength, name, value):
    assert keys.run_key(strength, **RUN) != keys.run_key(strength, **{**RUN, name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("extra_hosts", (("db", "10.9.9.9"),)),
        ("mounts", (CACHE_MOUNT._replace(id="other"), TMPFS)),
    ],
)
def test_what_run_leaves_out(name, value):
    assert keys.run_key(DEFINITION, **RUN) == keys.run_key(DEFINITION, **{**RUN, name: value})


def test_the_id_of_a_secret_counts():
    secret = KeyedMount("secret", "/run/secrets/a", id="a")
    one = keys.run_key(DEFINITION, **{**RUN, "mounts": (secret,)})
    assert one != keys.run_key(DEFINITION, **{**RUN, "mounts": (secret._replace(id="b"),)})
    assert one != keys.run_key(DEFINITION, **{**RUN, "mounts": (secret._replace(required=True),)})
    assert one != keys.run_key(DEFINITION, **{**RUN, "mounts": (secret._replace(env="TOKEN"),)})


def test_proxies_secret_values_and_limits_cannot_be_given():
    names = set(inspect.signature(keys.run_key).parameters) | set(KeyedMount._fields)
    assert not {name for name in names if any(word in name for word in ("proxy", "value", "memory", "cpu"))}


def test_every_parameter_of_run_is_in_the_table():
    assert {name for name, _ in RUN_CHANGES} == set(inspect.signature(keys.run_key).parameters) - {"strength"}


def test_the_step_that_made_the_parent_counts_in_a_definition_only():
    other = {**RUN, "parent": StepInput("other", PARENT.chain_id)}
    assert keys.run_key(DEFINITION, **RUN) != keys.run_key(DEFINITION, **other)
    assert keys.run_key(CONTENT, **RUN) == keys.run_key(CONTENT, **other)
    assert keys.run_key(CONTENT, **RUN) != keys.run_key(DEFINITION, **RUN)


COPY = {
    "parent": PARENT,
    "destination": "/app/",
    "sources": (KeyedSource("a" * 64), KeyedSource("b" * 64, "name")),
    "owner": "app",
    "mode": "755",
    "flags": ("unpack",),
    "identities": (("/etc/passwd", "p" * 64),),
    "details": (("excludes", ("*.o",)),),
    "epoch": None,
}
COPY_CHANGES = [
    ("parent", StepInput(PARENT.key, "sha256:" + "2" * 64)),
    ("parent", None),
    ("destination", "/app"),
    ("sources", (KeyedSource("a" * 64),)),
    ("sources", (KeyedSource("a" * 64), KeyedSource("b" * 64))),
    ("sources", (KeyedSource("a" * 64), KeyedSource("b" * 64, "other"))),
    ("sources", (KeyedSource("b" * 64, "name"), KeyedSource("a" * 64))),
    ("sources", (KeyedSource("a" * 64), StepInput("b" * 64, "name"))),
    ("owner", None),
    ("owner", "0"),
    ("mode", "0755"),
    ("mode", None),
    ("flags", ()),
    ("flags", ("unpack", "parents")),
    ("identities", (("/etc/passwd", "q" * 64),)),
    ("identities", ()),
    ("details", (("excludes", ("*.c",)),)),
    ("epoch", 0),
]


@pytest.mark.parametrize(("name", "value"), COPY_CHANGES)
def test_each_part_of_copy_changes_its_key(name, value):
    assert keys.copy_key(CONTENT, **COPY) != keys.copy_key(CONTENT, **{**COPY, name: value})


DIRECTORY = {"parent": PARENT, "path": "/src", "user": "0", "identities": ()}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("parent", keys.SCRATCH),
        ("path", "/src/"),
        ("user", "1"),
        ("identities", (("/etc/passwd", "p"),)),
        ("epoch", 0),
    ],
)
def test_each_part_of_workdir_changes_its_key(name, value):
    assert keys.directory_key(CONTENT, **DIRECTORY) != keys.directory_key(CONTENT, **{**DIRECTORY, name: value})


def test_from_is_manifest_and_platform():
    one = keys.from_key("sha256:1", "linux/amd64")
    assert one != keys.from_key("sha256:2", "linux/amd64")
    assert one != keys.from_key("sha256:1", "linux/arm64")


def test_domains_share_no_key():
    parts = [("a", "b")]
    assert keys.key("run", parts) != keys.key("copy", parts)
    assert keys.key("run", parts) == keys.key("run", [("a", "b")])


def test_a_key_is_the_same_on_every_machine_and_day():
    assert keys.from_key("sha256:1", "linux/amd64").digest == (
        "2457c977219e1fe9ef067ada1ead0809bd1a668416377a53a1a6ba39aa33fec8"
    )


def test_parts_are_kept_for_explain():
    made = keys.run_key(DEFINITION, **RUN)
    texts = {part.name: part.text for part in made.parts}
    assert texts["command"] == "/bin/sh -c make"
    assert texts["env VERSION"] == "1"
    assert texts["user"] == "0"
    assert made.domain == "run/definition"
    assert str(made) == made.digest
    assert len({made, keys.run_key(DEFINITION, **RUN)}) == 1
