"""Plain values into pydantic models. What is wrong with them is said in plain words, at the place where it stands.

pydantic's own words ("Input should be a valid list") and its names for the branches of a union reach nobody.
"""

from collections.abc import Iterator, Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from unnorm.foundation.nearest import did_you_mean
from unnorm.foundation.terminal import shorten

M = TypeVar("M", bound=BaseModel)
Location = tuple[int | str, ...]
"""Keys and indices from the root down."""

_MUST_BE = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing_size": "a whole number of fewer digits",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "string_unicode": "text that can be written in UTF-8",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping of keys to values",
    "mapping_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
    "model_attributes_type": "a mapping of keys to values",
    "none_required": "left out",
    "greater_than": "above {gt}",
    "greater_than_equal": "{ge} or more",
    "less_than": "below {lt}",
    "less_than_equal": "{le} or less",
    "string_too_short": "text of {min_length} or more characters",
    "string_too_long": "text of at most {max_length} characters",
}
_ENTRIES = {
    "too_short": "{min_length} or more entries, not {actual_length}",
    "too_long": "at most {max_length} entries",
}


class Misplaced(Exception):
    """Something is wrong with a value: `location` says where it stands, for whoever knows what that is called."""

    def __init__(self, message: str, *location: int | str) -> None:
        super().__init__(message)
        self.location: Location = location


def validated(kind: type[M], content: Any) -> M:
    """`content` as a `kind`. The first thing that is wrong with it is a `Misplaced`, without a full stop at its end.

    pydantic takes true for 1; here a number must be one.
    """
    try:
        made = kind.model_validate(content)
    except ValidationError as error:
        raise in_plain_words(error, kind, content) from error
    _refuse_truth_for_numbers(content, made, ())
    return made


def in_plain_words(error: ValidationError, kind: type[BaseModel], content: Any) -> Misplaced:
    """What pydantic found wrong with `content` first, when it was to become a `kind`."""
    found = _mistyped_first(error.errors(include_url=False))
    first, _ = _followed(found[0]["loc"], content)
    # a union has an error a branch: the ones that got deepest into the value know best what is wrong with it
    rivals = [(_place(each, content), each) for each in found if each["loc"][: len(first)] == first]
    deepest = max(len(place) for place, _ in rivals)
    place = next(place for place, _ in rivals if len(place) == deepest)
    here = [each for other, each in rivals if other == place]
    telling = [each for each in here if not each["type"].endswith("_type") and each["type"] != "literal_error"]
    return Misplaced(_words(telling or here, kind, place), *place)


def _mistyped_first(found: list[Any]) -> list[Any]:
    """The errors, but where the first is a missing key and another key beside it looks like it, that one first."""
    wanted = found[0]["loc"]
    if found[0]["type"] == "missing":
        for each in found:
            beside = each["type"] == "extra_forbidden" and each["loc"][:-1] == wanted[:-1]
            if beside and did_you_mean(str(each["loc"][-1]), [str(wanted[-1])]):
                return [each, *(other for other in found if other is not each)]
    return found


def sentence(error: object) -> str:
    """An error's message with a full stop, unless it ends in a sentence's mark already."""
    text = str(error)
    return text if text.endswith((".", "?", "!")) else text + "."


def dotted(location: Location) -> str:
    """A location as people write it."""
    return ".".join(map(str, location))


def shown(value: object) -> str:
    """A value, as a message quotes it: short, on one line, and safe to print."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple | set | frozenset):
        return "a list"
    try:
        return shorten(repr(value) if isinstance(value, str | bytes | int | float) else str(value), 60)
    except ValueError:  # Python does not write out integers of over 4,300 digits
        return "a number of thousands of digits"


def _words(errors: Sequence[Any], kind: type[BaseModel], place: Location) -> str:
    """One sentence for the errors at one place."""
    first = errors[0]
    if first["type"] == "missing":
        return "this key is missing"
    if first["type"] in ("extra_forbidden", "invalid_key"):
        known = list(_fields_at(kind, place[:-1]))
        hint = did_you_mean(str(place[-1]), known) or (f" There are: {', '.join(known)}" if known else "")
        return f"there is no such key.{hint}"
    if first["type"] == "value_error":
        return str(first["ctx"]["error"])
    if first["type"] in _ENTRIES:
        return f"must have {_ENTRIES[first['type']].format(**first['ctx'])}"
    wanted = list(dict.fromkeys(_wanted(each, kind, place) for each in errors))
    choices = [choice for each in errors for choice in _choices(each)]
    hint = did_you_mean(first["input"], choices)
    if wanted == ["text"] and isinstance(first["input"], bool | int | float):
        hint = " Put it in quotes"
    said = f"must be {' or '.join(wanted)}, not {shown(first['input'])}"
    return f"{said}.{hint}" if hint else said


def _wanted(error: Any, kind: type[BaseModel], place: Location) -> str:
    if choices := _choices(error):
        return f"one of {', '.join(choices)}" if len(choices) > 1 else choices[0]
    if error["type"] == "string_pattern_mismatch":
        field = _fields_at(kind, place[:-1]).get(str(place[-1])) if place else None
        return (field.description if field else None) or f"text that matches {error['ctx']['pattern']}"
    if error["type"] in _MUST_BE:
        return _MUST_BE[error["type"]].format(**{key: _number(value) for key, value in error.get("ctx", {}).items()})
    return str(error["msg"]).removeprefix("Input should be ")


def _number(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _choices(error: Any) -> list[str]:
    """The words of which one is wanted."""
    if error["type"] != "literal_error":
        return []
    return [each.strip().strip("'") for each in error["ctx"]["expected"].replace(" or ", ", ").split(", ")]


def _place(error: Any, content: Any) -> Location:
    _, place = _followed(error["loc"], content)
    return (*place, error["loc"][-1]) if error["type"] == "missing" else place


def _followed(location: Location, content: Any) -> tuple[Location, Location]:
    """(the part of pydantic's location before the first name of a branch, keys and indices that `content` has)."""
    place: list[int | str] = []
    before: Location | None = None
    for number, part in enumerate(location):
        if isinstance(content, Mapping):
            key = next((key for key in content if str(key) == str(part)), None)
            if key is not None or (None in content and part == "None"):
                content = content[key]
                place.append(part)
                continue
        elif isinstance(content, list | tuple) and isinstance(part, int) and part < len(content):
            content = content[part]
            place.append(part)
            continue
        before = location[:number] if before is None else before
    return location if before is None else before, tuple(place)


def _fields_at(kind: type[BaseModel], location: Location) -> dict[str, FieldInfo]:
    """The keys that a mapping at `location` may have, as far as they are known."""
    kinds: list[Any] = [kind]
    for part in location:
        kinds = [inner for each in kinds for inner in _inside(each, part)]
    models = [each for each in kinds if isinstance(each, type) and issubclass(each, BaseModel)]
    return {name: field for model in models for name, field in model.model_fields.items()}


def _inside(kind: Any, part: int | str) -> Iterator[Any]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        field = kind.model_fields.get(str(part))
        if field is not None:
            yield from _branches(field.annotation)
    elif get_origin(kind) in (list, tuple, dict):
        yield from _branches(get_args(kind)[-1 if get_origin(kind) is dict else 0])


def _branches(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) is Annotated:
        yield from _branches(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, UnionType):
        for each in get_args(annotation):
            yield from _branches(each)
    else:
        yield annotation


def _refuse_truth_for_numbers(value: Any, made: Any, location: Location) -> None:
    if isinstance(value, bool) and isinstance(made, int | float) and not isinstance(made, bool):
        raise Misplaced(f"must be a number, not {shown(value)}", *location)
    if isinstance(value, Mapping):
        for key, part in value.items():
            other = getattr(made, str(key), None) if isinstance(made, BaseModel) else None
            other = made.get(key) if isinstance(made, Mapping) else other
            _refuse_truth_for_numbers(part, other, (*location, key))
    elif isinstance(value, list | tuple) and isinstance(made, list | tuple):
        for number, (part, other) in enumerate(zip(value, made, strict=False)):
            _refuse_truth_for_numbers(part, other, (*location, number))
