"""Check docstrings, comments, error messages and documents for patterns of English to avoid.

Prints file, line, words and a suggestion for each, and exits with 1 if it finds any. Arguments are
files or folders to check instead of the default.
"""

import ast
import io
import os
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
CHECKED = [
    *("README.md", "CONTRIBUTING.md", "Dockerfile", "Makefile", "NOTICE", ".env.example"),
    *("docker-compose.yml", "docker-compose.gpu.yml", "app", "benchmarks", "clients", "deploy"),
    *("docs", "documentation", "model", "scripts", "tests", "training"),
]
SUFFIXES = {"", ".css", ".example", ".html", ".js", ".json", ".md", ".py", ".sh", ".yml"}
THINGS = "images?|requests?|batches|items|rows|seconds|classes|weights|lines?|bytes|pixels"
UNITS = "batch|second|request|image|core|line|class|head|token|step|minute|file|thread|day"
GAP = r"(?:[^\S\n]+|[^\S\n]*\n[ \t#]*)"  # between two words, also across two lines
RULES = {
    r"\b(is|are|was|were|be|been) told\b": "gets, receives",
    r"\b(for|to|by|of|from|than) who(ever)? \w+": "clients that ..., users who ...",
    r"\bwhat (is|was|are) no\b": "a ... that is not a ...",
    r"(?<!here\s)\b(is|are|was|were) no (?!longer|more|one|way)\w+": "is not a ...",
    r"\bof (its|their|our|your|one's) own\b": "separate, my, your",
    rf"\b({THINGS}) an? ({UNITS})\b": "per",
    r"\bbeside\b": "next to, compared with, in addition to",
    r"\banew\b": "again",
    r"\bmend(s|ed|ing)?\b": "fix",
    r"\b(slip of the pen|how-manieth|worth while)\b": "a literal phrase",
}


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the texts of a file, each with the number of its first line."""
    text = path.read_text()
    if path.suffix != ".py":
        blank = lambda code: re.sub(r"\S", "_", code[0])  # noqa: E731
        yield 1, re.sub(r"```.*?```|`[^`\n]*`|\n##[^\n]*", blank, text, flags=re.DOTALL)
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr | ast.Raise):
            for leaf in ast.walk(node) if isinstance(node, ast.Raise) else [node.value]:
                if isinstance(leaf, ast.Constant) and isinstance(leaf.value, str):
                    yield leaf.lineno, leaf.value
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def main() -> int:
    rules = [(re.compile(p.replace(" ", GAP), re.IGNORECASE), say) for p, say in RULES.items()]
    files = [
        f for name in sys.argv[1:] or CHECKED for f in (ROOT / name, *(ROOT / name).rglob("*"))
    ]
    found = 0
    for path in sorted(f for f in files if f.is_file() and f.suffix in SUFFIXES):
        for line, text in prose(path):
            for rule, suggestion in rules:
                for words in rule.finditer(text):
                    number = line + text.count("\n", 0, words.start())
                    print(
                        f"{os.path.relpath(path, ROOT)}:{number}: {words[0]!r}; write: {suggestion}"
                    )
                    found += 1
    return min(found, 1)


if __name__ == "__main__":
    sys.exit(main())
