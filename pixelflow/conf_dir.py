"""The folder that holds the config groups, in a checkout and in an installed package."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def conf_folder() -> Path:
    """Returns the folder of the config groups (`backbone/`, `solver/`, ...).

    An installed wheel carries it inside the package, `pixelflow/conf`; a checkout has it beside the package, `conf`.
    """
    packaged = _PACKAGE / "conf"
    return packaged if packaged.is_dir() else _PACKAGE.parent / "conf"
