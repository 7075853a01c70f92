"""`coild-ipam --install`: installs the executable and its library into a directory.

    DIR/coild-ipam                      a few lines that import from the library that they name
    DIR/coild-ipam.lib/VERSION-XXXXXX/  the modules, compiled

Python compiles a script at each start, but not modules. The executable is renamed into place
last, and names its own library, which is never changed: a plugin that runs meanwhile goes on
with the library that it began with, which a later installation removes.
"""

from __future__ import annotations

import os
import py_compile
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from coild import __version__
from tools.cni.config import VERSIONS
from tools.cni.errors import IO_FAILURE
from tools.cni.files import read_regular

NAME = "coild-ipam"
LIBRARY = f"{NAME}.lib"
#: Where runtimes look for plugins unless told otherwise.
DIRECTORY = Path("/opt/cni/bin")

#: The modules of this project that the executable may import.
_MODULES = (
    "coild/__init__.py",
    "coild/config/parser.py",
    "coild/spool/releases.py",
    "coild/spool/entries.py",
    "coild/spool/files.py",
    "tools/__init__.py",
)
_ROOT = Path(__file__).parent.parent.parent
#: A plugin runs for 300 s at most, so none uses a library that was superseded longer ago.
_SUPERSEDED_SECONDS = 3600
#: The length of the first line that a kernel before 5.1 reads.
_FIRST_LINE_BYTES_MAX = 127
_PROBE_SECONDS = 30
#: Many times the size of the executable of any version.
_EXECUTABLE_BYTES_MAX = 1 << 16
#: The oldest Python that runs the plugin.
_PYTHON_MIN = (3, 9)

_EXECUTABLE = """\
#!{python} -IS
# {name} {version}, a CNI IPAM plugin: see {name} --help. Written by {name} --install.
import sys
from posix import environ, readlink

path = __file__
try:
    for _ in range(40):  # as many links as the kernel follows
        target = readlink(path)
        path = target if target[:1] == "/" else path[: path.rfind("/") + 1] + target
except OSError:
    pass  # no link: the executable itself
library = (path[: path.rfind("/") + 1] or ".") + "/{library}/{build}"
sys.path.insert(0, library)
try:
    from tools.cni.main import main
except Exception as error:
    import json
    version = ""
    try:
        if environ.get(b"CNI_COMMAND"):
            version = json.loads(sys.stdin.buffer.read(1 << 26))["cniVersion"]
    except Exception:
        pass
    answer = {{
        "cniVersion": version if version in {versions} else "{newest}",
        "code": {code},
        "msg": f"{name} cannot load its library {{library}}: {{type(error).__name__}}: {{error}}",
        "details": "install the plugin, do not copy it: run coild's own `{name} --install`",
    }}
    print(json.dumps(answer))
    sys.exit(1)
main()
"""

_VERSION_OF = "import sys; print('python', *sys.version_info[:2])"

_COMPILE = """\
import py_compile, sys
mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
for path in sys.argv[1:]: py_compile.compile(path, doraise=True, invalidation_mode=mode)
"""


class InstallError(Exception):
    """The plugin cannot be installed; one line that says why and what to do."""


def default_python() -> str:
    """The interpreter of this process itself, not of its virtual environment.

    If it is also named `python3`, by that name: after the next upgrade of the system's Python,
    `python3.11` may be gone.
    """
    python = os.path.realpath(getattr(sys, "_base_executable", "") or sys.executable)
    plain = str(Path(python).with_name("python3"))
    return plain if os.path.realpath(plain) == python else python


def install(directory: Path, python: str, *, unchecked: bool = False) -> tuple[Path, list[str]]:
    """Install the plugin, unless exactly this is installed; the executable, and notices.

    `unchecked` takes an interpreter that is not here, but where the plugin runs. Raises
    InstallError, before anything is written if it is for the interpreter.
    """
    first = f"#!{python} -IS\n".encode()
    if not python.startswith("/") or python.split() != [python]:
        raise InstallError(f"{python!r} is no absolute path without spaces, as a first line needs")
    if len(first) > _FIRST_LINE_BYTES_MAX:
        raise InstallError(f"{python!r} is too long for the first line of an executable")
    if not unchecked:
        _check_python(python)
    sources = _sources()
    executable = directory / NAME
    try:
        before = _build_of(executable)
        if before and _is_installed(directory, before, python, sources):
            return executable, [f"{executable} is up to date"]
        directory.mkdir(parents=True, exist_ok=True)
        (directory / LIBRARY).mkdir(exist_ok=True)
        build = Path(tempfile.mkdtemp(prefix=f"{__version__}-", dir=directory / LIBRARY))
        try:
            notices = _write_library(build, sources, python)
            if before and (directory / LIBRARY / before).is_dir():
                # Its age counts from now on.
                os.utime(directory / LIBRARY / before)
            _publish(executable, _text(python, build.name))
        except BaseException:
            shutil.rmtree(build, ignore_errors=True)
            raise
        _remove_superseded(directory / LIBRARY, {build.name, before})
    except OSError as error:
        where = error.filename or directory
        raise InstallError(f"{where}: {error.strerror or error}") from None
    return executable, [f"installed {executable}, version {__version__}", *notices]


def _check_python(python: str) -> None:
    """Raise InstallError unless it is an interpreter that runs the plugin."""
    command = [python, "-IS", "-c", _VERSION_OF]
    elsewhere = "name another with --python, or add --unchecked if it is one where the plugin runs"
    try:
        ran = subprocess.run(  # noqa: S603 - as asked for
            command,
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PROBE_SECONDS,
        )
    except OSError as error:
        raise InstallError(f"{python} cannot be run: {error.strerror}; {elsewhere}") from None
    except subprocess.TimeoutExpired:
        raise InstallError(
            f"{python} did not say its version within {_PROBE_SECONDS} s; {elsewhere}"
        ) from None
    word, *numbers = ran.stdout.split()[:3] or [b""]
    if ran.returncode or word != b"python" or len(numbers) != len(_PYTHON_MIN):
        raise InstallError(f"{python} is no Python; {elsewhere}")
    if tuple(map(int, numbers)) < _PYTHON_MIN:
        found, needed = b".".join(numbers).decode(), ".".join(map(str, _PYTHON_MIN))
        raise InstallError(
            f"{python} is Python {found}, and the plugin needs {needed}; {elsewhere}"
        )


def _sources() -> dict[str, bytes]:
    """The files of the library."""
    package = [f"tools/cni/{path.name}" for path in sorted((_ROOT / "tools/cni").glob("*.py"))]
    try:
        return {name: (_ROOT / name).read_bytes() for name in (*_MODULES, *package)}
    except OSError as error:
        raise InstallError(f"{error.filename}: {error.strerror}") from None


def _text(python: str, build: str) -> bytes:
    return _EXECUTABLE.format(
        python=python,
        name=NAME,
        version=__version__,
        library=LIBRARY,
        build=build,
        versions=VERSIONS,
        newest=VERSIONS[-1],
        code=IO_FAILURE,
    ).encode()


def _build_of(executable: Path) -> str:
    """The build of the installed library; empty if there is none."""
    try:
        text = read_regular(str(executable), _EXECUTABLE_BYTES_MAX).decode(errors="replace")
    except (FileNotFoundError, ValueError):
        return ""
    name = text.partition(f"/{LIBRARY}/")[2].partition('"')[0]
    return "" if "/" in name else name


def _is_installed(directory: Path, build: str, python: str, sources: dict[str, bytes]) -> bool:
    library = directory / LIBRARY / build
    if not _has(directory / NAME, _text(python, build)):
        return False
    if not (directory / NAME).stat().st_mode & stat.S_IXOTH:
        return False
    found = {str(path.relative_to(library)) for path in library.rglob("*.py")}
    return found == set(sources) and all(
        _has(library / name, content) for name, content in sources.items()
    )


def _has(path: Path, content: bytes) -> bool:
    """Whether a file has exactly this content."""
    try:
        return read_regular(str(path), len(content)) == content
    except ValueError:
        return False


def _write_library(build: Path, sources: dict[str, bytes], python: str) -> list[str]:
    """Write and compile the library, durably; notices."""
    # Like the other plugins, it may be read by every user.
    build.chmod(0o755)
    paths = [build / name for name in sources]
    for name, content in sources.items():
        path = build / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    notices = _compile(paths, python)
    for path in sorted(build.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
        _sync(path)
    for directory in (build, build.parent):
        _sync(directory)
    return notices


def _compile(paths: list[Path], python: str) -> list[str]:
    """Compile with the interpreter that will run it, which may not be on this machine."""
    if os.path.realpath(python) == os.path.realpath(default_python()):
        for path in paths:
            mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
            py_compile.compile(str(path), doraise=True, invalidation_mode=mode)
        return []
    command = [python, "-IS", "-c", _COMPILE, *map(str, paths)]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=_PROBE_SECONDS)  # noqa: S603 - as asked for
    except (OSError, subprocess.SubprocessError):
        return [f"{python} does not run here: the plugin is compiled when it first runs"]
    return []


def _publish(executable: Path, text: bytes) -> None:
    """Put the executable in place, atomically and durably."""
    fd, name = tempfile.mkstemp(prefix=f".{NAME}-", dir=executable.parent)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(text)
            file.flush()
            os.fchmod(fd, 0o755)
            os.fsync(fd)
        Path(name).replace(executable)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    _sync(executable.parent)


def _remove_superseded(library: Path, kept: set[str]) -> None:
    """Remove the libraries that no running plugin can use."""
    for path in library.iterdir():
        if path.name not in kept and path.stat().st_mtime < time.time() - _SUPERSEDED_SECONDS:
            shutil.rmtree(path, ignore_errors=True)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
