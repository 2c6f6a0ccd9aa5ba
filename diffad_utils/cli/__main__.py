"""``python -m diffad_utils.cli``: the command ``diffad``."""

import sys

from diffad_utils.cli import main

sys.exit(main())
