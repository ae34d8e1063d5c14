from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import sys
import layers.registry.session
loaded = {name for name in sys.modules if name.partition(".")[0] in {"jsonschema", "referencing", "attr", "tarfile"}}
assert not loaded, loaded
import oras.oci
import oras.provider
assert oras.oci.jsonschema is oras.provider.jsonschema
try:
    oras.provider.jsonschema.validate({}, {"required": ["name"]})
except Exception as error:
    print(type(error).__module__, type(error).__name__)
import jsonschema
assert jsonschema.__file__
import oras.utils.fileio
assert oras.utils.fileio.tarfile.DEFAULT_FORMAT
import tarfile
assert tarfile.__file__
"""


def test_the_validator_comes_when_it_is_asked_for() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["jsonschema.exceptions", "ValidationError"]
