"""``python -m tests.toy ARGUMENTS``: the command ``zoo`` with the toy.

``TOY_KILL_AT=N:FOLDER`` kills the first process at its n-th file operation below a folder.
"""

from __future__ import annotations

import os

from tests.toy import kill_at, registered
from zoo.cli import main

with registered():
    moment = os.environ.get("TOY_KILL_AT")
    if moment and os.environ.get("LOCAL_RANK", "0") == "0":
        number, _, folder = moment.partition(":")
        kill_at(int(number), folder)
    main()
