from __future__ import annotations

import subprocess
import sys

HEAVY = "oras,requests,urllib3,trio,zstandard,jsonschema,dataclasses"


def test_the_front_is_cheap_until_it_is_used() -> None:
    """Importing transfer, settings, errors and progress brings neither oras nor requests."""
    script = (
        "import sys; import layers.registry.transfer, layers.registry.settings, layers.registry.errors;"
        f"print([name for name in '{HEAVY}'.split(',') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_what_is_unsafe_in_the_library_is_not_called() -> None:
    """oras' own pull, push, layout and extraction do not verify what they write (facts of oras 0.2.43)."""
    from pathlib import Path

    import layers.registry

    words = (
        "extract_targz",
        "oras.layout",
        "download_blob",
        "upload_manifest",
        "put_upload",
        ".get_manifest",
        "chunked_upload",
    )
    for path in Path(layers.registry.__path__[0]).glob("*.py"):
        text = path.read_text()
        assert not [word for word in words if word in text], path
