"""MkDocs hook that makes links from docs/ into the repository work on the site.

Documents use relative links to other documents, code and results, which work in a code browser.
Every linked file becomes part of the site: a document as a page, code as a page with its text,
a folder as a page with its files, a picture unchanged.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)(?P<path>[^)#\s]+)")  # (#, http: and mailto: are not)
AT_A_GLANCE = "at-a-glance.md"  # page of README.md; index.md is another page
UNLISTED = InclusionLevel.NOT_IN_NAV  # pages may still be listed in mkdocs.yml
PICTURES = {".png", ".svg", ".webp"}
LANGUAGES = {"Makefile": "make", ".py": "python", ".yml": "yaml", ".toml": "toml", ".json": "json"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add every file that is linked to, directly or through other files, and the icon."""
    waiting = [ROOT / str(config.theme["favicon"])]
    waiting += [Path(file.abs_src_path or "") for file in files.documentation_pages()]
    known = set(waiting[1:])
    while waiting:
        path = waiting.pop()
        if path not in known and DOCS not in path.parents:
            files.append(_shown(path, config))
        known.add(path)
        waiting += set(_linked(path)) - known
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Replace links between files of the repository by links between pages of the site."""
    source = _source(page.file.src_uri)
    here = Path(page.file.src_uri).parent

    def follow(link: re.Match[str]) -> str:
        target = _resolve(source, link["path"])
        return os.path.relpath(_place(target), here) if target.exists() else link["path"]

    return LINK.sub(follow, markdown) if source.suffix == ".md" else markdown


def _linked(path: Path) -> Iterator[Path]:
    """Targets of a document's links, or files of a folder. MkDocs reports missing targets."""
    if path.is_dir():
        yield from path.iterdir()
    elif path.suffix == ".md":
        targets = (_resolve(path, link["path"]) for link in LINK.finditer(path.read_text()))
        yield from (target for target in targets if target.exists())


def _resolve(source: Path, link: str) -> Path:
    return Path(os.path.normpath(source.parent / unquote(link)))


def _source(uri: str) -> Path:
    """Path of the file that a page shows."""
    if uri == AT_A_GLANCE:
        return README
    if (ROOT / uri.removesuffix(".md")).is_file():
        return ROOT / uri.removesuffix(".md")
    return DOCS / uri if (DOCS / uri).exists() else ROOT / uri


def _place(path: Path) -> Path:
    """Path in the site of a file of the repository."""
    if DOCS in path.parents:
        return path.relative_to(DOCS)
    if path == README:
        return Path(AT_A_GLANCE)
    inside = path.relative_to(ROOT)
    if path.is_dir():
        return inside / "index.md"
    return inside if path.suffix in {".md", *PICTURES} else Path(f"{inside}.md")


def _shown(path: Path, config: MkDocsConfig) -> File:
    """Create the site's file for a file or folder of the repository."""
    uri = _place(path).as_posix()
    if path.suffix in {".md", *PICTURES}:
        return File.generated(config, uri, abs_src_path=str(path), inclusion=UNLISTED)
    name = path.relative_to(ROOT)
    if path.is_dir():
        items = [f"- [{each.name}]({each.name})" for each in sorted(path.iterdir())]
        content = "\n".join([f"# {name}/\n", *items])
    else:
        language = LANGUAGES.get(path.suffix or path.name, "text")
        hidden = "---\nsearch: {exclude: true}\n---"
        content = f"{hidden}\n# {name}\n\n~~~~{language}\n{path.read_text()}~~~~\n"
    return File.generated(config, uri, content=content, inclusion=UNLISTED)
