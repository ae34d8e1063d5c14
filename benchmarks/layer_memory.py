"""Memory of a layer of 10 GiB: packed, compressed with gzip and zstd, unpacked from the plain and the gzip archive.

Each is a process of its own; its peak resident set is compared with that of an interpreter that does nothing. Both
sides stream, so it may be 64 MiB more, however large the layer is. The tree is mostly holes, with a MiB of noise in
every 64; what is unpacked is written in full: 22 GiB of disk are used at most (``TMPDIR``, else /var/tmp).
"""

from __future__ import annotations

import os
import random
import shutil
import sys
import tempfile
from pathlib import Path

from measure import Row, arguments, report
from registry_push_pull import run_watched

LAYER_BYTES = 10 << 30
FILES = 5
EVERY_BYTES = 64 << 20
NOISE_BYTES = 1 << 20
LIMIT_MIB = 64

SCRIPTS = {
    "pack": """
with store.blobs.writer(hashing=False) as writer:
    packed = write_layer(Path(sys.argv[2]), writer)
    writer.commit(packed.diff_id)
""",
    "gzip": "compressed.compress(store, plain(), choose('gzip'))",
    "zstd": "compressed.compress(store, plain(), choose('zstd'))",
    "unpack": "unpack_layer(store, plain(), plain().digest, None)",
    "unpack gzip": """
made = compressed.find(store, plain().digest, choose("gzip").name)
unpack_layer(store, made, plain().digest, None)
""",
}
PRELUDE = """
import sys
from pathlib import Path
from layers import media
from layers.descriptor import Descriptor
from layers.ensure import unpack_layer
from layers.pack import write_layer
from layers.registry import compressed
from layers.registry.compress import choose
from layers.store import Store
def plain():
    found = max((store.blobs.size(digest), digest) for digest in store.blobs)
    return Descriptor(media.OCI_LAYER, found[1], found[0])
with Store(sys.argv[1]) as store:
    store.claim()
"""


def make(tree: Path) -> None:
    """The tree is there."""
    tree.mkdir()
    source = random.Random(1)
    for number in range(FILES):
        with open(tree / str(number), "wb") as file:
            for position in range(0, LAYER_BYTES // FILES, EVERY_BYTES):
                file.seek(position)
                file.write(source.randbytes(NOISE_BYTES))
            file.truncate(LAYER_BYTES // FILES)


def main() -> int:
    """Measures; status 1 when something takes more than the limit."""
    options = arguments(rounds=1)
    rows: list[Row] = []
    idle = run_watched("python", [sys.executable, "-c", "import time; time.sleep(0.2)"])
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/var/tmp")) as name:
        tree, store = Path(name, "tree"), Path(name, "store")
        make(tree)
        for work, script in SCRIPTS.items():
            if options.only and work not in (*options.only, "pack"):
                continue
            body = "".join(f"    {line}\n" for line in script.strip().splitlines())
            peak = run_watched(work, [sys.executable, "-c", PRELUDE + body, str(store), str(tree)])
            rows.append(Row(work, [float(peak - idle)]))
            shutil.rmtree(store / "layers", ignore_errors=True)
    reached = [
        report(f"memory of a layer of 10 GiB, {row.name}", [row], limit=LIMIT_MIB, unit="MiB", scale=1 / 1024)
        for row in rows
    ]
    return 0 if all(reached) else 1


if __name__ == "__main__":
    sys.exit(main())
