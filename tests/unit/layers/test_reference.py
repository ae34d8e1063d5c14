import pytest

from layers.digest import sha256
from layers.errors import ReferenceFormatError
from layers.reference import Reference

DIGEST = sha256(b"")


@pytest.mark.parametrize(
    ("text", "name", "canonical"),
    [
        ("debian", "debian:latest", "docker.io/library/debian:latest"),
        ("debian:12", "debian:12", "docker.io/library/debian:12"),
        ("user/app", "user/app:latest", "docker.io/user/app:latest"),
        ("library/debian", "debian:latest", "docker.io/library/debian:latest"),
        ("docker.io/debian", "debian:latest", "docker.io/library/debian:latest"),
        ("index.docker.io/user/app:1", "user/app:1", "docker.io/user/app:1"),
        ("localhost/x", "localhost/x:latest", "localhost/x:latest"),
        ("localhost:5000/x", "localhost:5000/x:latest", "localhost:5000/x:latest"),
        ("127.0.0.1:5000/a/b:1", "127.0.0.1:5000/a/b:1", "127.0.0.1:5000/a/b:1"),
        ("[::1]:5000/x", "[::1]:5000/x:latest", "[::1]:5000/x:latest"),
        ("ghcr.io/a/b", "ghcr.io/a/b:latest", "ghcr.io/a/b:latest"),
        ("docker.io/foo.bar/x", "docker.io/foo.bar/x:latest", "docker.io/foo.bar/x:latest"),
        ("docker.io/library/a/b", "library/a/b:latest", "docker.io/library/a/b:latest"),
        (f"debian@{DIGEST}", f"debian@{DIGEST}", f"docker.io/library/debian@{DIGEST}"),
        (f"debian:12@{DIGEST}", f"debian:12@{DIGEST}", f"docker.io/library/debian:12@{DIGEST}"),
        ("a__b-c--d.e", "a__b-c--d.e:latest", "docker.io/library/a__b-c--d.e:latest"),
    ],
)
def test_reference(text: str, name: str, canonical: str) -> None:
    reference = Reference.parse(text)
    assert (reference.name, str(reference), reference.canonical) == (name, name, canonical)
    assert Reference.parse(name) == Reference.parse(canonical) == reference


def test_digest_is_added() -> None:
    assert Reference.parse("a:1").with_digest(DIGEST).name == f"a:1@{DIGEST}"


@pytest.mark.parametrize(
    "text",
    ["", " ", ":", "a:", "a:b:c", "a@", "a@b", "a@sha256:1", "A", "a//b", "/a", "a/", "-a", "a..b", "a___b", "a b", "a\nb",
     "x" * 300, "a" * 64, "a:" + "t" * 129, "a:-t", "localhost:x/y", "host.:80/a", "../a", "a:b\n", "http://a/b"],
)  # fmt: skip
def test_what_is_no_reference(text: str) -> None:
    with pytest.raises(ReferenceFormatError, match="image name"):
        Reference.parse(text)


def test_upper_case_is_explained() -> None:
    with pytest.raises(ReferenceFormatError, match="lower case"):
        Reference.parse("Debian")
