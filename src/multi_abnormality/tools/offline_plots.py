"""`multi-abnormality offline-plots`: the page of `dvc plots`, with Vega inlined."""

from pathlib import Path

from multi_abnormality.utils import console
from multi_abnormality.utils.errors import InputError

PAGE = "plots_page.html"  # in .dvc, from where DVC resolves it


def offline_plots() -> None:
    """Make `dvc plots` draw without a network.

    Writes .dvc/plots_page.html, which contains Vega, and sets plots.html_template in
    .dvc/config.local, unless it is already set to another page. The pages of `dvc plots show` and
    `dvc plots diff` then load nothing from the network.
    """
    from dvc.config import Config
    from dvc.exceptions import NotDvcRepoError
    from dvc.repo import Repo

    from multi_abnormality.utils.atomic_io import atomic_write

    try:
        folder = Path(Repo.find_dvc_dir())
    except NotDvcRepoError as error:
        raise InputError(
            f"{Path().resolve()}: not in a DVC project; run in the project's folder"
        ) from error
    config = Config(str(folder))
    template = config["plots"].get("html_template")
    if template not in (None, PAGE):
        console.log.warning("kept plots.html_template of DVC's configuration: %s", template)
        return
    atomic_write(page().encode(), folder / PAGE)  # first: DVC fails if a configured page is missing
    with config.edit("local") as local:
        local["plots"]["html_template"] = PAGE
    console.log.info("`dvc plots` uses %s", folder / PAGE)


def page() -> str:
    """Return DVC's template of the page: its placeholders, and Vega as a classic script.

    DVC's own scripts call `vegaEmbed` while the page is parsed, before a module would run.
    """
    from multi_abnormality.evaluation.report_charts import library

    template = Path(__file__).with_name("templates") / "plots_page.html"
    return template.read_text(encoding="utf-8").replace("LIBRARY", library())
