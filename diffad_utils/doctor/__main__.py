"""`python -m diffad_utils.doctor`: the first cell of every Kaggle kernel."""

import sys

from diffad_utils.doctor.page import main

sys.exit(main())
