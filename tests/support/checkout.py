"""A copy of the project as git has it, to be built elsewhere, without anything that was built here."""

import os
import shutil
import subprocess
from pathlib import Path

from support.project import ROOT


def project_files() -> list[Path]:
    """The path of every file of the project: those in git, and new ones that git does not ignore."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [Path(name) for name in listed.split("\0") if name and os.path.lexists(ROOT / name)]


def copy_project(folder: Path) -> Path:
    """Copy the project into a folder, with links as links; returns the folder."""
    for file in project_files():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / file, folder / file, follow_symlinks=False)
    return folder
