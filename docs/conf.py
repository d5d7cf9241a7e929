"""The site that `make docs` builds: the repository's own pages, and a reference made from the docstrings.

The top of the repository is Sphinx's source folder, so each link works both here and where the repository is hosted. A
warning is an error: a link that leads nowhere, a name in a docstring that does not exist, a public name without words.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "reference"))

# Before autodoc does: it would take the stubs of the native modules in their place, which have no docstrings.
import zbuf.consumer
import zbuf.producer

project = "zbuf"
author = "the zbuf authors"
release = zbuf.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "docstrings", "public_names"]

root_doc = "docs/index"
include_patterns = ["*.md", "deploy/*.md", "docs/**", "examples/*.md"]
exclude_patterns = [".*", "build", "src", "**/*.py", "tests"]

myst_heading_anchors = 3
default_role = "code"
nitpicky = True
nitpick_ignore_regex = [
    # the network has their references
    ("py:.*", r"(asyncio|collections|concurrent|fractions|msgspec|numpy|os|pathlib|scapy|socket)\..*"),
    (
        "py:.*",
        r"(zbuf\.shared\.control\.messages\..*|.*\.(Listener|LiveCapture|Opening|ProducerDirectory)|NDArray|NativeSource)",
    ),  # in signatures; users need none of them
    ("py:.*", r"(AnsweringMachine|_T|[\d.]+)"),  # scapy's, and a bound of a number
]

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True

html_theme = "furo"
html_title = f"zbuf {release}"
html_copy_source = False
