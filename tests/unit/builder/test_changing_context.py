"""A context that changes between its hash and its copy must not be remembered under the hash."""

import pytest

from builder.api import build_or_reuse
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


def test_a_change_meanwhile_ends_the_build(context, tmp_path, monkeypatch):
    apply = copy.apply

    def changing(*arguments, **options):
        (context / "file").write_bytes(b"two")
        apply(*arguments, **options)

    monkeypatch.setattr(copy, "apply", changing)
    with pytest.raises(ContextError, match="the build context changed while it was copied"):
        build(context, tmp_path / "store")
    monkeypatch.undo()
    (context / "file").write_bytes(b"one")
    again = build(context, tmp_path / "store")
    assert again.image_id == build(context, tmp_path / "fresh").image_id


def test_two_builds_give_one_image(context, tmp_path):
    assert build(context, tmp_path / "store").image_id == build(context, tmp_path / "store").image_id
