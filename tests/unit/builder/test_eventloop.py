"""The import of trio, with what it never uses here kept away: nobody else misses it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROLOGUE = "import sys; sys.path.insert(0, sys.argv[1]); from builder.eventloop import import_trio; "


def run(code: str) -> str:
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run([sys.executable, "-c", PROLOGUE + code, root], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_what_is_never_used_is_not_imported() -> None:
    said = run("import_trio(); print(*sys.modules)").split()
    kept_away = {"ssl", "_ssl", "_hashlib", "idna", "ctypes.util", "shutil", "subprocess", "traceback"}
    kept_away |= {"inspect", "ast", "dis", "platform", "attr.validators", "attrs.validators"}
    assert kept_away & set(said) == set()
    assert "trio" in said


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import ssl; print(ssl.SSLContext.__name__)", "SSLContext"),
        ("import idna; print(idna.encode('bücher.example').decode())", "xn--bcher-kva.example"),
        ("import ctypes.util; print(ctypes.util.find_library('c'))", "libc.so.6"),
        ("import trio; print(trio._subprocess.subprocess.Popen.__name__)", "Popen"),
        ("import trio; print(trio._dtls.hmac.new.__name__)", "new"),
        ("import trio, ssl; print(trio._ssl._stdlib_ssl.SSLContext is ssl.SSLContext)", "True"),
        ("import inspect; print(inspect.signature(len))", "(obj, /)"),
        ("import trio; print(trio._util.inspect.signature(len))", "(obj, /)"),
        ("import platform; print(platform.machine() != '')", "True"),
        ("from attr.validators import in_; print(in_([1]))", "<in_ validator with options [1]>"),
        ("from attrs.validators import ge; print(ge(1))", "<Validator for x >= 1>"),
        ("import attr, attr.validators as v; print(attr.validators.in_ is v.in_)", "True"),
    ],
)
def test_who_uses_it_has_it(code: str, expected: str) -> None:
    assert run(f"import_trio(); {code}") == expected
    assert (
        run(f"{code.replace('import trio, ', 'import trio; import ')}; import_trio(); {code}").splitlines()[-1]
        == expected
    )


def test_event_loop_works() -> None:
    code = "import_trio(); import trio; print(trio.run(trio.to_thread.run_sync, lambda: 'done in a thread'))"
    assert run(code) == "done in a thread"


def test_what_stands_in_answers_as_the_modules_do() -> None:
    code = """
import_trio()
import trio, pathlib, inspect, outcome, attr.validators
for name in ("mkdir", "rename", "glob", "stat"):
    assert inspect.cleandoc(getattr(pathlib.Path, name).__doc__) in getattr(trio.Path, name).__doc__, name
assert trio._path.cleandoc("\\n \\ta\\n\\n\\t b \\n") == inspect.cleandoc("\\n \\ta\\n\\n\\t b \\n")
async def wait(): pass
made = wait()
assert trio._threads.inspect.iscoroutine(made) and not trio._threads.inspect.iscoroutine(wait)
made.close()
outcome.Error(ValueError("well"))
try:
    outcome.Error("no exception")
except TypeError as error:
    print(error.args[0])
"""
    said = run(code)
    assert said.startswith("'error' must be <class 'BaseException'>")
