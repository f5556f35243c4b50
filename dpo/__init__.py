"""Preference tuning. A file here is a command, a folder is a part; `loss.py` is why one came."""
