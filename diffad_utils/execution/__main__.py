"""`python -m diffad_utils.execution`: one notebook, run headless."""

import sys

from diffad_utils.execution.workflow import main

sys.exit(main())
