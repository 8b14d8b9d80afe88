"""Damaged JSON in, clean records out, with an account of every byte.

    stream -> engine (between, grammar; broken: mend, strings, overrun, content) -> files (table)

`stream` gives text, `engine` goes over it once, `files` writes what it finds; `knowledge` is what
healthy records teach.
"""

from unnorm.data.repair.files import MAX_RECORD, Repaired, repair_file, repaired_records

__all__ = ["MAX_RECORD", "Repaired", "repair_file", "repaired_records"]
