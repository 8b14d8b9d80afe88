"""`unnorm study schema`."""

from unnorm.cli.output import JsonOption, emit_json


def schema(json: JsonOption = True) -> None:
    """Print the JSON Schema of study files, for editors."""
    from unnorm.study.spec import StudyFile as Spec

    emit_json(Spec.model_json_schema())
