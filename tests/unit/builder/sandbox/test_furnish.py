"""Mount points that can't be made: nothing stays open in a process that lives on."""

from __future__ import annotations

import os

import pytest

from builder.sandbox.furnish import Root, StageError


@pytest.mark.parametrize("target", ["/absent", "/kernel/absent"])
@pytest.mark.parametrize("is_directory", [True, False])
def test_a_point_that_can_not_be_made_leaves_nothing_open(target: str, is_directory: bool) -> None:
    root_fd = os.open("/sys", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        before = os.listdir("/proc/self/fd")
        points = Root()
        with pytest.raises(StageError, match=f'error mounting at "{target}"'):
            points.make_points(root_fd, ((target, is_directory),))
        assert points.parents() == []
        assert len(os.listdir("/proc/self/fd")) == len(before)
    finally:
        os.close(root_fd)
