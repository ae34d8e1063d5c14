"""Which steps come from the cache, where the build says so."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from harness.pybuild import COMMAND, Pybuild, step_outcomes
from layers.manifest import Manifest
from layers.store import Store
from layers.testing.registry import FaultyRegistry


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


class TestElsewhere:
    """Two stores, as two machines: what one has built the other takes."""

    @pytest.fixture
    def other(self, tmp_path: Path) -> Pybuild:
        return Pybuild(tmp_path / "other")

    TITLES = ("COPY a /one", "WORKDIR /w", "COPY a /two", "COPY --from=two / /")

    def all(self, outcome: str) -> dict[str, str]:
        return dict.fromkeys(self.TITLES, outcome)

    @pytest.mark.parametrize("kind", ["local", "registry"])
    def test_max_brings_every_step(
        self, pybuild: Pybuild, other: Pybuild, context: Path, tmp_path: Path, kind: str, docker_registry: str
    ) -> None:
        name = f"{docker_registry}/results/max:1"
        place = f"type=local,dest={tmp_path / 'results'}" if kind == "local" else f"type=registry,ref={name}"
        source = f"type=local,src={tmp_path / 'results'}" if kind == "local" else name
        pybuild.run("build", "-t", "x", "--cache-to", f"{place},mode=max", context)
        log = other.run("build", "-t", "x", "--progress", "plain", "--cache-from", source, context).stderr
        assert "WARN" not in log
        assert set(step_outcomes(log).values()) == {"CACHED"}
        assert len(step_outcomes(log)) == len(self.TITLES)
        assert image_id(other) == image_id(pybuild)
        assert outcomes(other, context)["COPY --from=two / /"] == "CACHED", "what came is now of this machine"

    def test_min_brings_the_image_alone(self, pybuild: Pybuild, other: Pybuild, context: Path, tmp_path: Path) -> None:
        pybuild.run("build", "--cache-to", f"type=local,dest={tmp_path / 'results'}", context)
        found = outcomes(other, "--cache-from", f"type=local,src={tmp_path / 'results'}", context)
        assert found == {**self.all("DONE"), "COPY --from=two / /": "CACHED"}

    def test_inline_travels_with_the_image(
        self, pybuild: Pybuild, other: Pybuild, context: Path, docker_registry: str
    ) -> None:
        name = f"{docker_registry}/results/image:1"
        asked = ("--build-arg", "BUILDKIT_INLINE_CACHE=1")
        pybuild.run("build", "-t", name, "--push", *asked, "--target", "two", context)
        found = outcomes(other, "--cache-from", name, "--target", "two", "-t", name, context)
        assert set(found.values()) == {"CACHED"}
        name, other = f"{name}-2", Pybuild(other.root.parent / "another")
        pybuild.run("build", "-t", name, "--push", "--cache-to", "type=inline", "--target", "two", context)
        found = outcomes(other, "--cache-from", name, "--target", "two", "-t", name, context)
        assert set(found.values()) == {"CACHED"}
        plain = pybuild.run("build", "-t", f"{name}-plain", "--push", "--target", "two", context)
        assert plain.returncode == 0
        fresh = Pybuild(other.root.parent / "fresh")
        log = fresh.run("build", "--cache-from", f"{name}-plain", "--target", "two", context).stderr
        assert "built without --cache-to type=inline" in log

    def test_only_what_hits_is_fetched(self, pybuild: Pybuild, other: Pybuild, context: Path, tmp_path: Path) -> None:
        results = tmp_path / "results"
        pybuild.run("build", "--cache-to", f"type=local,dest={results},mode=max", context)
        blobs = {path.name for path in (results / "blobs" / "sha256").iterdir()}
        outcomes(other, "--cache-from", f"type=local,src={results}", "--target", "one", context)
        taken = {path.name for path in (other.root / "blobs" / "sha256").iterdir()} & blobs
        assert len(taken) == 2, "two layers of the four, and no list of results"

    def test_a_registry_is_asked_for_what_hits_alone(self, pybuild: Pybuild, other: Pybuild, context: Path) -> None:
        """Counted at the registry: the list of results, then one layer for each hit, and nothing else."""
        with FaultyRegistry() as registry:
            name = f"{registry.host}/results/lazy:1"
            pybuild.run("build", "--cache-to", f"type=registry,ref={name},mode=max", context)
            registry.requests.clear()
            outcomes(other, "--cache-from", name, "--target", "one", context)
            assert len(registry.seen("GET", "/manifests/")) == 1
            assert len(registry.seen("GET", "/blobs/")) == 1 + 2, "the list and two layers of four"
            registry.requests.clear()
            (context / "a").write_text("changed\n")
            fresh = Pybuild(other.root.parent / "third")
            outcomes(fresh, "--cache-from", name, "--target", "one", context)
            assert len(registry.seen("GET", "/blobs/")) == 1, "nothing hits: the list alone"

    def test_keys_are_the_same_on_every_machine(
        self, pybuild: Pybuild, other: Pybuild, context: Path, tmp_path: Path
    ) -> None:
        """Another store, another directory of the context, other inodes, times and owners: the same keys."""
        moved = tmp_path / "elsewhere" / "project"
        shutil.copytree(context, moved, copy_function=shutil.copyfile)
        os.utime(moved / "a", (1, 1))
        if os.geteuid() == 0:
            os.chown(moved / "a", 7, 7)
        keys = []
        for number, (store, place) in enumerate(((pybuild, context), (other, moved))):
            # directories that steps make have the time of the build otherwise
            fixed = ("--build-arg", "SOURCE_DATE_EPOCH=0")
            store.run("build", *fixed, "--cache-to", f"type=local,dest={tmp_path / str(number)},mode=max", place)
            with Store(tmp_path / str(number)) as results:
                [entry] = results.entries()
                manifest = results.read_manifest(entry)
                assert isinstance(manifest, Manifest)
                records = json.loads(results.blobs.read(manifest.config.digest))["records"]
            keys.append({(record["key"], record["kind"]) for record in records})
        assert keys[0] == keys[1]
        assert len(keys[0]) == 2 * len(self.TITLES)

    def test_changed_steps_are_run(self, pybuild: Pybuild, other: Pybuild, context: Path, tmp_path: Path) -> None:
        place = tmp_path / "results"
        pybuild.run("build", "--cache-to", f"type=local,dest={place},mode=max", context)
        (context / "a").write_text("changed\n")
        assert outcomes(other, "--cache-from", f"type=local,src={place}", context)["COPY a /one"] == "DONE"

    def test_what_is_broken_is_a_warning(
        self, pybuild: Pybuild, other: Pybuild, context: Path, tmp_path: Path, docker_registry: str
    ) -> None:
        results = tmp_path / "results"
        pybuild.run("build", "--cache-to", f"type=local,dest={results},mode=max", context)
        (tmp_path / "empty").mkdir()
        for number, (source, message) in enumerate(
            (
                (f"type=local,src={tmp_path / 'none'}", "holds no results"),
                (f"type=local,src={tmp_path / 'empty'}", "holds no results"),
                (f"type=registry,ref={docker_registry}/results/none:1", "unknown"),
                ("127.0.0.1:1/none:1", "127.0.0.1:1"),
            )
        ):
            log = (
                Pybuild(tmp_path / f"fresh-{number}")
                .run("build", "--progress", "plain", "--cache-from", source, context)
                .stderr
            )
            assert message in log
        for blob in (results / "blobs" / "sha256").iterdir():
            if not blob.read_bytes().startswith(b"{"):
                blob.write_bytes(b"x" * blob.stat().st_size)
        fresh = Pybuild(tmp_path / "fresh")
        log = fresh.run("build", "--progress", "plain", "--cache-from", f"type=local,src={results}", context).stderr
        assert "is not used any more" in log
        assert set(step_outcomes(log).values()) == {"DONE"}
        (tmp_path / "file").write_text("")
        log = other.run("build", "--cache-to", f"type=local,dest={tmp_path / 'file'}", context).stderr
        assert "is not written" in log

    def test_a_lying_record_gives_nothing(
        self, pybuild: Pybuild, other: Pybuild, context: Path, tmp_path: Path
    ) -> None:
        """Two layers exchanged in the list: each has another diff ID than its record says."""
        from cache.remote import CONFIG_TYPE
        from layers.descriptor import Descriptor

        results = tmp_path / "results"
        pybuild.run("build", "--cache-to", f"type=local,dest={results},mode=max", context)
        with Store(results) as store:
            [entry] = store.entries()
            manifest = store.read_manifest(entry)
            assert isinstance(manifest, Manifest)
            assert manifest.config.media_type == CONFIG_TYPE
            layers: list[Descriptor] = [*manifest.layers[1:], manifest.layers[0]]
            changed = Manifest.create(manifest.config, layers)
            store.blobs.put(changed.raw)
            store.tag("cache:latest", changed.descriptor())
        log = other.run("build", "--progress", "plain", "--cache-from", f"type=local,src={results}", context).stderr
        assert "is not used any more" in log
        assert "DONE" in step_outcomes(log).values()
        other.run("build", "-t", "x", "--build-arg", "SOURCE_DATE_EPOCH=0", "--no-cache", context)
        pybuild.run("build", "-t", "x", "--build-arg", "SOURCE_DATE_EPOCH=0", "--no-cache", context)
        assert image_id(other) == image_id(pybuild)

    def test_commands(self, pybuild: Pybuild, other: Pybuild, context: Path, tmp_path: Path) -> None:
        results = tmp_path / "results"
        pybuild.run("build", context)
        assert cache_command(pybuild, "export", f"type=local,dest={results}").stdout == "4 results written\n"
        assert cache_command(other, "import", f"type=local,src={results}").stdout == "4 results taken\n"
        assert outcomes(other, context) == self.all("CACHED")
        done = cache_command(other, "import", f"type=local,src={tmp_path / 'none'}")
        assert done.returncode == 1
        assert "holds no results" in done.stderr

    @pytest.mark.parametrize(
        ("option", "value", "message"),
        [
            ("--cache-from", "type=s3,bucket=x", "unknown cache type 's3', known are local, registry"),
            ("--cache-from", "type=local", "cache type local needs src="),
            ("--cache-from", "type=local,dest=x", "unknown field 'dest'"),
            ("--cache-to", "type=local,dest=x,mode=most", "unknown mode 'most'"),
            ("--cache-to", "type=inline,mode=max", "inline has no mode=max"),
            (
                "--cache-to",
                "type=local,dest=x,mounts=true",
                "mounts=true takes the cache mounts of all stages: it needs",
            ),
            ("--cache-to", "type=local,dest=x,mode=max,mounts=yes", "mounts is true or false, got 'yes'"),
            ("--cache-to", "type=inline,mode=max,mounts=true", "inline has no mode=max"),
            ("--cache-to", "type=inline,mounts=true", "mounts=true takes the cache mounts"),
            ("--cache-from", "UPPER", "UPPER"),
        ],
    )
    def test_wrong_words_are_refused(
        self, pybuild: Pybuild, context: Path, option: str, value: str, message: str
    ) -> None:
        done = pybuild.attempt("build", option, value, context)
        assert done.returncode == 2
        assert message in done.stderr


def cache_command(pybuild: Pybuild, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, "cache", words[0], "--root", str(pybuild.root), *words[1:]],
        env=pybuild.environment(),
        capture_output=True,
        text=True,
        check=False,
    )


def image_id(pybuild: Pybuild) -> str:
    return json.loads(pybuild.run("inspect", "x").stdout)[0]["Id"]
