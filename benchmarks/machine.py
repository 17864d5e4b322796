"""The command and the machine of a measurement, for its report."""

import os
import platform
import shlex
import sys
from pathlib import Path

import torch


def provenance() -> str:
    """Command, settings and machine as two paragraphs of Markdown, without date and host name."""
    settings = [f"{name}={value}" for name, value in os.environ.items() if name[:5] == "XCIT_"]
    command = shlex.join([*settings, "python", *sys.orig_argv[1:]])
    return (
        f"Command: `{command}`\n\n"
        f"Machine: {cpu_model()}, {os.cpu_count()} cores, {platform.system()}; "
        f"Python {platform.python_version()}, torch {torch.__version__}."
    )


def cpu_model() -> str:
    """The processor's name, with family and model if the kernel reports them."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    pairs = (line.partition(":") for line in reversed(text.splitlines()))
    facts = {name.strip(): value.strip() for name, _, value in pairs}
    return f"{facts.get('model name', platform.machine())} (family {facts.get('cpu family', '?')})"
