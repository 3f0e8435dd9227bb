"""The console command: `multi-abnormality COMMAND`, or `python -m multi_abnormality COMMAND`."""

import runpy
import sys

from multi_abnormality import __version__

COMMANDS = {
    "predict": ("multi_abnormality.inference", "predict the findings of chest CT scans"),
    "compare": ("multi_abnormality.tools.compare", "compare the scores of two revisions"),
    "doctor": ("multi_abnormality.tools.doctor", "check whether training can run here"),
    "download": ("multi_abnormality.tools.download", "download a part of CT-RATE"),
    "experiments": ("multi_abnormality.tools.experiments", "show the scores of all experiments"),
    "find-lr": ("multi_abnormality.tools.find_lr", "run a learning rate range test"),
    "preview-augmentation": (
        "multi_abnormality.tools.preview_augmentation",
        "show augmented training scans as a picture",
    ),
    "recipe": ("multi_abnormality.tools.recipe", "apply a recipe to params.yaml"),
    "resume": ("multi_abnormality.tools.resume", "restore the newest backup of this branch"),
    "sample": ("chest_phantom", "generate synthetic sample scans"),
}


def usage() -> str:
    width = max(map(len, COMMANDS))
    lines = (f"  {name:{width}}  {summary}" for name, (_, summary) in COMMANDS.items())
    return "\n".join(
        [
            "usage: multi-abnormality [-h] [--version] COMMAND ...",
            "",
            "Train and run classifiers of findings in chest CT.",
            "",
            "commands:",
            *lines,
            "",
            "`multi-abnormality COMMAND --help` describes a command.",
        ]
    )


def main() -> None:
    """Run the command that the first argument names; its module parses the other arguments."""
    command = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if command in ("-h", "--help"):
        sys.stdout.write(usage() + "\n")
    elif command == "--version":
        sys.stdout.write(f"multi-abnormality {__version__}\n")
    elif command in COMMANDS:
        sys.argv[:2] = [f"multi-abnormality {command}"]
        runpy.run_module(COMMANDS[command][0], run_name="__main__")
    else:
        sys.stderr.write(f"error: there is no command {command!r}\n\n{usage()}\n")
        sys.exit(2)
