"""What ``layer.json`` beside an unpacked layer says: how it came to be and on what it lies.

Invariants: a record is whole or counts as absent; ``chain`` lists the stack, bottom first, the layer itself last.
"""

from __future__ import annotations

from layers import gojson
from layers.digest import ChainId, Digest, from_hex
from layers.errors import FormatError
from unionfs.namedtuple import NamedTuple

PACKED = "packed"
"""A branch that was packed: packing it once more gives the same bytes."""
UNPACKED = "unpacked"
"""A directory that an archive filled: only the archive gives the same bytes."""


class LayerRecord(NamedTuple):
    """``boot`` is the boot of the machine in which the directory was last known whole; ``size`` that of the tar.

    ``blob`` is the digest under which the layer travels, None when that is the diff ID.
    """

    diff_id: Digest
    chain: tuple[ChainId, ...]
    origin: str
    boot: str
    size: int = 0
    epoch: int | None = None
    blob: Digest | None = None

    def to_bytes(self) -> bytes:
        """The content of the file."""
        fields: gojson.JsonObject = {"diff_id": self.diff_id, "chain": [each.hex for each in self.chain]}
        fields |= {"origin": self.origin, "boot": self.boot, "size": self.size, "epoch": self.epoch}
        fields["blob"] = self.blob
        return gojson.dumps(fields)

    @classmethod
    def from_bytes(cls, raw: bytes) -> LayerRecord:
        """The record in the content of the file. Raises FormatError."""
        fields = gojson.loads_object(raw, "layer record")
        chain = gojson.as_texts(fields.get("chain"), "layer record: chain")
        epoch, blob = fields.get("epoch"), fields.get("blob")
        if not chain:
            raise FormatError("layer record: the chain is empty")
        return cls(
            Digest(gojson.as_text(fields.get("diff_id"), "layer record: diff_id")),
            tuple(ChainId(from_hex(digits)) for digits in chain),
            gojson.as_text(fields.get("origin"), "layer record: origin"),
            gojson.as_text(fields.get("boot"), "layer record: boot"),
            gojson.as_int(fields.get("size"), "layer record: size"),
            None if epoch is None else gojson.as_int(epoch, "layer record: epoch"),
            None if blob is None else Digest(gojson.as_text(blob, "layer record: blob")),
        )


def boot_id() -> str:
    """Names the time since the machine was booted last (random(4))."""
    with open("/proc/sys/kernel/random/boot_id", "rb", buffering=0) as file:
        return file.read(64).decode().strip()
