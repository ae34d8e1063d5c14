"""A context that changes between its hash and its copy must not be remembered under the hash."""

import pytest

from builder.api import build_or_reuse
from builder.draft import Draft
from builder.errors import ContextError
from builder.options import BuildOptions
from builder.steps import copy


@pytest.fixture
def context(tmp_path):
    root = tmp_path / "context"
    root.mkdir()
    (root / "Dockerfile").write_text("FROM scratch\nCOPY file /\n")
    (root / "file").write_bytes(b"one")
    return root


def build(context, store):
    return build_or_reuse(
        BuildOptions(context=str(context), source_date_epoch=0), root=str(store), emit=lambda _event: None, sources={}
    )


# of a branch's files a plain user's layer has what the branch took (builder/steps/packing.py)
WITHOUT_A_BRANCH = pytest.mark.root("a layer is packed without a branch")
CHANGES = {
    "as long": lambda file: file.write_bytes(b"two"),
    "longer": lambda file: file.write_bytes(b"longer"),
    "shorter": lambda file: file.write_bytes(b""),
    "gone": lambda file: file.unlink(),
    "another": lambda file: (file.rename(file.with_name("old")), file.write_bytes(b"two")),
    "mode": lambda file: file.chmod(0o600),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize(
    ("way", "after"), [("apply", "WORKDIR /w\n"), pytest.param("draft", "", marks=WITHOUT_A_BRANCH)]
)
def test_a_change_meanwhile_ends_the_build(context, tmp_path, monkeypatch, change, way, after):
    """Whether the layer is made by way of a branch, since something stands on it, or without one."""
    (context / "Dockerfile").write_text(f"FROM scratch\nCOPY file /\n{after}")
    copied = getattr(copy, way)

    def changing(*arguments, **options):
        change(context / "file")
        return copied(*arguments, **options)

    monkeypatch.setattr(copy, way, changing)
    with pytest.raises(ContextError, match=r"changed while it was copied|does not exist in|can't be read"):
        build(context, tmp_path / "store")
    monkeypatch.undo()
    (context / "file").write_bytes(b"one")
    (context / "file").chmod(0o644)
    again = build(context, tmp_path / "store")
    assert again.image_id == build(context, tmp_path / "fresh").image_id


@WITHOUT_A_BRANCH
def test_a_change_while_it_is_packed_ends_the_build(context, tmp_path, monkeypatch):
    changes = Draft.changes

    def changing(*arguments):
        (context / "file").write_bytes(b"longer")
        return changes(*arguments)

    monkeypatch.setattr(Draft, "changes", changing)
    with pytest.raises(ContextError, match="the build context changed while it was copied"):
        build(context, tmp_path / "store")
    monkeypatch.undo()
    assert build(context, tmp_path / "store").image_id == build(context, tmp_path / "fresh").image_id


def test_two_builds_give_one_image(context, tmp_path):
    assert build(context, tmp_path / "store").image_id == build(context, tmp_path / "store").image_id
