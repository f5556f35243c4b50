"""Measurements that take minutes; nothing here is needed to train."""
