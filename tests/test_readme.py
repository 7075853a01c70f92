"""What the README says of configuration, API and rooms is what there is."""

# expected == actual

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import msgspec
import pytest

from coild.cli import main
from coild.config.layers import FileSettings, PoolSettings, Settings, kebab
from coild.http.errors import ERRORS
from coild.http.operations import OPERATIONS
from tests.kits.system.tool import TOOLS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONFIGURE = README.split("\n## Configure\n")[1].split("\n## ")[0]
(EXAMPLE,) = re.findall(r"^```toml\n(.*?)^```$", CONFIGURE, re.DOTALL | re.MULTILINE)


def keys(settings: type[msgspec.Struct]) -> set[str]:
    """The keys of the file that these settings have."""
    return {kebab(field) for field in settings.__struct_fields__}


def test_the_example_has_every_key_of_the_file() -> None:
    """A key of the file is in the README's example, and what is there is a key."""
    assert keys(FileSettings) == set(tomllib.loads(EXAMPLE))


def test_the_example_has_every_key_of_a_pool() -> None:
    """A key of a pool is in the README's example, and what is there is a key."""
    assert keys(PoolSettings) == set(tomllib.loads(EXAMPLE)["pools"]["default"])


def test_what_only_flags_say_is_named_beside_the_example() -> None:
    """The flags that are no keys of the file are in the same chapter."""
    only_flags = keys(Settings) - keys(FileSettings)

    assert only_flags == {key for key in only_flags if f"`--{key}" in CONFIGURE}


def test_the_example_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The example is a configuration that coild takes as it stands."""
    file = tmp_path / "coild.toml"
    file.write_text(EXAMPLE, encoding="utf-8")

    assert main(["--config", str(file), "--check-config"]) == 0
    assert "segment-size" in capsys.readouterr().out


PAGES = (
    "README.md",
    "coild/http/README.md",
    "journal/README.md",
    "tests/README.md",
    "tools/INSTALL.md",
    "tools/README.md",
)
INSIDE = README.split("\n## Inside\n")[1].split("\n## ")[0]


def test_the_table_names_the_rooms() -> None:
    """Each folder of the daemon and of the journal has its row, and what has a row is there."""
    named = set(re.findall(r"`((?:[a-z_]+/)+)`", INSIDE))
    rooms = {
        f"{path.parent.relative_to(ROOT)}/"
        for package in ("coild", "journal")
        for path in (ROOT / package).glob("*/__init__.py")
    }

    assert rooms <= named
    assert all((ROOT / name).is_dir() for name in named)


def test_the_table_names_the_requests() -> None:
    """Each operation has its row, and what has a row is an operation."""
    rows = README.split("\n## The API\n")[1].strip().split("\n\n")[0].splitlines()[2:]
    named = {
        (method, re.sub("<[a-z]+>", "<>", path))
        for row in rows
        for method, path in re.findall(r"`([A-Z]+) (/[^`]*)`", row)
    }

    assert named == {(each.method, re.sub("<[a-z]+>", "<>", each.path)) for each in OPERATIONS}, (
        "each request has its row in README.md, and the other way round"
    )


def test_the_table_of_statuses_has_all_errors() -> None:
    """Each status of an error has its row, and no other is there."""
    page = (ROOT / "coild" / "http" / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([0-9, ]+) \|", page, re.MULTILINE)

    assert {kind.status for kind in ERRORS.values()} == {
        int(status) for row in rows for status in row.split(",")
    }


def test_the_table_names_the_tools() -> None:
    """Each tool that reads a journal has its row, and what has a row is one."""
    chapter = README.split("\n## The audit trail\n")[1].split("\n## ")[0]

    assert set(re.findall(r"(?m)^\| `coild-([a-z]+)", chapter)) == TOOLS.keys(), (
        "each tool has its row in README.md, and the other way round"
    )


@pytest.mark.parametrize("page", PAGES)
def test_the_files_that_a_page_names_are_there(page: str) -> None:
    """A file or folder that a page names or links to is where it says."""
    text = (ROOT / page).read_text(encoding="utf-8")
    named = re.findall(r"`((?:coild|journal|tests|tools)/[a-z_/]*(?:\.[a-z]+)?)`", text)
    linked = re.findall(r"\]\(([a-zA-Z_/.]+)(?:#[^)]*)?\)", text)

    assert all((ROOT / name).exists() for name in named)
    assert all(((ROOT / page).parent / name).exists() for name in linked)


def test_links_lead_to_titles() -> None:
    """What a page links to on a page has such a title there."""
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        for file, title in re.findall(r"\]\(([a-zA-Z_/.]*)#([^)]*)\)", text):
            target = (ROOT / page).parent / file if file else ROOT / page
            titles = re.findall(r"^##+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)

            assert title in {
                re.sub(r"[^a-z0-9 -]", "", each.lower()).replace(" ", "-") for each in titles
            }
