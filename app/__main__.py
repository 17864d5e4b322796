"""``python -m app``: the same as ``xcit-serve``."""

import sys

from app.cli.main import main

sys.exit(main())
