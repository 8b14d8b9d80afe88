"""`unnorm swap`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from unnorm.cli import data_options as o
from unnorm.cli.models import Model
from unnorm.cli.options import check_choice, finite, tokens_option
from unnorm.cli.output import JsonOption, emit_json, emit_table, say, say_next, typed
from unnorm.foundation.errors import SettingsError
from unnorm.norms import NORMS

SWAP_EXAMPLE = (
    "Example: [bold]unnorm swap HuggingFaceTB/SmolLM2-135M-Instruct --to dyt --alpha channel --correct all "
    "--calibrate alpaca --out swapped/[/bold]"
)


def swap(
    model: Model,
    out: Annotated[Path, typer.Option(help="Folder for the swapped model.")],
    to: Annotated[
        str, typer.Option(help=f"The norm to put there: {', '.join(NORMS)}; or one of your own (UNNORM_NORMS).")
    ] = "dyt",
    calibrate: Annotated[
        list[str] | None,
        typer.Option(metavar="DATA", help="Fit to tokens of this data; again for more: NAME or NAME=WEIGHT."),
    ] = None,
    bare: Annotated[bool, typer.Option("--bare", help="No fit: γ = 1, β = 0, one α.")] = False,
    inherit: Annotated[bool, typer.Option("--inherit", help="With --bare: the pretrained γ and β.")] = False,
    alpha: Annotated[str | None, typer.Option(help="scalar: one α a site; channel: one a channel.")] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any other setting of the norm.")
    ] = None,
    sites: Annotated[list[str] | None, typer.Option(help="Only sites that match: path, role, glob or re:...")] = None,
    tokens: Annotated[
        int | None, tokens_option("Tokens to calibrate on. Default: 4,096; 16,384 to correct.", 64)
    ] = None,
    mode: Annotated[
        str, typer.Option(help="one-pass; sequential, parallel: more tokens than memory holds.")
    ] = "one-pass",
    outliers: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=0.49,
            callback=finite,
            help="Share of largest tokens to leave out. Default: those over five times the median size.",
        ),
    ] = None,
    correct: Annotated[str, typer.Option(help="Linear layers to correct too: none, readers, all.")] = "none",
    measure: Annotated[
        list[str] | None,
        typer.Option(metavar="DATA", help="Measure the gap on this data, or several. Default: that of --calibrate."),
    ] = None,
    measure_tokens: Annotated[int, tokens_option("Held-out tokens that the gap is measured on.", 64)] = 4096,
    template: o.Template = "alpaca",
    repair: o.Repair = False,
    map: o.Map = None,
    seed: Annotated[int, typer.Option(min=0, help="Which rows of DATA are taken.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace another artefact in OUT.")] = False,
    json: JsonOption = False,
) -> None:
    """Replace the norms of a model, fit the new ones to real tokens, measure the gap, and save it.

    DATA is a known name, a file, a folder, or a hub id.
    """
    from unnorm.foundation.precision import default_device
    from unnorm.study.arms import CALIBRATION_TOKENS, CORRECTION_TOKENS, Arm
    from unnorm.study.recovery import parse_data
    from unnorm.study.swap_model import Swap, swap_model
    from unnorm.surgery.calibrate import Mode
    from unnorm.surgery.correct import Correct

    if bare == bool(calibrate):
        raise SettingsError("give either --calibrate DATA, to fit the new norms, or --bare, to start them unfitted.")
    check_choice("--mode", mode, get_args(Mode))
    check_choice("--correct", correct, get_args(Correct))
    if bare and (correct != "none" or outliers is not None):
        raise SettingsError("--correct and --outliers belong to a fit: give --calibrate DATA instead of --bare.")
    if inherit and not bare:
        raise SettingsError("a calibration sets γ and β itself: --inherit goes with --bare.")
    wanted = tokens or (CALIBRATION_TOKENS if correct == "none" else CORRECTION_TOKENS)
    arm = Arm(
        id="swap",
        norm={"norm": to, **({"alpha": alpha} if alpha else {}), **_settings(setting or [])},
        calibration_tokens=None if bare else wanted,
        mode=mode,  # type: ignore[arg-type]
        outliers=outliers,
        correct=correct,  # type: ignore[arg-type]
        inherit=inherit,
    )
    fitted_to, measured_on = tuple(parse_data(calibrate or [])), tuple(parse_data(measure or calibrate or []))
    first = measured_on[0][0] if measured_on else "none"
    reading = o.settings_from(None, source=first, template=template, repair=repair, map=map)
    done = swap_model(
        model,
        arm,
        Swap(fitted_to, measured_on, measure_tokens, reading, tuple(sites) if sites else None, seed),
        out,
        overwrite=overwrite,
        say=say,
    )
    found = done.distance
    if json:
        each = {"measured": found, "measured_in_bf16": done.in_bf16}
        each_as_dict = {name: one.to_dict() if one else None for name, one in each.items()}
        emit_json({"out": str(out), **done.started.to_dict(), **each_as_dict})
        return
    _show(done.started.report)
    say(done.started.describe())
    if found is None:
        say("the gap to the original was not measured: give --measure DATA to have it")
    else:
        title = f"held-out loss in nats per token, {found.tokens:,} tokens"
        computed = [("fp32", found), *([("bf16", done.in_bf16)] if done.in_bf16 else [])]
        rows = [
            [name, f"{one.original_loss:.4f}", f"{one.loss:.4f}", f"{one.gap:+.1%}", f"{one.agreement:.1%}"]
            for name, one in computed
        ]
        emit_table(title, ["computed in", "original", "swapped", "gap", "same next token"], rows)
    read = o.as_given(template=template, repair=repair, map=map)
    worst = max([one for one in (found, done.in_bf16) if one], key=lambda one: one.gap, default=None)
    if worst is None or worst.usable:
        looked_at = typed(first) if measured_on else "DATA"
        compare = f"unnorm evaluate {typed(out)} --data {looked_at}{read} --against {typed(model)}"
        say_next(
            f"The swapped model is in {out}.", compare, f"unnorm package {typed(out)} --out {typed(f'{out}-package')}"
        )
    else:
        say(f"saved {out}")
        data = " ".join(f"--data {typed(entry)}" for entry in measure or calibrate or ["DATA"])
        # 10M take a processor a day or more; with so few as 100k LoRA came closer than all weights (docs/recover.md).
        how = "--tokens 100k --train lora" if default_device().type == "cpu" else "--tokens 10M"
        nearer = "" if correct == "all" else "Swap it with --correct all, which brings it nearer. "
        say(
            f"This model is not usable yet: its held-out loss is {worst.gap:+.0%} from the original's. "
            f"{nearer}Recover it:\n"
            f"  unnorm recover {typed(out)} {data}{read} {how} --out {typed(f'{out}-recovered')}"
        )


def _show(report: Any) -> None:
    fit = report.calibration
    if fit is None:
        return
    rows = [
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
    emit_table(title, ["site", "R²", "α", "nearly flat", "seconds"], rows)
    if fit.corrections:
        say(f"corrected {fit.corrected} linear layers: {_describe(fit.corrections)}")


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
    for role, name in (("reader", "readers"), ("writer", "writers"), ("inner", "before inner norms")):
        some = [fix for fix in fixes if fix.role == role]
        if some:
            before, after = (sum(getattr(fix, when) for fix in some) / len(some) for when in ("before", "after"))
            parts.append(f"{len(some)} {name}, relative error {before:.3f} -> {after:.3f}")
    return "; ".join(parts)
