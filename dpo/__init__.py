"""Preference tuning. A file here is a command, a folder is a part; `loss.py` is why one came."""

import os
import sys

# A notebook's kernel says with this variable that figures are shown in cells. Programs draw into
# files, whatever a notebook or a desktop has handed down; an unknown name would end them.
if "ipykernel" not in sys.modules:
    os.environ.pop("MPLBACKEND", None)
