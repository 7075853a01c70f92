"""tqdm, which draws progress bars, as our programs use it."""

from __future__ import annotations

import os

# It takes its defaults from TQDM_… once, here, and fails if one is not of its type. They are the
# user's for other programs: our bars are as they are.
_set = {name: os.environ.pop(name) for name in [*os.environ] if name.startswith("TQDM_")}
try:
    from tqdm import tqdm
finally:
    os.environ.update(_set)

__all__ = ["tqdm"]

# Its thread would watch over a bar that is long gone, for as long as the program runs.
tqdm.monitor_interval = 0
