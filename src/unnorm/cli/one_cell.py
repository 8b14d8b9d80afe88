"""What `unnorm finetune` was told, as a cell: a study of one cell, which has the same settings and checks."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unnorm.cli.options import option_of
from unnorm.foundation.errors import SettingsError

if TYPE_CHECKING:
    from unnorm.study.cell import CellSettings
    from unnorm.study.yaml_lines import Yaml

_SET = ("overrides", 0, "set")
_LENGTHS = {"tokens", "epochs"}


def one_cell(axes: Mapping[str, Any], given: Mapping[str, Mapping[str, Any]], config: Path | None) -> "CellSettings":
    """The cell. axes: model, data, arm, strategy and seed; given: the sections that options set, as a study's overrides
    have them; config: a file of such sections, which options go before.

    What is wrong is a `SettingsError` that names the option, or the file's line and key.
    """
    from unnorm.foundation.validation import Misplaced, sentence, validated
    from unnorm.study.sections import Changes
    from unnorm.study.slices import merged
    from unnorm.study.spec import StudyFile

    file = _read(config) if config is not None else None
    content: dict[str, Any] = dict(file.content) if file else {}
    given = {section: settings for section, settings in given.items() if settings}
    try:
        validated(Changes, content)
    except Misplaced as error:
        raise SettingsError(f"{_in_file(error.location, file)}: {sentence(error)}") from error
    try:
        if _LENGTHS & given.get("training", {}).keys() and isinstance(content.get("training"), Mapping):
            content["training"] = {k: v for k, v in content["training"].items() if k not in _LENGTHS}
        changes = merged(content, given)
        study = {
            "name": "run",
            "models": [axes["model"]],
            "datasets": [axes["data"]],
            "arms": [axes["arm"]],
            "strategies": [axes["strategy"]],
            "seeds": [axes["seed"]],
            "overrides": [{"where": {}, "set": changes}] if changes else [],
        }
        (cell,) = validated(StudyFile, study).cells()
    except Misplaced as error:
        location = error.location[3:] if error.location[:3] == _SET else error.location
        of_file = _holds(content, location) and not _holds(given, location)
        called = _in_file(location, file) if of_file else option_of(location)
        raise SettingsError(f"{called}: {sentence(error)}") from error
    return cell


def saved_axes(model: str, base: str | None, given: list[str]) -> dict[str, Any]:
    """The model and the arm of a cell that begins from the saved model in the folder `model`; nothing where it is a
    plain base.

    base: where the saved model's base lies now, unless it is where the manifest says. given: options that say how norms
    are swapped, which a swapped model does not take.
    """
    from unnorm.artefacts.saving import is_artefact
    from unnorm.foundation import hub
    from unnorm.study.begun import manifest_of_saved

    if not is_artefact(model) and not is_artefact(Path(model) / "model"):
        if base is not None:
            raise SettingsError(f"--base is for a MODEL that unnorm saved, and {model} is none. Leave it out.")
        return {}
    manifest = manifest_of_saved(model)
    if given:
        raise SettingsError(f"{model} is swapped already, so {given[0]} has nothing to say. Leave it out.")
    place = base or manifest.base.name
    if not hub.is_name(place) and not Path(place).is_dir():
        raise SettingsError(f"{model} was swapped from {place}, which is not there. Say where it lies now: --base DIR.")
    norms = sorted({site.spec["norm"] for site in manifest.sites})
    return {"model": place, "arm": {"id": f"{norms[0] if len(norms) == 1 else 'mixed'}-saved", "artefact": model}}


def _read(path: Path) -> "Yaml":
    from unnorm.study.yaml_lines import read_text, read_yaml

    if not path.is_file():
        raise SettingsError(f"--config: there is no file {str(path)!r}.")
    return read_yaml(read_text(path), str(path), path.parent)


def _in_file(location: tuple[int | str, ...], file: "Yaml | None") -> str:
    """File, line and key."""
    from unnorm.foundation.validation import dotted
    from unnorm.study.yaml_lines import locate

    assert file is not None, "nothing but the file has said this"
    return f"{locate(file.tree, location)}: {dotted(location)}"


def _holds(content: Any, location: tuple[int | str, ...]) -> bool:
    """Whether `location` is in `content`; of what is in a list, whether the list is."""
    for key in location:
        if not isinstance(content, Mapping) or key not in content:
            return isinstance(content, list)
        content = content[key]
    return True
