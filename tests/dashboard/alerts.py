"""The alerts' files: what promtool does not say of them."""

import os
import re

from dashboard import ROOT

ALERTS = os.path.join(ROOT, "charts", "kuberaft", "alerts")
MONITOR = os.path.join(ROOT, "charts", "kuberaft", "templates", "monitoring.yaml")
RUNBOOKS = os.path.join(ROOT, "docs", "runbooks")
TESTS = os.path.join(ROOT, "tests", "chart", "alerts_test.yaml")
# How the ServiceMonitor labels what is scraped; tests/dashboard/cluster.py does the same.
LABELLED_BY = ["jobLabel: app.kubernetes.io/name", "port: ops", "targetLabel: release", "replacement: {{ .Release.Name }}"]


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def names():
    """The alerts, each with the name of its runbook page."""
    found = {}
    for name in sorted(os.listdir(ALERTS)):
        for rule in read(os.path.join(ALERTS, name)).split("- alert: ")[1:]:
            page = re.search(r"runbook_url: RUNBOOKS/(\S+)", rule)
            found[rule.split()[0]] = page and page.group(1)
    return found


def problems():
    """In words: alerts without a page or a test, pages without an alert."""
    alerts, tests, pages = names(), read(TESTS), set(os.listdir(RUNBOOKS))
    for alert, page in alerts.items():
        if page not in pages:
            yield f"{alert}: no page docs/runbooks/{page}"
        elif not read(os.path.join(RUNBOOKS, page)).startswith(f"# {alert}\n"):
            yield f"docs/runbooks/{page} is not called {alert}"
        cases = [case.split("eval_time")[0] for case in re.split(rf"alertname: {alert}\b", tests)[1:]]
        if not any("exp_alerts" in case for case in cases):
            yield f"{alert}: no test in which it fires"
        if all("exp_alerts" in case for case in cases):
            yield f"{alert}: no test in which it does not fire"
    for page in sorted(pages - set(alerts.values())):
        yield f"docs/runbooks/{page}: no alert has it"
    for part in LABELLED_BY:
        if part not in read(MONITOR):
            yield f"the ServiceMonitor no longer has {part!r}: label the targets of tests/dashboard/cluster.py like it"
