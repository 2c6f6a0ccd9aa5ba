"""Who runs the notebooks: profiles, one run, all runs.

What may be touched: all but the names of run folders and what a fingerprint holds; a change there makes every run due
again.
"""

from diffad_utils.execution.errors import RunFailed
from diffad_utils.execution.fingerprints import (
    PACKAGE,
    code_digest,
    data_digest,
    modules_of,
    notebook_digest,
    notebook_source,
    package_digest,
)
from diffad_utils.execution.gpus import claim_gpus
from diffad_utils.execution.inputs import check_data, check_run
from diffad_utils.execution.notebook import run_notebook, running
from diffad_utils.execution.profiles import (
    DEFAULT_MINUTES,
    WORK,
    PlannedRun,
    ProfileError,
    RunPlan,
    label_of,
    load_plan,
    profile_names,
    read_yaml,
    yaml_text,
)
from diffad_utils.execution.progress import (
    TAKEN,
    drop_stale_fingerprints,
    failures,
    fingerprint,
    is_current,
    last_seconds,
    state,
    status,
)
from diffad_utils.execution.reexecute import reexecute
from diffad_utils.execution.saving import LARGE_NOTEBOOK
from diffad_utils.execution.taken import FINISHED, finished
from diffad_utils.execution.workflow import chosen_runs, main, run_study
from diffad_utils.io.machine import visible_gpus

__all__ = [
    "DEFAULT_MINUTES",
    "FINISHED",
    "LARGE_NOTEBOOK",
    "PACKAGE",
    "TAKEN",
    "WORK",
    "PlannedRun",
    "ProfileError",
    "RunFailed",
    "RunPlan",
    "check_data",
    "check_run",
    "chosen_runs",
    "claim_gpus",
    "code_digest",
    "data_digest",
    "drop_stale_fingerprints",
    "failures",
    "fingerprint",
    "finished",
    "is_current",
    "label_of",
    "last_seconds",
    "load_plan",
    "main",
    "modules_of",
    "notebook_digest",
    "notebook_source",
    "package_digest",
    "profile_names",
    "read_yaml",
    "reexecute",
    "run_notebook",
    "run_study",
    "running",
    "state",
    "status",
    "visible_gpus",
    "yaml_text",
]
