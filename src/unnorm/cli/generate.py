"""`unnorm generate`."""

from pathlib import Path
from typing import Annotated

import typer

from unnorm.cli.data_options import Template
from unnorm.cli.models import use_threads_for
from unnorm.cli.output import JsonOption, emit_json, emit_table, say, say_next, typed

EXAMPLE = "Example: [bold]unnorm generate run/model --prompts mt-bench --temperature fastchat --out dyt.jsonl[/bold]"


def generate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A hub id, a model's folder, or an artefact's folder.")],
    out: Annotated[Path, typer.Option(help="A .jsonl file for the answers.")],
    prompts: Annotated[
        str, typer.Option(help="builtin; mt-bench (from the hub); or a .jsonl file, such as MT-Bench's question.jsonl.")
    ] = "builtin",
    template: Template = "alpaca",
    temperature: Annotated[
        str, typer.Option(help="greedy; fastchat (by MT-Bench's categories); or a number.")
    ] = "greedy",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens an answer may have.")] = 256,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts at a time; it changes no answer.")] = 16,
    seed: Annotated[int, typer.Option(min=0, help="With a temperature: which answers are drawn.")] = 0,
    json: JsonOption = False,
) -> None:
    """Answer questions, turn by turn, into a JSONL file.

    Interrupted, the same command goes on where it stopped. Compare two such files with unnorm judge.
    """
    from unnorm.artefacts.loading import open_model
    from unnorm.data.templates import template_of
    from unnorm.evaluation.generate import generate as run
    from unnorm.evaluation.questions import read_questions, temperature_of
    from unnorm.foundation.places import check_file

    check_file(out)
    questions = read_questions(prompts)
    temperature_of("", temperature)  # a mistake in it shows before a model is loaded
    loaded, tokenizer = open_model(model)
    use_threads_for(loaded)
    form = template_of(template, tokenizer)
    made = run(
        loaded,
        tokenizer,
        questions,
        out,
        render=form.prompt,
        template=form.identity,
        temperature=temperature,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        seed=seed,
    )
    if json:
        emit_json({"out": str(out), **made.to_dict()})
        return
    row = [model, f"{made.answers:,}", f"{made.made:,}", f"{made.stopped / made.answers:.0%}", f"{made.cut:,}"]
    speed = f"{made.tokens / made.seconds:,.0f}" if made.made else ""
    emit_table(
        f"answers in {out}",
        ["model", "answers", "made now", "ended by eos", "prompt cut", "tokens", "tokens/s"],
        [[*row, f"{made.tokens:,}", speed]],
    )
    say_next(f"The answers are in {out}.", f"unnorm judge {typed(out)} OTHER.jsonl --judge pairrm")
    if made.cut:
        say(f"{made.cut} prompts lost their beginning: no room for them beside {max_new_tokens} new tokens")
