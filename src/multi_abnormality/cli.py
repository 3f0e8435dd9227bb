"""The console command: `multi-abnormality COMMAND`, or `python -m multi_abnormality COMMAND`.

Each command is a function whose module imports quickly; what takes long is imported when it runs.
"""

import inspect
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from typing import Annotated, Any

from multi_abnormality.utils.errors import INSTALL_ALL

try:
    import typer
except ModuleNotFoundError as missing:
    raise SystemExit(f"error: the package {missing.name} is missing: {INSTALL_ALL}") from None

from chest_phantom.__main__ import sample
from multi_abnormality import __version__
from multi_abnormality.inference.predict import predict
from multi_abnormality.tools.compare.compare import compare
from multi_abnormality.tools.doctor.doctor import doctor
from multi_abnormality.tools.download.download import download
from multi_abnormality.tools.ensemble.ensemble import ensemble
from multi_abnormality.tools.experiments import experiments
from multi_abnormality.tools.external_test.external_test import evaluate
from multi_abnormality.tools.find_lr import find_lr
from multi_abnormality.tools.folds import folds
from multi_abnormality.tools.index.index import index
from multi_abnormality.tools.offline_plots import offline_plots
from multi_abnormality.tools.preview_augmentation import preview_augmentation
from multi_abnormality.tools.recipe import recipe
from multi_abnormality.utils import console

NAME = "multi-abnormality"


def resume(
    run: Annotated[
        str | None,
        typer.Option(metavar="FINGERPRINT", help="Fingerprint of the run; default: the newest."),
    ] = None,
    state: Annotated[
        str | None, typer.Option(metavar="COMMIT", help="Commit of the state; default: the newest.")
    ] = None,
    allow_code_changes: Annotated[
        bool,
        typer.Option(
            "--allow-code-changes",
            help="Also restore code that differs from this clone's. It is run here: use this only "
            "if you trust everyone who can write to the remote.",
        ),
    ] = False,
) -> None:
    """Restore the newest backup of this branch.

    `dvc pull --allow-missing` and `dvc repro --allow-missing` resume from it.
    """
    from multi_abnormality.backup.git import GitError
    from multi_abnormality.tools import resume
    from multi_abnormality.utils.errors import InputError

    try:
        resume.resume(Path(), run, allow_code_changes, state)
    except GitError as error:
        raise InputError(str(error)) from error


COMMANDS: dict[str, Callable[..., None]] = {
    "predict": predict,
    "compare": compare,
    "doctor": doctor,
    "download": download,
    "ensemble": ensemble,
    "evaluate": evaluate,
    "experiments": experiments,
    "find-lr": find_lr,
    "folds": folds,
    "index": index,
    "offline-plots": offline_plots,
    "preview-augmentation": preview_augmentation,
    "recipe": recipe,
    "resume": resume,
    "sample": sample,
}


def with_common_options(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options `-q` and `-v`, and run it by `console.run`."""

    @wraps(function)
    def command(quiet: bool, verbose: bool, **arguments: Any) -> None:
        if quiet and verbose:
            raise typer.BadParameter("cannot be used with --quiet", param_hint="--verbose")
        verbosity = "quiet" if quiet else "verbose" if verbose else None
        console.run(partial(function, **arguments), verbosity)

    own = inspect.signature(function).parameters.values()
    common = (
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=False,
            annotation=Annotated[
                bool, typer.Option(f"--{name}", f"-{name[0]}", help=f"{text.capitalize()}.")
            ],
        )
        for name, text in console.VERBOSITY_OPTIONS.items()
    )
    command.__signature__ = inspect.Signature([*own, *common])  # type: ignore[attr-defined]
    return command


app = typer.Typer(
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,  # Rich takes as long to import as everything else
    pretty_exceptions_enable=False,
)
for name, function in COMMANDS.items():
    passes_options_on = name == "experiments"  # to DVC
    app.command(
        name,
        context_settings={
            "allow_extra_args": passes_options_on,
            "ignore_unknown_options": passes_options_on,
        },
    )(with_common_options(function))


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    """Train and run classifiers of findings in chest CT.

    `dvc repro` trains, scores and exports, by the settings in params.yaml. What is needed before,
    after and besides is listed below.
    """
    if version:
        typer.echo(f"{NAME} {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main() -> None:
    """Run the command that the arguments name."""
    try:
        app(prog_name=NAME)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("multi_abnormality"):
            raise
        console.run(doctor)  # Typer itself lacks a package: the doctor names all that are missing
