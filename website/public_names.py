"""The reference of the Python interface: one heading a public name, which mkdocstrings fills from its docstring."""

INTRODUCTION = """\
# Python

Every public name, with its signature and what it does. [From Python](../python.md) says which one you want, and
[Surgery](../surgery.md) shows them at work.

```python
import unnorm

help(unnorm.swap_)
```

"""

MODULES = {"unnorm.data.repair": ["repair_file", "repaired_records", "Repaired", "MAX_RECORD"]}
"""Public names outside `unnorm` itself."""


def public_names() -> str:
    """The page."""
    import unnorm

    names = [f"unnorm.{name}" for name in unnorm.__all__ if not name.startswith("__")]
    names += [f"{module}.{name}" for module, inside in MODULES.items() for name in inside]
    return INTRODUCTION + "\n".join(f"::: {name}\n" for name in names)
