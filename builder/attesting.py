"""What is said of the results of a build: how each was made, and what is in it (``--provenance``, ``--sbom``).

Invariants: nothing that is secret is said; with SOURCE_DATE_EPOCH the same build says the same, byte for byte.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.events import StepJournal
from builder.finished import Work
from builder.provenance import make_provenance
from builder.session import Session
from layers.attestation import Predicate
from layers.image import Image

if TYPE_CHECKING:
    from builder.api import Preparation


def make_predicates(
    preparation: Preparation, image: Image, work: Work, session: Session, step: StepJournal
) -> tuple[Predicate, ...]:
    """What ``--attest`` asks to be said of the image of one platform, in the order of the options.

    Raises:
        LayersError: a layer that must be looked at is damaged or gone.
    """
    found: list[Predicate] = []
    for asked in preparation.exports.attestations:
        if asked.kind == "provenance":
            found.append(make_provenance(preparation, image, work, session.started_ns, asked.settings))
        else:
            from builder.sbom import scan_image

            found.append(scan_image(session, image, preparation.plan.platform, preparation.exports.names))
        step.output(1, f"{asked.kind} of {preparation.plan.platform}\n".encode())
    return tuple(found)
