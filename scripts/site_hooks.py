"""Hooks of the site (mkdocs.yml): the README is its first page, links out of docs/ lead to the repository.

A link that leads nowhere is a warning, and `mkdocs build --strict` fails for it.
"""

from __future__ import annotations

import logging
import os.path
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
_LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#|/)([^)\s#]+)(#[^)\s]*)?(?=\))")
log = logging.getLogger("mkdocs.hooks")


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Adds the README as the first page."""
    readme = (ROOT / "README.md").read_text()
    files.append(File.generated(config, "index.md", content=readme))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
    """Returns the page with links between documents as the site has them, others into the repository."""
    home = Path(".") if page.file.src_uri == "index.md" else Path("docs")

    def link(match: re.Match[str]) -> str:
        target, anchor = match.group(1), match.group(2) or ""
        path = os.path.normpath(home / target)
        if not (ROOT / path).exists():
            log.warning("%s links to %s, which is not there", page.file.src_uri, path)
        if path == "README.md":
            return f"index.md{anchor}"
        if path.startswith("docs/"):
            return f"{path.removeprefix('docs/')}{anchor}"
        kind = "tree" if (ROOT / path).is_dir() else "blob"
        return f"{config.repo_url.rstrip('/')}/{kind}/main/{path}{anchor}"

    return _LINK.sub(link, markdown)
