"""Entry point: the verbs, and what becomes of errors. Exit codes: 0 done; 1 a run failed, what finished is kept; 2 the
user's mistake, nothing started; 130 interrupted, resumable."""

import os
import sys
from typing import Annotated, NoReturn

import typer

from unnorm.cli import (
    artefacts,
    data,
    data_repair,
    demo,
    doctor,
    evaluate,
    finetune,
    generate,
    judge,
    latency,
    models,
    recover,
    report,
    streams,
    study,
    swap,
)
from unnorm.cli.output import complain, say
from unnorm.cli.plain_group import Verbs
from unnorm.foundation import first_word
from unnorm.foundation.errors import DiskError, Interrupted, UnnormError
from unnorm.foundation.processes import launch

_INTERRUPTED = 130  # also what typer makes of a KeyboardInterrupt
_ONCE = {"sites", "swap", "evaluate", "latency", "package", "check", "data", "report"}  # verbs that begin again

app = Verbs(
    name="unnorm",
    help="Replace the norms of a pretrained language model by Dynamic Tanh, fine-tune it, and measure what that cost.",
    add_completion=True,
)
app.command("demo", epilog=demo.EXAMPLE)(demo.demo)
app.command("doctor", epilog=doctor.EXAMPLE)(doctor.doctor)
app.command("sites", epilog=models.SITES_EXAMPLE)(models.sites)
app.command("swap", epilog=swap.SWAP_EXAMPLE)(swap.swap)
app.command("recover", epilog=recover.EXAMPLE)(recover.recover)
app.command("finetune", epilog=finetune.EXAMPLE)(finetune.finetune)
app.command("evaluate", epilog=evaluate.EXAMPLE)(evaluate.evaluate)
app.command("generate", epilog=generate.EXAMPLE)(generate.generate)
app.command("judge", epilog=judge.EXAMPLE)(judge.judge)
app.command("latency", epilog=latency.EXAMPLE)(latency.latency)
app.command("package", epilog=artefacts.PACKAGE_EXAMPLE)(artefacts.package)
app.command("check", epilog=artefacts.CHECK_EXAMPLE)(artefacts.check)
app.command("report", epilog=report.EXAMPLE)(report.report)
app.add_typer(data.app, name="data")
app.add_typer(study.app, name="study")
data.app.command("repair", epilog=data_repair.EXAMPLE)(data_repair.repair)


def _say_version(wanted: bool) -> None:
    if wanted:
        import unnorm

        print(f"unnorm {unnorm.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_say_version, is_eager=True)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error. May stand anywhere.")] = False,
) -> None:
    pass


def main() -> NoReturn:
    """Run the command line and exit."""
    streams.prepare()
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # large pages: a processor trains a fifth faster
    if launch() is not None:  # torch warns once a process of what DDP looks for in vain
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    first_word.say_unless_said(say)
    code = run([argument for argument in arguments if argument != "--debug"], debug)
    if code == 0 and launch() is not None:
        from unnorm.foundation.ranks import leave

        leave()
    try:
        streams.finish()
    except DiskError as error:
        say(f"error: {error}")
        code = code or error.exit_code
    sys.exit(code)


def run(arguments: list[str], debug: bool = False) -> int:
    """Run with `arguments`; the exit code. With `debug`, errors are raised instead."""
    try:
        app(args=arguments, prog_name="unnorm")
    except SystemExit as stop:
        return _interrupted(arguments) if stop.code == _INTERRUPTED else int(stop.code or 0)
    except Interrupted:
        return _interrupted(arguments)
    except UnnormError as error:
        if debug:
            raise
        complain(f"error: {error}")
        return error.exit_code
    except Exception as error:
        if debug:
            raise
        from unnorm.foundation.atomic import is_full

        if is_full(error):
            complain(f"error: the disk is full ({error}). Free some space and run again; what was finished is kept.")
            return 1
        complain(
            f"error: unexpected {type(error).__name__}: {error}\nThis is a fault of unnorm or of a library. "
            "Run again with --debug for the traceback; what was finished is kept."
        )
        return 1
    return 0


def _interrupted(arguments: list[str]) -> int:
    if arguments and arguments[0] in _ONCE:
        say("interrupted; this command keeps nothing of what is half done: the same command begins again")
    else:
        say("interrupted; what was finished is kept, and the same command goes on from there")
    return _INTERRUPTED
