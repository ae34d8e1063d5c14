"""Whom steps of tests run as: root, and another user where one exists."""

from __future__ import annotations

import pytest

from builder.sandbox.spec import User

USERS = [User(), pytest.param(User(1000, 1000), marks=pytest.mark.owners("runs as another user"))]
