"""Running a test for a command, and handing its report to the terminal and to the files asked for."""

import sys
from contextlib import ExitStack

from rich.console import Console

from loadtest.display import live_view, print_report, print_study
from loadtest.options import LoadOptions
from loadtest.outputs import RecordFiles, opened, write_json
from loadtest.page import html_page
from loadtest.report import Report
from loadtest.run import run_load
from loadtest.settings import RunSettings
from loadtest.spreadsheet import csv_text
from loadtest.study import Study


class Delivery:
    """The files of one command, opened before anything is measured, and the console."""

    def __init__(self, options: LoadOptions, files: ExitStack) -> None:
        self._json = opened(options.json_out, files)
        self._csv = opened(options.csv_out, files)
        self._html = opened(options.html_out, files)
        self._records = RecordFiles(options.records, files)
        self._progress = Console(stderr=True)

    async def measure(self, settings: RunSettings, label: str) -> Report:
        """Run one test in view of whoever waits."""
        with live_view(self._progress, label) as on_snapshot:
            result = await run_load(settings, records=self._records.take(), on_snapshot=on_snapshot)
        report = Report.of(settings, result)
        if self._progress.is_terminal and label != "run":
            ttft = f"TTFT p99 {report.total.ttft.p99_ms:.1f} ms" if report.total.ttft else "no answer"
            self._progress.print(f"{label}: {report.total.requests_per_s:.2f} answered/s, {ttft}, {report.verdict}")
        return report

    def deliver(self, report: Report) -> None:
        """Show and write one report."""
        self._write(report)
        if self._json is not sys.stdout.buffer:
            print_report(report, Console())

    def deliver_study(self, study: Study) -> None:
        """Show and write the levels of a study."""
        self._write(study)
        if self._json is not sys.stdout.buffer:
            print_study(study, Console())

    def _write(self, result: Report | Study) -> None:
        document = result.as_json()
        write_json(self._json, document)
        if self._csv:
            self._csv.write(csv_text(document).encode())
        if self._html:
            self._html.write(html_page(document).encode())
