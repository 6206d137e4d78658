# SPDX-License-Identifier: Apache-2.0
"""``report.html``: one file that needs nothing else, readable offline, in light and in dark, and on paper.

A :class:`~gaff.report.page.reported.ReportedRun` is all that the page shows; :mod:`.collect` gathers it from a run
directory, :mod:`.chart_data` makes the numbers of its charts, :mod:`.sections` its text and tables, :mod:`.build` puts
them into the template.  What the charts do is in ``assets/charts.js``, which knows no run and serves other pages too.
"""
