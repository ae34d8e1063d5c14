"""B7: a real Dockerfile: packages of Debian, a virtual environment, a compiled program, a slim last stage.

New, unchanged, and with one source changed; beside buildah and BuildKit. The packages come from Debian's mirror each
time that nothing is cached, so that part of the time is the mirror's.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
from pathlib import Path

from builders import builders
from measure import Goal, alternate, arguments, report

DOCKERFILE = """\
FROM debian:bookworm AS build
RUN apt-get update \\
 && apt-get install --yes --no-install-recommends gcc libc6-dev make python3 python3-pip python3-venv python3-wheel \\
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY tool/pyproject.toml tool/
COPY tool/tool.py tool/
RUN python3 -m venv --system-site-packages /venv && /venv/bin/pip install --no-index --no-build-isolation ./tool
COPY Makefile ./
COPY source source
RUN make -j2

FROM debian:bookworm
RUN apt-get update \\
 && apt-get install --yes --no-install-recommends python3 \\
 && rm -rf /var/lib/apt/lists/*
COPY --from=build /venv /venv
COPY --from=build /src/program /usr/local/bin/
RUN program && /venv/bin/tool
ENTRYPOINT ["program"]
"""
MAKEFILE = """\
objects := $(patsubst %.c,%.o,$(wildcard source/*.c))
program: $(objects)
\t$(CC) -o $@ $^
%.o: %.c
\t$(CC) -O2 -c -o $@ $<
"""
PROJECT = """\
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "tool"
version = "1"
[project.scripts]
tool = "tool:main"
[tool.setuptools]
py-modules = ["tool"]
"""
MODULES = 40
FUNCTIONS = 60


def source(module: int, change: int = 0) -> str:
    """C that takes a compiler some tenths of a second."""
    functions = []
    for number in range(FUNCTIONS):
        body = f"x = x * {module + 1}.5 / (x + i + 1)"
        loop = f"for (int i = 0; i < {number + change + 3}; i++) {body};"
        functions.append(f"static double f{number}(double x) {{ {loop} return x > {number} ? x - {number} : x; }}")
    total = " + ".join(f"f{number}(x)" for number in range(FUNCTIONS))
    return "\n".join([*functions, f"double m{module}(double x) {{ return {total}; }}", ""])


def plant(context: Path) -> None:
    """The project."""
    (context / "tool").mkdir(parents=True)
    (context / "source").mkdir()
    (context / "Dockerfile").write_text(DOCKERFILE)
    (context / "Makefile").write_text(MAKEFILE)
    (context / "tool" / "pyproject.toml").write_text(PROJECT)
    (context / "tool" / "tool.py").write_text('def main():\n    print("tool")\n')
    for module in range(MODULES):
        (context / "source" / f"m{module}.c").write_text(source(module))
    declared = "\n".join(f"double m{module}(double);" for module in range(MODULES))
    called = " + ".join(f"m{module}(argc)" for module in range(MODULES))
    (context / "source" / "main.c").write_text(
        f"#include <stdio.h>\n{declared}\n"
        f'int main(int argc, char **argv) {{ return printf("%s %f\\n", argv[0], {called}) < 0; }}\n'
    )


def main() -> int:
    """Measures; status 1 when a goal is missed."""
    options = arguments(rounds=3)
    numbers = itertools.count(1)
    goals = (Goal("BuildKit (dockerd)", 1.0), Goal("buildah", 1.0))
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        context = Path(name) / "context"
        plant(context)

        def change_one() -> None:
            (context / "source" / "m7.c").write_text(source(7, next(numbers)))

        with builders(Path(name)) as all_builders:
            measured = all_builders.contenders(context)
            parts = (
                ("new", all_builders.newcomers(context)),
                ("unchanged", measured),
                ("one source changed", [one._replace(prepare=change_one) for one in measured]),
            )
            reached = [
                report(f"a real build, {title}", alternate(part, options), goals=goals, absent=all_builders.absent)
                for title, part in parts
            ]
    return 0 if all(reached) else 1


if __name__ == "__main__":
    sys.exit(main())
