"""Small load reports and studies with known figures."""

from loadtest.client_saturation import ClientLoad
from loadtest.collector import LiveTotals
from loadtest.records import RequestRecord
from loadtest.report import LoadReport
from loadtest.run import LoadRun, Provenance
from loadtest.settings import RunSettings
from loadtest.study import Level, Study

NASTY = '<script>alert("x")</script>'
SETTINGS = RunSettings("http://127.0.0.1:1", ("base", NASTY), usd_per_hour=2.0, key="tt-secret")


def report(ttft_ms: float = 20, cpu_share: float = 0.1, settings: RunSettings = SETTINGS) -> LoadReport:
    totals = LiveTotals.empty(settings.slo, settings.models)
    for index in range(10):
        first_s = index + ttft_ms / 1000
        record = RequestRecord(index, settings.models[index % 2], index, index, first_s + 0.1, 200, [first_s])
        record.cold = index < 2
        totals.add(record)
    provenance = Provenance.now(settings.url, settings.models, "0.32.0")
    return LoadReport.of(settings, LoadRun(totals, ClientLoad(1, 0.1, cpu_share, None), False, provenance))


def study() -> Study:
    return Study("sweep", [Level(f"{rate} req/s", rate, [report(ttft_ms=rate)]) for rate in (10, 20, 40)], "Done.")
