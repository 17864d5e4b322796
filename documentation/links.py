"""A hook of the site: links out of docs/ lead into the repository, and so they must here.

Documents link to each other, to code and to results by where these lie, as a forge shows them.
Whatever is linked to becomes a part of the site: documents as pages, code as a page that shows it,
a folder as a page that lists it, pictures as they are.
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
AT_A_GLANCE = "at-a-glance.md"  # what README.md is here, as index.md is another page
UNLISTED = InclusionLevel.NOT_IN_NAV  # unless the navigation does list it
PICTURES = {".png", ".svg"}
LANGUAGES = {"Makefile": "make", ".py": "python", ".yml": "yaml", ".toml": "toml", ".json": "json"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what the documents link to, what that links to, and so on; and the icon."""
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
    """Turn links between files of the repository into links between pages of the site."""
    source = _source(page.file.src_uri)
    here = Path(page.file.src_uri).parent

    def follow(link: re.Match[str]) -> str:
        target = _resolve(source, link["path"])
        return os.path.relpath(_place(target), here) if target.exists() else link["path"]

    return LINK.sub(follow, markdown) if source.suffix == ".md" else markdown


def _linked(path: Path) -> Iterator[Path]:
    """What a document links to, or a folder holds; what is not there is the build's to tell."""
    if path.is_dir():
        yield from path.iterdir()
    elif path.suffix == ".md":
        targets = (_resolve(path, link["path"]) for link in LINK.finditer(path.read_text()))
        yield from (target for target in targets if target.exists())


def _resolve(source: Path, link: str) -> Path:
    return Path(os.path.normpath(source.parent / unquote(link)))


def _source(uri: str) -> Path:
    """The file that a page shows."""
    if uri == AT_A_GLANCE:
        return README
    if (ROOT / uri.removesuffix(".md")).is_file():
        return ROOT / uri.removesuffix(".md")
    return DOCS / uri if (DOCS / uri).exists() else ROOT / uri


def _place(path: Path) -> Path:
    """Where a file of the repository is in the site."""
    if DOCS in path.parents:
        return path.relative_to(DOCS)
    if path == README:
        return Path(AT_A_GLANCE)
    inside = path.relative_to(ROOT)
    if path.is_dir():
        return inside / "index.md"
    return inside if path.suffix in {".md", *PICTURES} else Path(f"{inside}.md")


def _shown(path: Path, config: MkDocsConfig) -> File:
    """A file or folder of the repository as a file of the site."""
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
