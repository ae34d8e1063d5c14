"""Which steps come from the cache, where the build says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.pybuild import Pybuild, step_outcomes


@pytest.fixture
def context(tmp_path: Path) -> Path:
    directory = tmp_path / "context"
    directory.mkdir()
    (directory / "a").write_text("A\n")
    (directory / "Dockerfile").write_text(
        "FROM scratch AS one\nCOPY a /one\nWORKDIR /w\nFROM one AS two\nCOPY a /two\n"
        "FROM scratch\nCOPY --from=two / /\n"
    )
    return directory


def outcomes(pybuild: Pybuild, *arguments: str | Path) -> dict[str, str]:
    log = pybuild.run("build", "--progress", "plain", *arguments).stderr
    return {title.split("] ", 1)[1]: end for title, end in step_outcomes(log).items()}


class TestStagesAnew:
    EVERY = ("COPY a /one", "WORKDIR /w", "COPY a /two", "COPY --from=two / /")

    @pytest.mark.parametrize(
        ("stages", "done"),
        [
            (("two",), {"COPY a /two"}),
            (("one",), {"COPY a /one", "WORKDIR /w"}),
            (("0",), {"COPY a /one", "WORKDIR /w"}),
            (("one,two",), {"COPY a /one", "WORKDIR /w", "COPY a /two"}),
            (("one", "2"), {"COPY a /one", "WORKDIR /w", "COPY --from=two / /"}),
        ],
    )
    def test_only_their_steps_are_run(
        self, pybuild: Pybuild, context: Path, stages: tuple[str, ...], done: set[str]
    ) -> None:
        outcomes(pybuild, context)
        flags = [word for stage in stages for word in ("--no-cache-filter", stage)]
        found = outcomes(pybuild, "--build-arg", "SOURCE_DATE_EPOCH=0", *flags, context)
        found = outcomes(pybuild, "--build-arg", "SOURCE_DATE_EPOCH=0", *flags, context)
        assert found == {title: "DONE" if title in done else "CACHED" for title in self.EVERY}

    def test_unknown_stage_is_an_error(self, pybuild: Pybuild, context: Path) -> None:
        done = pybuild.attempt("build", "--no-cache-filter", "tow", context)
        assert done.returncode == 1
        assert "stage 'tow' does not exist" in done.stderr
        assert "did you mean two?" in done.stderr
