"""The journal under a coverage-guided fuzzer: libFuzzer, as Atheris brings it to Python.

    python -m tests.crash.damage.fuzz --seconds 90          look for inputs that a target fails on
    python -m tests.crash.damage.fuzz --seconds 600 --keep  and keep those that reach something new

Inputs that reach new parts of the code are kept in `tests/corpus`, in a folder for each target and
by whether checksums are mended. The tests feed them to the targets, without the fuzzer.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[3]
CORPUS = ROOT / "tests" / "corpus"
SECONDS = 90.0
#: No input needs more than the largest file of the journal that is edited, compressed.
INPUT_BYTES_MAX = 2048
#: A target takes milliseconds, and a journal of a hundred kilobytes little memory.
TARGET_SECONDS_MAX = 5
MEMORY_MIB_MAX = 512

_STATISTIC = re.compile(r"^stat::(\w+):\s+(\d+)$", re.MULTILINE)
_COVERED = re.compile(r"cov: (\d+)")


class Fuzzed(NamedTuple):
    """The result of a fuzzer: the number of inputs, and the edges of the code that they reached."""

    inputs: int
    covered: int
    memory_mib: int
    #: Of the inputs that reached something new: how many, by target and whether it took them.
    corpus: Counter[tuple[str, bool]]
    failures: list[str]

    def table(self) -> list[tuple[str, int, int]]:
        """Rows of target, inputs that reached something new and were accepted, and refused."""
        names = sorted({name for name, _ in self.corpus})
        return [(name, self.corpus[name, True], self.corpus[name, False]) for name in names]


def available() -> bool:
    """Whether this machine has the fuzzer, which comes for some kinds of them only."""
    return importlib.util.find_spec("atheris") is not None


def fuzz(seconds: float, jobs: int = 1, *, keep: bool = False) -> Fuzzed:
    """Fuzz in so many processes for so long, from the corpus on; `keep` what reaches more."""
    from tests.crash.damage.fuzz_targets import seeds  # noqa: PLC0415 - not in the fuzzer's own process

    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        found = directory / "found"
        found.mkdir()
        _put(found, seeds())
        fuzzers = [_start(directory, seconds, seed, [found, CORPUS]) for seed in range(1, jobs + 1)]
        outputs = [fuzzer.communicate()[0] for fuzzer in fuzzers]
        failures = [
            _failure(output, directory)
            for fuzzer, output in zip(fuzzers, outputs, strict=True)
            if fuzzer.returncode
        ]
        if keep and not failures:
            _keep(directory, found)
        inputs, memory = _statistics(outputs)
        covered = max((int(edges) for it in outputs for edges in _COVERED.findall(it)), default=0)
        return Fuzzed(inputs, covered, memory, replay(_files(found)), failures)


def replay(inputs: Iterable[bytes]) -> Counter[tuple[str, bool]]:
    """Feed inputs to their targets; how many were accepted and refused. Raises other errors."""
    from tests.crash.damage.fuzz_targets import check  # noqa: PLC0415 - as above

    return Counter(map(check, inputs))


def corpus() -> list[bytes]:
    """The inputs that are kept."""
    return _files(CORPUS)


def corpus_folder(data: bytes) -> Path:
    """Where an input is kept."""
    from tests.crash.damage.fuzz_targets import addressed  # noqa: PLC0415 - as above
    from tests.crash.damage.mending import CHECKSUM  # noqa: PLC0415 - as above

    name, mend = addressed(data)
    return CORPUS / name / ("mended" if mend & CHECKSUM else "as_they_are")


def _files(directory: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()]


def _put(directory: Path, inputs: Iterable[bytes]) -> None:
    for data in inputs:
        (directory / hashlib.sha1(data, usedforsecurity=False).hexdigest()).write_bytes(data)


def _start(
    directory: Path, seconds: float, seed: int, corpora: list[Path], *flags: str
) -> subprocess.Popen[str]:
    CORPUS.mkdir(exist_ok=True)
    # A merge starts its own name again, as a command of a shell.
    itself = directory / "fuzzer"
    if not itself.exists():
        module = "tests.crash.damage.fuzz"
        python = shlex.join([sys.executable, "-m", module, "--target", str(itself)])
        itself.write_text(f'#!/bin/sh\nexec {python} "$@"\n')
        itself.chmod(0o700)
    command = [
        str(itself),
        *(f"-seed={seed}", f"-max_total_time={max(1, round(seconds))}"),
        *(f"-timeout={TARGET_SECONDS_MAX}", f"-rss_limit_mb={MEMORY_MIB_MAX}"),
        *(f"-max_len={INPUT_BYTES_MAX}", "-len_control=0", "-reload=1", "-print_final_stats=1"),
        *(f"-artifact_prefix={directory}/bad-", *flags, *map(str, corpora)),
    ]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    return subprocess.Popen(
        command,
        cwd=directory,
        env=environment,
        text=True,
        errors="replace",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def _statistics(outputs: list[str]) -> tuple[int, int]:
    """How many inputs were run, and the most memory that a process had."""
    found = [dict(_STATISTIC.findall(output)) for output in outputs]
    inputs = sum(int(it.get("number_of_executed_units", 0)) for it in found)
    return inputs, max((int(it.get("peak_rss_mb", 0)) for it in found), default=0)


def _failure(output: str, directory: Path) -> str:
    """The fuzzer's message, and the input that failed."""
    bad = [f"{path.name}: {path.read_bytes().hex()}" for path in directory.glob("bad-*")]
    return "\n".join([*output.splitlines()[-40:], *bad])


def _keep(directory: Path, found: Path) -> None:
    """Make the corpus the smallest set of inputs that reaches all that was reached."""
    kept = directory / "kept"
    kept.mkdir()
    # By edges, not by how often each was passed: a fifth of the files.
    flags = ["-set_cover_merge=1", "-use_counters=0"]
    merge = _start(directory, 600, 1, [kept, CORPUS, found], *flags)
    output = merge.communicate()[0]
    if merge.returncode or not any(kept.iterdir()):
        raise RuntimeError(output)
    shutil.rmtree(CORPUS)
    for data in _files(kept):
        folder = corpus_folder(data)
        folder.mkdir(parents=True, exist_ok=True)
        _put(folder, [data])


def _run_target(arguments: list[str]) -> None:
    """Be the fuzzer, with its name and flags. Never returns."""
    atheris = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["journal"]):
        from tests.crash.damage.fuzz_targets import check  # noqa: PLC0415 - what is to be instrumented
    atheris.Setup(arguments, check)
    atheris.Fuzz()


def main(argv: list[str] | None = None) -> int:
    """Fuzz, and report the result; 0 if nothing failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash.damage.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="how long (%(default)s)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many processes")
    parser.add_argument("--keep", action="store_true", help="keep what reaches something new")
    options = parser.parse_args(argv)
    fuzzed = fuzz(options.seconds, options.jobs, keep=options.keep)
    sys.stdout.write("target  new and accepted  new and refused\n")
    for name, accepted, refused in fuzzed.table():
        sys.stdout.write(f"{name}  {accepted:,}  {refused:,}\n")
    sys.stdout.write(
        f"{fuzzed.inputs:,} inputs, {fuzzed.covered:,} edges, {fuzzed.memory_mib} MiB at most\n"
    )
    for failure in fuzzed.failures:
        sys.stdout.write(f"\n{failure}\n")
    return 1 if fuzzed.failures else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--target"]:
        _run_target(sys.argv[2:])
    sys.exit(main())
