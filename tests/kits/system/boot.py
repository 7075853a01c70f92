"""A proc file system of files, as far as it tells of a boot."""

from __future__ import annotations

import uuid
from pathlib import Path


class FakeProc:
    """A node whose boots the test makes; `coild --proc` is given its path."""

    def __init__(self, path: Path, boot_id: str = "", ticks: int = 3) -> None:
        self.path = path
        (path / "1").mkdir(parents=True)
        (path / "sys/kernel/random").mkdir(parents=True)
        # As for a process of that PID namespace.
        (path / "self").symlink_to("4242")
        self.set(boot_id=boot_id or str(uuid.uuid4()), ticks=ticks)

    def set(self, *, boot_id: str | None = None, ticks: int | None = None) -> None:
        """Change what is seen."""
        if boot_id is not None:
            (self.path / "sys/kernel/random/boot_id").write_text(f"{boot_id}\n")
        if ticks is not None:
            self.ticks = ticks
            fields = ["S", *["0"] * 18, str(ticks), *["0"] * 30]
            (self.path / "1/stat").write_text(f"1 (in) (it 7) {' '.join(fields)}\n")

    def other_id(self) -> None:
        """Another boot ID is seen, and the same PID 1."""
        self.set(boot_id=str(uuid.uuid4()))

    def other_init(self) -> None:
        """Another PID 1 is seen, and the same boot ID."""
        self.set(ticks=self.ticks + 1)

    def boot(self) -> None:
        """The node boots."""
        self.other_id()
        self.other_init()
