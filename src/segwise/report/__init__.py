"""Statistics, tables, figures and one self-contained HTML page; reads records only.

`build(run_dir)` writes RUN/report.html; `page(records, scores, ...)` is the same without a folder; `rows(records,
scores)` is the ranking for a terminal.
"""

from segwise.report.document import build, page, rows

__all__ = ["build", "page", "rows"]
