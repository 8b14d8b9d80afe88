"""`unnorm judge`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unnorm.cli.options import finite
from unnorm.cli.output import JsonOption, emit_json, emit_table, say
from unnorm.evaluation.judges import KIND_HELP

if TYPE_CHECKING:
    from unnorm.evaluation.preference.compare import Judgement
    from unnorm.evaluation.preference.summary import Preference, WinRate

EXAMPLE = "Example: [bold]unnorm judge dyt.jsonl original.jsonl --judge pairrm --out verdicts/[/bold]"


def judge(
    a: Annotated[Path, typer.Argument(metavar="A.jsonl", help="Completions, as unnorm generate writes them.")],
    b: Annotated[Path, typer.Argument(metavar="B.jsonl", help="Another model's completions of the same prompts.")],
    judge: Annotated[str, typer.Option("--judge", help=f"{KIND_HELP}.")],
    model: Annotated[str | None, typer.Option(help="The judge's model; pairrm has its own.")] = None,
    base_url: Annotated[
        str | None, typer.Option(help="openai: the endpoint, up to /v1. Its key: OPENAI_API_KEY in the environment.")
    ] = None,
    price: Annotated[
        str | None, typer.Option(metavar="IN/OUT", help="openai: price of a million tokens, as 2.5/10, for the cost.")
    ] = None,
    margin: Annotated[
        float, typer.Option(min=0, callback=finite, help="A score this small is a tie, in the judge's unit.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Draws of the bootstrap and of the permutations.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder for verdicts and report; default: the cache. Judging goes on from it.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Compare two models' answers: win rate, how sure it is, and how far the judge can be trusted.

    Every pair is judged in both orders, as a whole and turn by turn; A is judged against itself too.
    """
    from unnorm.evaluation.judges import load_judge
    from unnorm.evaluation.preference.answers import pair_answers
    from unnorm.evaluation.preference.compare import compare
    from unnorm.foundation.places import check_folder

    prices = _prices(price)
    if out is not None:
        check_folder(out)
    pair_answers(a, b)  # before a model is loaded for nothing
    found = compare(a, b, load_judge(judge, model, base_url), margin=margin, seed=seed, price=prices, out=out)
    if json:
        emit_json(found.to_dict())
        return
    _print(found)
    if out is not None:
        say(f"verdicts and report: {out}")


def _prices(text: str | None) -> tuple[float, float] | None:
    from math import inf

    from unnorm.foundation.errors import SettingsError

    if text is None:
        return None
    try:
        prompt, reply = (float(part) for part in text.split("/"))
        if not (0 <= prompt < inf and 0 <= reply < inf):
            raise ValueError
    except ValueError:
        raise SettingsError(f"--price is IN/OUT for a million tokens, as in --price 2.5/10, not {text!r}.") from None
    return prompt, reply


def _print(found: "Judgement") -> None:
    from unnorm.evaluation.preference.wording import percent, sentences
    from unnorm.foundation.terminal import plain

    rows = [[part, *_counts(p), percent(p.win_rate), f"{p.sign_test_p:.3g}"] for part, p in found.parts.items()]
    columns = ["part", "questions", "A wins", "ties", "B wins", "win rate of A", "p"]
    emit_table(f"A = {found.a}, B = {found.b}, judge: {found.judge['kind']}", columns, rows)
    whole = next(iter(found.parts.values()))
    rows = [
        [name + (" (exploratory)" if c.exploratory else ""), *_counts(c), percent(c.win_rate)]
        for name, c in whole.categories.items()
    ]
    emit_table("by category, as wholes", ["category", *columns[1:-1]], rows)
    for line in sentences(found):
        print(plain(line))
    if found.usage is not None:
        cost = "not known without --price" if found.usage.cost is None else f"{found.usage.cost:.4f}"
        print(f"Tokens: {found.usage.prompt_tokens:,} in, {found.usage.reply_tokens:,} out; cost {cost}.")


def _counts(found: "Preference | WinRate") -> list[str]:
    return [str(number) for number in (found.questions, found.wins, found.ties, found.losses)]
