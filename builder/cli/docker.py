"""What ``docker build``, buildx, buildah and kaniko take beyond this command: refused with the reason, or accepted.

Invariants: an option that is accepted and does nothing says so, unless it asks for what is done anyway.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from builder.cli.parser import ArgumentParser

_NO_INSTANCES = "there is one builder, without instances; leave it out"
_NO_DAEMON = "there is no daemon to be reached; leave it out"
_SHUT_IN = "a step has namespaces of its own; --network host is the network of this machine"
_PUSH = "-t NAME --push sends the result to a registry"
_DIGESTS = "--metadata-file FILE has the digests and the names of the result"
_INSECURE = "--tls-verify=false is for registries with certificates of their own or none"
_SECRET = "everybody may see it in the list of processes: pybuild login --password-stdin keeps credentials"  # noqa: S105
_PLATFORM = "--platform OS/ARCH[/VARIANT] says it"
_CACHED = "results of steps are always kept; --no-cache runs every step"
_ONE_SNAPSHOT = "layers stay as the Dockerfile makes them; COPY --from=STAGE / / in a last stage makes one"
_ASKED_AGAIN = "a registry is asked four times before an error is one"
_NO_SIGNATURES = "signatures are made and looked at by programs of their own, such as cosign"

REFUSED = {
    "--builder": _NO_INSTANCES,
    "--device": "a step has the usual devices, or with RUN --security=insecure all",
    "--policy": "there are no policies",
    "--security-opt": "the sandbox is not weakened by options; RUN --security=insecure is, with --allow",
    "--squash": _ONE_SNAPSHOT,
    "--stream": "the context is read where it lies",
    "--volume": "RUN --mount=type=bind shows files to a step",
    "-v": "RUN --mount=type=bind shows files to a step; --version tells the version",
    "-D": "--progress plain shows everything",
    "--debug": "--progress plain shows everything",
    "-H": _NO_DAEMON,
    "--host": _NO_DAEMON,
    "--all-platforms": "--platform A,B says which",
    "--arch": _PLATFORM,
    "--cache-ttl": "pybuild cache prune --older TIME removes what was not used",
    "--cpp-flag": "files called .in are preprocessed, without options; cpp FILE | pybuild -f - CONTEXT takes some",
    "--created-annotation": "there is no such annotation unless --annotation says one",
    "--creds": _SECRET,
    "--decryption-key": "images are not encrypted",
    "--group-add": "USER in the Dockerfile says who a step is",
    "--hooks-dir": "a step has no hooks",
    "--ignorefile": "NAME.dockerignore beside the Dockerfile NAME, or .dockerignore in the context, is read",
    "--ipc": _SHUT_IN,
    "--manifest": "--platform A,B makes an image of several platforms, -t NAME names it",
    "--no-hosts": "a step's /etc/hosts names it alone, and what --add-host says; it is no part of the image",
    "--no-hostname": "a step's /etc/hostname is no part of the image",
    "--omit-history": "the history says how the image was made; programs that read layers need it",
    "--os": _PLATFORM,
    "--pid": _SHUT_IN,
    "--retry": _ASKED_AGAIN,
    "--retry-delay": _ASKED_AGAIN,
    "--runtime-flag": "--runtime names the runtime, whose options are its own",
    "--sign-by": _NO_SIGNATURES,
    "--signature-policy": _NO_SIGNATURES,
    "--source-policy-file": "there are no policies",
    "--squash-all": _ONE_SNAPSHOT,
    "--unsetannotation": "nothing of a base's annotations is taken over",
    "--unsetlabel": "LABEL NAME= or --label NAME= empties it",
    "--userns": "a plain user has a user namespace, root has one with --isolation rootless",
    "--uts": _SHUT_IN,
    "--variant": _PLATFORM,
    "--cache": _CACHED,
    "--cache-dir": _CACHED,
    "--cache-repo": "--cache-from and --cache-to type=registry,ref=NAME use results that are in a registry",
    "--context": "the last word of the command line is the context",
    "--custom-platform": _PLATFORM,
    "--destination": _PUSH,
    "-d": _PUSH,
    "--digest-file": _DIGESTS,
    "--dockerfile": "-f FILE names it",
    "--image-name-with-digest-file": _DIGESTS,
    "--image-name-tag-with-digest-file": _DIGESTS,
    "--insecure": _INSECURE,
    "--insecure-pull": _INSECURE,
    "--insecure-registry": _INSECURE,
    "--log-format": "--progress rawjson writes JSON",
    "--no-push": "nothing is pushed without --push",
    "--oci-layout-path": "-o type=oci,tar=false,dest=DIR writes a layout",
    "--registry-mirror": "mirrors stand in the configuration file",
    "--reproducible": "SOURCE_DATE_EPOCH=SECONDS or --source-date-epoch SECONDS makes builds equal",
    "--single-snapshot": _ONE_SNAPSHOT,
    "--skip-tls-verify": _INSECURE,
    "--skip-tls-verify-pull": _INSECURE,
    "--snapshot-mode": "what a step changed is known from the union it wrote to",
    "--tar-path": "-o type=docker,dest=FILE writes an archive",
    "--verbosity": "--progress says how much is shown",
}
"""Option → why it is not there, and what is."""

_ALWAYS = {"true": "true", "1": "true"}


def add_accepted(parser: ArgumentParser) -> None:
    """``parser`` takes the options that people write for others and that change nothing here.

    What is to be told about them is in the list ``notes`` of the parsed arguments.
    """
    parser.add_argument(
        "--compress", action="append_const", dest="notes", default=[],
        const="--compress has no effect: the context is read where it lies",
        help="accepted without effect: the context is read where it lies",
    )  # fmt: skip
    for option in ("--rm", "--force-rm"):
        parser.add_argument(option, action="store_true", help="accepted: nothing of a step stays but its layer")
    parser.add_argument("--format", type=_parse_format, metavar="oci", help="accepted: images are OCI's")
    for option, why in (
        ("--layers", "results of steps are always kept"),
        ("--http-proxy", "proxies of build arguments are given to steps"),
        ("--skip-unused-stages", "what is not needed is not built"),
        ("--disable-compression", "layers in the store are plain"),
        ("--rewrite-timestamp", "with SOURCE_DATE_EPOCH no file of a layer is younger"),
    ):
        parser.add_policy(option, "", _ALWAYS, f"accepted: {why}")


def _parse_format(text: str) -> str:
    if text != "oci":
        raise argparse.ArgumentTypeError(
            f"images are OCI's, got {text!r}; -o type=image,oci-mediatypes=false makes docker's"
        )
    return text
