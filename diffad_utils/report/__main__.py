"""`python -m diffad_utils.report FOLDER`: the pages of a folder of runs."""

import sys

from diffad_utils.report.pages import write

write(sys.argv[1])
