"""The build backend: setuptools', whose wheels have manual pages made by running the commands.

So a wheel is built where zbuf's own dependencies are, too.  A source distribution and an editable install need none.
"""

import tomllib
from pathlib import Path
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403  # every hook but one as it is


def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    """What building a wheel needs beside [build-system] requires."""
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    return [*build_meta.get_requires_for_build_wheel(config_settings), *project["dependencies"]]
