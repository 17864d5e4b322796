"""The documents, and the blocks of code in them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCUMENTS = (
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
)
TUTORIAL = ROOT / "docs" / "tutorial.md"
BLOCK = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)(?: title=\"(?P<title>[^\"]+)\")?\n"
    r"(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A block of code in a document."""

    document: Path
    line: int
    language: str
    title: str | None
    text: str

    def __str__(self) -> str:
        return f"{self.document.relative_to(ROOT)}:{self.line}"

    def commands(self) -> Iterator[str]:
        """Yield the commands of a console block."""
        whole = self.text.replace("\\\n", " ")
        yield from re.findall(r"^\$ (.*)$", whole, re.MULTILINE)

    def output(self) -> str:
        """Return the output in a console block."""
        whole = self.text.replace("\\\n", " ")
        return "\n".join(line for line in whole.splitlines() if not line.startswith("$ "))


def blocks(language: str, *documents: Path) -> list[Block]:
    """Return the blocks in a language, from ``documents`` or from all documents."""
    return [
        block
        for document in documents or DOCUMENTS
        for block in read_blocks(document)
        if block.language == language
    ]


def read_blocks(document: Path) -> Iterator[Block]:
    text = document.read_text()
    for found in BLOCK.finditer(text):
        line = text.count("\n", 0, found.start()) + 1
        indent = found["indent"]
        content = "".join(part.removeprefix(indent) for part in found["text"].splitlines(True))
        yield Block(document, line, found["language"], found["title"], content)
