"""Whether requests that change something are carried out."""

from __future__ import annotations


class WriteGate:
    """Shut while the daemon must not change anything; questions are answered all the same."""

    #: Why it is shut, in the words of the disk's error; empty while it is open.
    reason = ""
