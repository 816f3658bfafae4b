"""Sphinx configuration."""

from tdxstack import __version__

project = "tdxstack"
author = "The tdxstack authors"
copyright = "The tdxstack authors"
version = release = __version__
extensions = ["myst_parser"]
html_theme = "furo"
exclude_patterns = ["_build"]
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence", "deflist"]
suppress_warnings = ["myst.header", "toc.empty_glob"]
