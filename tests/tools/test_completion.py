"""`--print-completion`: a script that a shell can use, of the daemon and of every tool."""

# expected == actual

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.kits.daemon.process import ROOT, ended, run
from tests.kits.system.tool import TOOLS

MODULES = {
    "coild": "coild",
    **{f"coild-{name}": module.removesuffix(".cli") for name, module in TOOLS.items()},
}


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in this environment."""
    return ended([sys.executable, "-W", "error", *arguments], cwd=ROOT)


@pytest.mark.parametrize("name", MODULES)
def test_bash_completes_an_option(name: str) -> None:
    """What bash makes of the script knows the command's options."""
    script = python("-m", MODULES[name], "--print-completion", "bash")
    function = "_shtab_" + name.replace("-", "_")
    asked = f"COMP_WORDS=({name} --dat); COMP_CWORD=1; {function}; echo ${{COMPREPLY[@]}}"
    done = ended(["bash", "-c", f"{script.stdout}\n{asked}"])

    assert (0, "") == (script.returncode, script.stderr)
    assert ("--data-dir\n", "") == (done.stdout, done.stderr)


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_the_daemon_prints_it_and_does_nothing_else(shell: str) -> None:
    """Whatever else is configured, right or wrong."""
    done = run("--print-completion", shell, COILD_SCAN_INTERVAL="soon")

    assert (0, "") == (done.returncode, done.stderr)
    assert "check-config" in done.stdout


def test_a_shell_that_is_none() -> None:
    """One line, and the shells that there are."""
    done = run("--print-completion", "fish")

    assert (2, "", 1) == (done.returncode, done.stdout, done.stderr.count("\n"))
    assert "'bash', 'zsh', 'tcsh'" in done.stderr


def test_nobody_else_pays_for_it() -> None:
    """What makes the script is imported only when it is asked for."""
    look = "import sys; from coild.cli import main; main(['--check-config']); print(*sys.modules)"

    assert "shtab" not in python("-c", look).stdout.split()
