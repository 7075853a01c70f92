"""The limit of open files (RLIMIT_NOFILE) that a program of ours needs at the least."""

from __future__ import annotations

import resource

#: Those of a start or a compaction are about 25; the rest is for connections, or to spare.
FILES_MIN = 64


def shortage() -> str:
    """Why too few files may be open, and what to do; empty if it is enough.

    A limit that this process itself may raise is raised to what is needed.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= FILES_MIN:
        return ""
    if hard == resource.RLIM_INFINITY or hard >= FILES_MIN:
        resource.setrlimit(resource.RLIMIT_NOFILE, (FILES_MIN, hard))
        return ""
    return (
        f"only {hard} files may be open, and {FILES_MIN} are needed: raise the limit (ulimit -n, "
        "or LimitNOFILE of the service)"
    )
