"""What `mkdocs build` does beside making HTML of this folder's pages: the zoo's pages, and a look at the result."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from zoo_pages import zoo_pages

# A part of a page that a browser would fetch from another machine; links that a reader follows are none.
_FETCHED = re.compile(
    r"<(?:script|img|iframe|source)\b[^>]*\bsrc=[\"']?(?:https?:)?//"
    r"|<link\b(?![^>]*rel=[\"']?canonical)[^>]*\bhref=[\"']?(?:https?:)?//"
    r"|url\([\"']?(?:https?:)?//|@import\s+[\"'](?:https?:)?//"
)
_LINK = re.compile(r"\[([^\]]+)\]\((\.\./[^)]+)\)")


def on_files(files: Any, config: Any) -> Any:
    """Adds a page and a drawing for each file of the zoo."""
    from mkdocs.structure.files import File, InclusionLevel

    for path, text in zoo_pages().items():
        file = File.generated(config, path, content=text)
        file.inclusion = InclusionLevel.NOT_IN_NAV
        files.append(file)
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links that leave this folder, for readers on GitHub, lead nowhere in the site: their text stays. The zoo's page
    gets the list of the others. Remarks behind the language of a block are for the tests."""
    path = Path(page.file.src_uri)
    here = Path("docs") / path.parent

    def kept(match: re.Match[str]) -> str:
        inside = (here / match[2].partition("#")[0]).resolve().is_relative_to(Path("docs").resolve())
        return match[0] if inside else match[1]

    if path.name == "zoo.md":
        listed = sorted(name for name in zoo_pages() if name.endswith(".md"))
        markdown += "\n" + "".join(f"- [{Path(name).stem}]({name})\n" for name in listed)
    markdown = re.sub(r"^```(det|shell|python) [^\n]+$", r"```\1", markdown, flags=re.MULTILINE)
    return _LINK.sub(kept, markdown)


def on_post_build(config: Any) -> None:
    """Fails where a built page would fetch something from another machine."""
    from mkdocs.exceptions import PluginError

    for file in Path(config.site_dir).rglob("*"):
        if file.suffix in (".html", ".css"):
            found = _FETCHED.search(file.read_text("utf-8"))
            if found:
                raise PluginError(f"{file} would fetch {found[0]}")
