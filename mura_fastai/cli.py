"""The command `mura`. Its commands parse, call one function and print: results to stdout, progress to stderr."""

from typing import Annotated

import typer

import mura_fastai
from mura_fastai.commands.audit import audit
from mura_fastai.commands.bench import bench, frontier
from mura_fastai.commands.calibrate import calibrate
from mura_fastai.commands.compare import compare, power
from mura_fastai.commands.data import phantom, prepare, summarize
from mura_fastai.commands.results import evaluate, interpret, predict
from mura_fastai.commands.share import app as local_page
from mura_fastai.commands.share import demo, report
from mura_fastai.commands.training import lr_find, relocate, resume, train
from mura_fastai.exits import exit_codes, leave_quietly

app = typer.Typer(
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,  # plain text: half the time, and the same in a pipe
    pretty_exceptions_enable=False,
    add_completion=False,
)


def _version(wanted: bool):
    if wanted:
        print(f"mura_fastai {mura_fastai.__version__}")
        raise typer.Exit


@app.callback()
def _mura(
    version: Annotated[bool, typer.Option("--version", help="Show the version.", callback=_version, is_eager=True)] = 0,
):
    """Bone X-ray studies, normal or abnormal: train networks on MURA and score them honestly, study by study.

    New here? `mura demo` does the whole job on invented radiographs in three minutes.
    Every command is a function too: `from mura_fastai.all import *`.

    For research only; nothing here is fit for clinical use.
    """


# In the order in which they are used, and shown by `mura --help`.
for command in (
    demo,
    phantom,
    summarize,
    audit,
    prepare,
    lr_find,
    train,
    resume,
    relocate,
    calibrate,
    evaluate,
    interpret,
    predict,
    compare,
    power,
    frontier,
    report,
    local_page,
    bench,
):
    app.command(command.__name__.replace("_", "-"))(command)


def main():
    "The console command."
    done = False
    try:
        with exit_codes():
            app()
    except SystemExit as e:
        done = not e.code
        raise
    finally:
        leave_quietly(done)
