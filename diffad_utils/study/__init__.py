"""From a notebook's parameters to a complete run folder: rules, parameters, folders, manifest, tables, records, claims.

Notebooks call `study.start` and `Run.record`; summaries read runs with `study.load_runs`. Nothing here knows a method.
"""

from diffad_utils.io.files import checksum, shorten, to_json, write_atomically
from diffad_utils.io.machine import PACKAGES, versions
from diffad_utils.io.paths import reports, repository
from diffad_utils.study.collected import Collected
from diffad_utils.study.folders import (
    METHOD_OF_NOTEBOOK,
    method_of,
    profile_folder,
    reference_folder,
    reports_folder,
    run_folder,
)
from diffad_utils.study.manifest import (
    describe_index,
    git_state,
    peak_memory,
    provenance,
    resolve_device,
    seed_everything,
)
from diffad_utils.study.parameters import (
    INJECTED_CELL,
    OWN_CELL,
    Parameters,
    assigned_names,
    check_parameters,
    default_parameters,
    notebook_parameters,
    parameters_of_session,
    with_category_names,
)
from diffad_utils.study.records import RunRecord, load_run, load_runs, table, unfinished_runs
from diffad_utils.study.rules import RULES, ParameterError, Rule
from diffad_utils.study.run import Run, start
from diffad_utils.study.tables import (
    MAPS_LIMIT_BYTES,
    defect_of,
    image_intervals,
    score_table,
    small_maps,
    usable_masks,
)

__all__ = [
    "INJECTED_CELL",
    "MAPS_LIMIT_BYTES",
    "METHOD_OF_NOTEBOOK",
    "OWN_CELL",
    "PACKAGES",
    "RULES",
    "Collected",
    "ParameterError",
    "Parameters",
    "Rule",
    "Run",
    "RunRecord",
    "assigned_names",
    "check_parameters",
    "checksum",
    "default_parameters",
    "defect_of",
    "describe_index",
    "git_state",
    "image_intervals",
    "load_run",
    "load_runs",
    "method_of",
    "notebook_parameters",
    "parameters_of_session",
    "peak_memory",
    "profile_folder",
    "provenance",
    "reference_folder",
    "reports",
    "reports_folder",
    "repository",
    "resolve_device",
    "run_folder",
    "score_table",
    "seed_everything",
    "shorten",
    "small_maps",
    "start",
    "table",
    "to_json",
    "unfinished_runs",
    "usable_masks",
    "versions",
    "with_category_names",
    "write_atomically",
]
