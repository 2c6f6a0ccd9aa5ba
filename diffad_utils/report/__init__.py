"""The pages of a report.

What may be touched: how it looks. The pages show what runs recorded; runs of earlier versions stay readable.
"""

from diffad_utils.io.png import data_uri
from diffad_utils.report.pages import PAGE_LIMIT_BYTES, anchor, code_digest, ledger_rows, mathml, notebook_page, write
from diffad_utils.report.site import write_site

__all__ = [
    "PAGE_LIMIT_BYTES",
    "anchor",
    "code_digest",
    "data_uri",
    "ledger_rows",
    "mathml",
    "notebook_page",
    "write",
    "write_site",
]
