"""`unnorm evaluate`."""

from typing import Annotated

import typer

from unnorm.cli.data_options import DATA_HELP, LOSS_ON_HELP, TEMPLATE_HELP, settings_from
from unnorm.cli.output import JsonOption, emit_json, emit_table

EXAMPLE = "Example: [bold]unnorm evaluate run/model --data alpaca[/bold]"


def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A hub id, a model's folder, or an artefact's folder.")],
    data: Annotated[str, typer.Option(metavar="DATA", help=DATA_HELP)],
    tokens: Annotated[int, typer.Option(min=1, help="Held-out tokens, prompts included.")] = 100_000,
    max_length: Annotated[
        int | None, typer.Option(min=2, help="Tokens a row; default 256, or the model's most.")
    ] = None,
    template: Annotated[str, typer.Option(help=TEMPLATE_HELP)] = "alpaca",
    loss_on: Annotated[str, typer.Option(help=LOSS_ON_HELP)] = "answer",
    json: JsonOption = False,
) -> None:
    """Measure held-out loss and token accuracy: on the part of DATA that no run trains on."""
    from unnorm.artefacts.loading import open_model
    from unnorm.evaluation.held_out import evaluate as evaluate_model
    from unnorm.surgery.base import context_length

    loaded, tokenizer = open_model(model)
    settings = settings_from(
        None,
        source=data,
        max_length=max_length or min(256, context_length(loaded) or 256),
        template=template,
        loss_on=loss_on,
    )
    result = evaluate_model(loaded, settings, tokenizer, tokens=tokens)
    if json:
        emit_json({"model": model, "data": data, **result.to_dict()})
        return
    row = [model, f"{result.loss:.4f}", f"{result.token_accuracy:.1%}", f"{result.tokens:,}", f"{result.seconds:.1f}"]
    emit_table(f"held out from {data}", ["model", "nats per token", "accuracy", "tokens", "seconds"], [row])
