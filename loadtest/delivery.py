"""Run a load test for a command and write its report to the terminal and to files."""

import sys
from contextlib import ExitStack
from pathlib import Path

from loadtest.options import ReportFiles
from loadtest.outputs import RecordFiles, csv_text, json_text, output
from loadtest.page import html_page
from loadtest.report import LoadReport
from loadtest.run import run_load
from loadtest.settings import RunSettings
from loadtest.study import Study
from loadtest.terminal import live_view, print_report, print_study
from turntable.console import say


class Delivery:
    """The output files of one command, opened before anything is measured, and the terminal."""

    def __init__(self, options: ReportFiles, files: ExitStack, records: Path | None = None) -> None:
        self._json = output(options.json_out, files)
        self._csv = output(options.csv_out, files)
        self._html = output(options.html_out, files)
        self._records = RecordFiles(records, files)

    async def measure(self, settings: RunSettings, label: str) -> LoadReport:
        """Run one load test; a terminal shows its progress."""
        with live_view(label) as on_snapshot:
            result = await run_load(settings, records=self._records.take(), on_snapshot=on_snapshot)
        report = LoadReport.of(settings, result)
        if sys.stderr.isatty() and label != "run":
            ttft = f"TTFT p99 {report.total.ttft.p99_ms:.1f} ms" if report.total.ttft else "no answer"
            say(f"{label}: {report.total.requests_per_s:.2f} answered/s, {ttft}, {report.verdict}", err=True)
        return report

    def deliver(self, report: LoadReport) -> None:
        """Print and write one report."""
        self._write(report)
        if not self._prints_json:
            print_report(report)

    def deliver_study(self, study: Study) -> None:
        """Print and write the load levels of a study."""
        self._write(study)
        if not self._prints_json:
            print_study(study)

    @property
    def _prints_json(self) -> bool:
        return self._json is not None and self._json.is_stdout

    def _write(self, result: LoadReport | Study) -> None:
        document = result.as_json()
        if self._json:
            self._json.write(json_text(document))
        if self._csv:
            self._csv.write(csv_text(document).encode())
        if self._html:
            self._html.write(html_page(document).encode())
