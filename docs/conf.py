"""Sphinx's configuration of the documentation site; `make docs` builds it."""

import re

from cnnjax import __version__

project = "cnnjax"
author = "the cnnjax developers"
release = __version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon"]
exclude_patterns = ["notebooks"]  # files to download
html_theme = "sphinx_book_theme"
html_title = "cnnjax"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {"show_navbar_depth": 1, "navbar_persistent": []}  # the sidebar has the search field
highlight_language = "none"  # an indented block is a command with a comment

# Guides run their commands each time the site is built; an error in one of them ends the build.
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_execution_show_tb = True
nb_merge_streams = True

myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]

# Docstrings write `name` for code, as Markdown does.
default_role = "code"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
autodoc_typehints = "description"
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"


def link_notebooks(app, docname, source):
    """Turn links to the course's notebooks into downloads; they are no pages of the site."""
    source[0] = re.sub(r"\]\((notebooks/)", r"](path:\1", source[0])


def setup(app):
    app.connect("source-read", link_notebooks)
