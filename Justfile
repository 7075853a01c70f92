# The daily verbs. `pip install -e '.[dev]'` brings what they need, `just` itself included.

python := env("PYTHON", "python3")

# List the recipes.
default:
    @just --list --unsorted

# Run the daemon from this checkout; arguments are coild's.
run *args:
    {{ python }} -m coild {{ args }}

# Run the tests, two processes for each core; arguments are pytest's, in place of these.
test *args="-n auto --dist loadfile":
    {{ python }} -m pytest {{ args }}

# Check style, formatting and types. Warnings are errors.
lint:
    {{ python }} -m ruff check .
    {{ python }} -m ruff format --check .
    {{ python }} -m mypy

# Format the code and fix what can be fixed.
format:
    {{ python }} -m ruff format .
    {{ python }} -m ruff check --fix .

# Measure every promise about speed, one table, each row a ratio within this run. Needs wrk.
bench *args:
    @command -v wrk >/dev/null || { echo "just bench: wrk is missing; on Debian: apt-get install wrk" >&2; exit 1; }
    {{ python }} -m tests.bench {{ args }}

# Try to lose an event: crashes, errors, bit rot, kills, histories, fuzzing; a table. 10 minutes.
crash *args:
    {{ python }} -m tests.crash {{ args }}

# Five million operations on one daemon: memory, open files and p99 stay what they were. 15 minutes or more.
soak:
    COILD_CAMPAIGN=long {{ python }} -m pytest -q -s -p no:cacheprovider tests/campaign/test_soak.py

# Play a daemon's day on a scratch directory: who had it, replay, compact, verify. Under a minute.
demo:
    {{ python }} -m tests.demo

# Build the wheel into dist/.
wheel:
    {{ python }} -m pip wheel --quiet --no-deps --wheel-dir dist .

# What CI runs.
ci:
    .ci/run
