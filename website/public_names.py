"""The reference of the Python interface: one heading a public name, which mkdocstrings fills from its docstring.

Names and their order are those of `docs/python.md`. Behind a class of settings stands a table of them.
"""

import re
from pathlib import Path
from typing import Any

from schema_table import table

NAMES = Path(__file__).parents[1] / "docs" / "python.md"
INTRODUCTION = """\
# Python

Every public name, with its signature and what it does. [From Python](../python.md) says which one you want, and
[Swap and fit norms](../surgery.md) shows them at work.

```python
import unnorm

help(unnorm.swap_)
```

"""
ALSO = ["repair_file", "repaired_records", "Repaired", "MAX_RECORD"]
"""Public names of `unnorm.data.repair`."""


def public_names() -> str:
    """The page."""
    rows = re.findall(r"^\| (`.*?) \|", NAMES.read_text(), re.MULTILINE)
    names = [name for row in rows for name in re.findall(r"`(\w+)`", row) if not name.startswith("__")]
    parts = [f"::: unnorm.{name}\n\n{_settings(name)}" for name in names]
    return INTRODUCTION + "\n".join(parts + [f"::: unnorm.data.repair.{name}\n" for name in ALSO])


def _settings(name: str) -> str:
    """A table of what can be set, where that is not in the signature; else nothing."""
    from pydantic import BaseModel

    import unnorm
    from unnorm.tuning.recover_settings import RecoverSettings

    named: Any = RecoverSettings if name == "recover_" else getattr(unnorm, name)
    if not (isinstance(named, type) and issubclass(named, BaseModel) and named.model_fields):
        return ""
    words = "Other settings:" if name == "recover_" else "Settings:"
    return f"{words}\n\n{table(named.model_json_schema(), lambda part: f'`{part}`')}\n"
