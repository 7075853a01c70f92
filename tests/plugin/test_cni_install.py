"""`coild-ipam --install`: which interpreters it takes, and how the executable finds its library."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kits.daemon.process import TIMEOUT_SECONDS
from tests.kits.plugin.cni import Outcome, Plugin, install_plugin
from tools.cni.install import install

VERSION = {"CNI_COMMAND": "VERSION", "PATH": "/nowhere"}


def ask_version(executable: Path | str, cwd: Path | None = None, version: str = "1.0.0") -> Outcome:
    """Run VERSION as a runtime does."""
    done = subprocess.run(
        [executable],
        input=json.dumps({"cniVersion": version}).encode(),
        env=VERSION,
        cwd=cwd,
        capture_output=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    return Outcome(done.returncode, done.stdout, done.stderr.decode())


@pytest.mark.parametrize("form", ["absolute", "relative", "chain", "linked directory", "here"])
def test_the_plugin_runs_by_a_symlink(executable: Path, tmp_path: Path, form: str) -> None:
    """Through whatever links the executable is started, it finds the library beside itself."""
    link = tmp_path / "other-name"
    started, cwd = str(link), None
    if form == "absolute":
        link.symlink_to(executable)
    elif form == "relative":
        link.symlink_to(Path("../" * (len(tmp_path.parts) - 1) + str(executable)[1:]))
    elif form == "chain":
        (tmp_path / "first").symlink_to(executable)
        link.symlink_to("first")
    elif form == "linked directory":
        (tmp_path / "bin").symlink_to(executable.parent)
        link.symlink_to("bin/coild-ipam")
    else:
        link.symlink_to(executable)
        started, cwd = "./other-name", tmp_path

    outcome = ask_version(started, cwd)

    assert (0, "") == (outcome.status, outcome.stderr)
    assert outcome.answer["cniVersion"] == "1.0.0"


@pytest.mark.parametrize("form", ["copied", "linked copy", "emptied library"])
def test_without_its_library_the_plugin_answers_with_an_error(
    executable: Path, tmp_path: Path, form: str
) -> None:
    """The executable alone tells the runtime in JSON what is missing and what to run."""
    copy = tmp_path / "coild-ipam"
    shutil.copy(executable, copy)
    if form == "linked copy":
        (tmp_path / "link").symlink_to(copy)
        copy = tmp_path / "link"
    elif form == "emptied library":
        shutil.copytree(f"{executable}.lib", f"{copy}.lib")
        (package,) = Path(f"{copy}.lib").glob("*/tools/cni/main.py")
        package.unlink()

    outcome = ask_version(copy)

    assert outcome.code == 5
    assert outcome.answer["cniVersion"] == "1.0.0"
    assert f"{tmp_path}/" in outcome.answer["msg"]
    assert "coild-ipam --install" in outcome.answer["details"]


def test_without_its_library_every_configuration_gets_an_error(
    executable: Path, tmp_path: Path
) -> None:
    """What is no JSON, or of a version that is unknown, is answered in the newest version."""
    shutil.copy(executable, tmp_path)
    alone = Plugin(tmp_path / "coild-ipam", "", tmp_path)

    for stdin in (b"", b"[]", b"\xff", b'{"cniVersion": {}}', b'{"cniVersion": "9.9.9"}'):
        outcome = alone.execute(stdin, VERSION)

        assert outcome.code == 5
        assert outcome.answer["cniVersion"] == "1.1.0"


@pytest.mark.parametrize(
    ("name", "script", "said"),
    [
        ("missing", None, "No such file or directory"),
        ("data", "", "Permission denied"),
        ("other", "#!/bin/sh\necho 3 11\n", "is no Python"),
        ("failing", "#!/bin/sh\nexit 3\n", "is no Python"),
        ("old", "#!/bin/sh\necho python 3 8\n", "is Python 3.8, and the plugin needs 3.9"),
    ],
)
def test_an_interpreter_that_does_not_run_the_plugin(
    tmp_path: Path, name: str, script: str | None, said: str
) -> None:
    """`--install --python` of it fails, says why, and writes nothing; `--unchecked` takes it."""
    python = tmp_path / name
    if script is not None:
        python.write_text(script)
        python.chmod(0o755 if script else 0o644)
    directory = tmp_path / "bin"

    refused = install_plugin(directory, "--python", str(python))

    assert (1, "") == (refused.returncode, refused.stdout)
    assert f"{python} " in refused.stderr
    assert said in refused.stderr
    assert "--unchecked" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert not directory.exists()

    taken = install_plugin(directory, "--python", str(python), "--unchecked")

    assert taken.returncode == 0, taken.stderr
    assert (directory / "coild-ipam").read_text().startswith(f"#!{python} -IS\n")


def test_an_empty_interpreter_is_none(tmp_path: Path) -> None:
    """`--python ''` is not the default interpreter: a variable in a script was empty."""
    refused = install_plugin(tmp_path / "bin", "--python", "")

    assert refused.returncode == 1
    assert "absolute path" in refused.stderr


@pytest.mark.parametrize("what", ["huge", "pipe"])
def test_what_is_no_plugin_is_replaced(tmp_path: Path, what: str) -> None:
    """Whatever has the executable's name is replaced; it is neither read whole nor waited for."""
    executable = tmp_path / "coild-ipam"
    if what == "huge":
        executable.touch()
        os.truncate(executable, 60 << 30)
    else:
        os.mkfifo(executable)
    _, first = install(tmp_path, sys.executable)
    module = next((tmp_path / "coild-ipam.lib").rglob("releases.py"))
    os.truncate(module, 60 << 30)
    _, second = install(tmp_path, sys.executable)
    _, third = install(tmp_path, sys.executable)

    assert first[0].startswith("installed ")
    assert second[0].startswith("installed ")
    assert third == [f"{executable} is up to date"]
    assert "1.0.0" == ask_version(executable).answer["cniVersion"]
