"""What ``docker build`` and ``buildx build`` take beyond this command: refused with the reason, or accepted.

Invariants: an option that is accepted and does nothing says so, unless it asks for what is done anyway.
"""

from __future__ import annotations

import argparse

_NO_INSTANCES = "there is one builder, without instances; leave it out"

REFUSED = {
    "--builder": _NO_INSTANCES,
    "--call": "there is --check",
    "--device": "a step has the usual devices, or with RUN --security=insecure all",
    "--policy": "there are no policies",
    "--security-opt": "the sandbox is not weakened by options; RUN --security=insecure is, with --allow",
    "--squash": "layers stay as the Dockerfile makes them; COPY --from=STAGE / / in a last stage makes one",
    "--stream": "the context is read where it lies",
    "--volume": "RUN --mount=type=bind shows files to a step",
    "-v": "RUN --mount=type=bind shows files to a step; --version tells the version",
}
"""Option → why it is not there."""


def add_accepted(parser: argparse.ArgumentParser) -> None:
    """``parser`` takes the options that people write for docker and that change nothing here.

    What is to be told about them is in the list ``notes`` of the parsed arguments.
    """
    parser.add_argument(
        "--compress", action="append_const", dest="notes", default=[],
        const="--compress has no effect: the context is read where it lies",
        help="accepted without effect: the context is read where it lies",
    )  # fmt: skip
    for option in ("--rm", "--force-rm"):
        parser.add_argument(option, action="store_true", help="accepted: nothing of a step stays but its layer")
