"""
The commands of `proformer`.

Each module has `KINDS`, the dataclasses of its options, and `run`, which takes one of each.
"""
