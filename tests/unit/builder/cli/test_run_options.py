"""What ``pybuild run`` is told to mount, and the variables it is given."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from builder.cli import volumes
from builder.cli.environment import compose, read_env_file
from builder.errors import UsageError
from builder.sandbox.spec import Bind, Tmpfs


@pytest.mark.parametrize(
    ("text", "bind"),
    [
        ("/etc:/e", Bind("/etc", "/e", read_only=False)),
        ("/etc:/e/:ro", Bind("/etc", "/e", read_only=True)),
        ("/etc/../etc:/a/../e:rw,rprivate", Bind("/etc", "/e", read_only=False)),
        ("./:/src", Bind(".", "/src", read_only=False)),
        ("..:/up", Bind("..", "/up", read_only=False)),
    ],
)
def test_volume(text: str, bind: Bind) -> None:
    expected = bind._replace(source=str(Path(bind.source).resolve()))
    assert volumes.parse_volume(text) == volumes.Volume(expected)


def test_labels_are_told_of() -> None:
    assert "z and Z have no effect" in volumes.parse_volume("/etc:/e:z").note


@pytest.mark.parametrize(
    ("parse", "text", "message"),
    [
        ("volume", "/data", "expected SOURCE:TARGET, got '/data': what the command writes is thrown away in any case"),
        ("volume", "/etc:/e:ro:x", "expected SOURCE:TARGET[:OPTIONS], got '/etc:/e:ro:x'"),
        ("volume", "name:/e", "source 'name' is the name of a volume, and none are kept; a path begins with / or ./"),
        ("volume", ":/e", "the source of a mount is empty"),
        ("volume", "/no/such:/e", "source '/no/such' of a mount: no such file or directory"),
        ("volume", "/etc:e", "expected an absolute path in the image, got 'e'"),
        ("volume", "/etc:/", "nothing can be mounted at '/'"),
        ("volume", "/etc:/x/..", "nothing can be mounted at '/'"),
        ("volume", "/etc:/e:r", "unknown option 'r' in '/etc:/e:r', known are ro, rw, z, Z"),
        ("volume", "/etc:/e:ro,rw", "ro and rw contradict each other in '/etc:/e:ro,rw'"),
        ("volume", "/etc:/e:U", "option 'U' in '/etc:/e:U': owners of files are left as they are"),
        ("mount", "source=/etc,target=/e", "unknown type 'volume' of a mount"),
        ("mount", "type=bnd,src=/etc", "unknown type 'bnd' of a mount in 'type=bnd,src=/etc', known are bind, tmpfs"),
        ("mount", "type=bind,src=/etc", "target=PATH is missing in 'type=bind,src=/etc'"),
        ("mount", "type=bind,dst=/e", "source=PATH is missing in 'type=bind,dst=/e'"),
        ("mount", "type=tmpfs,dst=/e,src=/x", "unknown field 'source' in"),
        ("mount", "type=bind,src=/etc,dst=/e,ro=perhaps", "readonly is true or false"),
        ("tmpfs", "/t:sice=1m", "unknown option 'sice' in '/t:sice=1m', known are size, mode"),
        ("tmpfs", "/t:mode=9", "expected a mode such as 1777, got '9'"),
    ],
)
def test_mounts_that_make_no_sense(parse: str, text: str, message: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError) as caught:
        getattr(volumes, f"parse_{parse}")(text)
    assert message in str(caught.value)


def test_memory() -> None:
    assert volumes.parse_tmpfs("/t").tmpfs == Tmpfs("/t")
    assert volumes.parse_tmpfs("/t:rw,size=1m,mode=700").tmpfs == Tmpfs("/t", 1 << 20, 0o700)
    assert volumes.parse_mount("type=tmpfs,destination=/t,tmpfs-size=2k").tmpfs == Tmpfs("/t", 2048)


def test_mount_by_fields() -> None:
    assert volumes.parse_mount("type=bind,source=/etc,dst=/e,ro").bind == Bind("/etc", "/e")
    assert volumes.parse_mount("type=bind,src=/etc,dst=/e,readonly=false").bind == Bind("/etc", "/e", read_only=False)


def test_one_target_twice() -> None:
    twice = [volumes.parse_volume("/etc:/e"), volumes.parse_tmpfs("/e/")]
    with pytest.raises(argparse.ArgumentTypeError, match="target '/e' is mounted twice"):
        volumes.check_targets(twice)


def test_file_of_variables(tmp_path: Path) -> None:
    path = tmp_path / "vars"
    path.write_bytes(b'\xef\xbb\xbfA=1\r\n# B=2\n\n  C= x y \nD\nE\nF="q"\nA=2\n')
    assert read_env_file(str(path), {"D": "own"}) == {"A": "2", "C": " x y ", "D": "own", "F": '"q"'}


@pytest.mark.parametrize(
    ("content", "message"),
    [("A=1\nB C=2\n", "vars:2: expected NAME=VALUE, got 'B C=2'"), ("=x", "vars:1: expected NAME=VALUE, got '=x'")],
)
def test_file_that_holds_something_else(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "vars").write_text(content)
    with pytest.raises(UsageError) as caught:
        read_env_file(str(tmp_path / "vars"), {})
    assert message in caught.value.message


def test_missing_file_of_variables() -> None:
    with pytest.raises(UsageError, match="--env-file '/no/such': no such file or directory"):
        read_env_file("/no/such", {})


def test_what_is_given_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "vt100")
    env = compose({"HOME": "/image", "A": "1"}, {"A": "2"}, home="/home", hostname="box", tty=True)
    assert {"HOME=/image", "A=2", "TERM=vt100", "HOSTNAME=box"} <= {*env}
    assert len(env) == 5
