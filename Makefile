# The commands of README, under short names.
.PHONY: check test demo bench docs format

check:  ## lint, types, imports, unit tests: under a minute, no privileges
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/pyright
	.venv/bin/lint-imports
	.venv/bin/python -m pytest -q tests/unit

test:  ## everything
	scripts/test

demo:  ## build, push, pull and run the examples
	scripts/demo

bench:  ## every benchmark beside every peer that is installed
	scripts/bench

docs:  ## the page on the command line, of the program's own options; the manual pages, of it and docs/unionmount.md
	.venv/bin/python -m builder.cli.reference > docs/cli.md.new && mv docs/cli.md.new docs/cli.md
	.venv/bin/python scripts/manual.py

format:
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .
