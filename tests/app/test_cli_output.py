"""The output of commands: control characters from a server do not reach the terminal."""

import pytest

from app.cli.output import complain, show_answers

EVIL = "\x1b[2J\x9b31mevil\nline"


def test_message_is_printed_on_one_line_without_control_characters(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert complain(EVIL, "naïve ✓", code=3) == 3
    assert capsys.readouterr().err.splitlines() == [
        "xcit-serve: \\x1b[2J\\x9b31mevil\\nline",
        "xcit-serve: naïve ✓",
    ]


def test_label_is_printed_without_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    show_answers([{"file": "x", "predictions": [{"score": 0.5, "label": EVIL}]}], as_json=False)
    assert capsys.readouterr().out == "x  50.00%  \\x1b[2J\\x9b31mevil\\nline\n"
