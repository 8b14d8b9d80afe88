"""`unnorm swap`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from unnorm.cli.data_options import TEMPLATE_HELP
from unnorm.cli.models import Model
from unnorm.cli.output import JsonOption, emit_json, emit_table, say
from unnorm.foundation.errors import SettingsError

SWAP_EXAMPLE = (
    "Example: [bold]unnorm swap distilgpt2 --to dyt --calibrate alpaca --correct all --recover --out swapped/[/bold]"
)


def swap(
    model: Model,
    out: Annotated[Path, typer.Option(help="Folder for the swapped model.")],
    to: Annotated[
        str, typer.Option(help="The norm to put there: dyt, derf, dyisru, fixedscale, identity, layernorm, rmsnorm.")
    ] = "dyt",
    calibrate: Annotated[str | None, typer.Option(metavar="DATA", help="Fit to tokens of this data.")] = None,
    bare: Annotated[bool, typer.Option("--bare", help="No fit: γ = 1, β = 0, one α.")] = False,
    inherit: Annotated[bool, typer.Option("--inherit", help="With --bare: the pretrained γ and β.")] = False,
    alpha: Annotated[str | None, typer.Option(help="scalar: one α a site; channel: one a channel.")] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any other setting of the norm.")
    ] = None,
    sites: Annotated[list[str] | None, typer.Option(help="Only sites that match: path, role, glob or re:...")] = None,
    tokens: Annotated[
        int | None, typer.Option(min=64, help="Tokens to calibrate on: 4,096; 16,384 to correct.")
    ] = None,
    mode: Annotated[str, typer.Option(help="one-pass; sequential or parallel: more tokens than fit.")] = "one-pass",
    outliers: Annotated[float, typer.Option(min=0, max=0.49, help="Share of largest tokens to leave out.")] = 0.0,
    correct: Annotated[str, typer.Option(help="Linear layers to correct too: none, readers, all.")] = "none",
    recover: Annotated[bool, typer.Option("--recover", help="Distil the original into the new norms.")] = False,
    recover_steps: Annotated[int, typer.Option(min=1, help="Steps of --recover, 1,024 tokens each.")] = 150,
    recover_layers: Annotated[
        bool, typer.Option("--recover-layers", help="With --recover and --correct: corrected layers learn too.")
    ] = False,
    template: Annotated[str, typer.Option(help=TEMPLATE_HELP)] = "alpaca",
    seed: Annotated[int, typer.Option(min=0, help="Which rows of DATA are taken.")] = 0,
    json: JsonOption = False,
) -> None:
    """Replace the norms of a model, fit the new ones to real tokens, and save it.

    DATA is a known name (alpaca, sharegpt, rewild), a file, a folder, or a hub id.
    """
    import copy

    from unnorm.artefacts.saving import is_artefact, save
    from unnorm.data.prepare import Source
    from unnorm.data.settings import DataSettings
    from unnorm.norms.spec import spec_from
    from unnorm.study.arms import CALIBRATION_TOKENS, CORRECTION_TOKENS
    from unnorm.surgery.base import context_length, load_base, load_tokenizer
    from unnorm.surgery.calibrate import Mode
    from unnorm.surgery.correct import Correct
    from unnorm.surgery.recover import recover_
    from unnorm.surgery.swap import swap_

    if bare == (calibrate is not None):
        raise SettingsError("give either --calibrate DATA, to fit the new norms, or --bare, to start them unfitted.")
    if recover and bare:
        raise SettingsError("--recover needs text, as --calibrate DATA gives it.")
    if recover_layers and (not recover or correct == "none"):
        raise SettingsError("--recover-layers trains what --correct changed, in --recover: give both of them too.")
    if mode not in get_args(Mode) or correct not in get_args(Correct):
        raise SettingsError(
            f"--mode is one of {', '.join(get_args(Mode))}; --correct is one of {', '.join(get_args(Correct))}."
        )
    spec = spec_from({"norm": to, **({"alpha": alpha} if alpha else {}), **_settings(setting or [])})
    if is_artefact(model):
        raise SettingsError(f"{model} is an artefact of unnorm already. Swap its base instead.")
    loaded, tokenizer = load_base(model), load_tokenizer(model)
    batch: Any = None
    rest: list[Any] = []
    if calibrate is not None:
        length = min(256, context_length(loaded) or 256)
        wanted = tokens or (CALIBRATION_TOKENS if correct == "none" else CORRECTION_TOKENS)
        data = DataSettings(source=calibrate, max_length=length, template=template)
        rows = Source(data, tokenizer).train(wanted + recover * recover_steps * 1024, seed)
        used = max(1, wanted // length)
        batch = rows.collate(rows.rows[:used])
        if mode != "one-pass":
            batch = [rows.collate(rows.rows[i : min(i + 16, used)]) for i in range(0, used, 16)]
        rest = [rows.collate([row]) for row in rows.rows[used:] if recover]
    original = copy.deepcopy(loaded) if recover else None
    report = swap_(
        loaded,
        spec if not sites else dict.fromkeys(sites, spec),
        calibrate_on=batch,
        mode=mode,  # type: ignore[arg-type]
        outliers=outliers,
        correct=correct,  # type: ignore[arg-type]
        inherit=inherit,
    )
    recovery = None
    if original is not None:
        recovery = recover_(loaded, original, rest, steps=recover_steps, layers=recover_layers, seed=seed)
    save(loaded, out, tokenizer)
    if json:
        emit_json(
            {"out": str(out), **report.to_dict(), "recovery": recovery.to_dict() if recovery is not None else None}
        )
        return
    fit = report.calibration
    if fit is None:
        say(f"swapped {len(report.sites)} sites, bare")
    else:
        rows_ = [
            [
                s.path,
                f"{s.r2:.3f}",
                "" if s.alpha is None else f"{s.alpha:.3f}",
                f"{s.saturation:.1%}",
                f"{s.seconds:.3f}",
            ]
            for s in fit.sites
        ]
        title = f"calibrated on {fit.tokens:,} tokens in {fit.seconds:.2f} s"
        emit_table(title, ["site", "R²", "α", "nearly flat", "seconds"], rows_)
        if fit.corrections:
            say(f"corrected {len(fit.corrections)} linear layers: {_describe(fit.corrections)}")
    if recovery is not None:
        say(recovery.describe())
    say(f"saved {out}")


def _settings(pairs: list[str]) -> dict[str, Any]:
    """KEY=VALUE pairs, values read as YAML scalars (numbers, true, words)."""
    import yaml

    settings = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise SettingsError(f"--set wants KEY=VALUE, as in --set alpha_init=0.3, not {pair!r}.")
        settings[key] = yaml.safe_load(value)
    return settings


def _describe(fixes: Sequence[Any]) -> str:
    """Mean relative error of the layers' outputs before and after, by role."""
    parts = []
    for role in ("reader", "writer"):
        some = [fix for fix in fixes if fix.role == role]
        if some:
            before, after = (sum(getattr(fix, when) for fix in some) / len(some) for when in ("before", "after"))
            parts.append(f"{len(some)} {role}s, relative error {before:.3f} -> {after:.3f}")
    return "; ".join(parts)
