"""MkDocs hooks that build the documentation site from docs/ and from the code."""
