# SPDX-License-Identifier: MIT
"""The round of incremental backups that the manual page of qcow2ctl has as a script."""

import os
import re

from . import run
from .tap import check

PAGE = os.path.join(os.environ.get("QCOW2FS_SRCDIR", run.SOURCE), "docs", "qcow2ctl.1")


def script():
    """The functions of the manual page, as somebody would copy them."""
    with open(PAGE, encoding="utf-8") as file:
        found = re.search(r'BEGIN ROUND\n(.*?)\.\\" END ROUND', file.read(), re.DOTALL)
    check(found is not None, "the page has no round")
    examples = "".join(re.findall(r"\.EX\n(.*?)\.EE\n", found.group(1), re.DOTALL))
    return examples.replace("\\-", "-").replace("\\e", "\\").replace("\\(aq", "'")
