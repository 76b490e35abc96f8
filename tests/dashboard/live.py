#!/usr/bin/env python3
"""Runs every query of the dashboard and of the alerts against a real Prometheus, which scrapes a real cluster through
elections and the loss of its majority.

usage: tests/dashboard/live.py KUBERAFT

KUBERAFT is the binary. Three nodes and Prometheus (from PATH) run on free ports of the loopback address, with their data
in a temporary folder; all of them end with this, however it ends.
"""

import json
import os
import sys
import tempfile
import time

import dashboard as file
import expectations
import metrics_page
from cluster import PODS, RELEASE, NAMESPACE, SCRAPE_S, Cluster, Failed, Processes, Prometheus, wait

CHART = os.path.join(file.ROOT, "charts", "kuberaft")
# What `helm template` puts into the alerts' files.
PLACEHOLDERS = {
    "RUNBOOKS": "https://example.org",
    "NAMESPACE": NAMESPACE,
    "FULLNAME": f"{RELEASE}-kuberaft",
    "BACKUP": f"{RELEASE}-kuberaft-backup",
}
# These look back at what this test does to the cluster, or at how fast the machine is: they may wait, and not fire.
LOOK_BACK = {"KuberaftLeaderChangesOften", "KuberaftProposalsFailing", "KuberaftSlowFlush", "KuberaftSlowPeer"}
# Alerts whose condition holds while one and while two of three members are down.
WITHOUT_ONE = {"KuberaftMemberDown", "KuberaftFailureToleranceZero"}
WITHOUT_MAJORITY = {"KuberaftNoLeader"}


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kuberaft-dashboard-") as folder, Processes(folder) as processes:
        cluster = Cluster(processes, os.path.abspath(sys.argv[1]), folder)
        prometheus = Prometheus(processes, folder, cluster, alert_files(folder))
        run(cluster, prometheus)
    print(f"ok: the dashboard on a real cluster and a real Prometheus, in {time.monotonic() - began:.0f} s")


def run(cluster, prometheus):
    cluster.start()
    prometheus.start()
    start = time.time()
    cluster.load()
    wait("the load is seen", lambda: positive(prometheus, "sum(rate(kuberaft_http_requests_total[4s]))"))
    elections(cluster, prometheus, start)
    majority_lost(cluster, prometheus, start)
    cluster.load()
    wait("the load is seen again", lambda: positive(prometheus, "sum(rate(kuberaft_http_requests_total[4s]))"))
    dashboard = file.load()
    variables(dashboard, prometheus)
    panels(dashboard, prometheus, cluster, start)
    annotations(dashboard, prometheus, start)
    alerts(prometheus)
    names(cluster, dashboard, prometheus)


def positive(prometheus, expression):
    return any(float(series["value"][1]) > 0 for series in prometheus.instant(expression))


def leader_seen(prometheus, start):
    """The pod that alone leads, as the panels since `start` show it, and the highest term.

    It leads at the last two of a panel's points: one that led between two points only would be on no panel, and the last
    point alone may still change by a scrape that is under way.
    """
    leading = prometheus.panel({"expr": "kuberaft_raft_is_leader == 1"}, start)
    times = sorted({at for series in leading for at, _ in series["values"]})[-2:]
    led = {(at, series["metric"]["pod"]) for series in leading for at, _ in series["values"] if at in times}
    pods = {pod for _, pod in led}
    terms = [float(series["value"][1]) for series in prometheus.instant("kuberaft_raft_term")]
    if len(led) != 2 or len(pods) != 1 or not terms or times[-1] < time.time() - 2 * SCRAPE_S:
        return None
    return pods.pop(), max(terms)


def elections(cluster, prometheus, start):
    first, term = wait("Prometheus sees one leader", lambda: leader_seen(prometheus, start))
    to = next(pod for pod in PODS if pod != first)
    cluster.transfer(to)

    def follows():
        seen = leader_seen(prometheus, start)
        return seen if seen and seen[0] == to and seen[1] > term else None

    _, term = wait(f"Prometheus sees that {to} leads", follows)
    print(f"election 1: leadership handed from {first} to {to}, term {term:.0f}")
    cluster.kill(to)

    def elected():
        seen = leader_seen(prometheus, start)
        return seen if seen and seen[0] != to and seen[1] > term else None

    leader, term = wait("Prometheus sees another leader", elected)
    wait("the alerts see that a member is down", lambda: WITHOUT_ONE <= holding(prometheus), lambda: holding(prometheus))
    cluster.start_node(to)
    cluster.wait_ready()
    print(f"election 2: {to} killed, {leader} elected, term {term:.0f}")


def majority_lost(cluster, prometheus, start):
    """Two of three members die: requests fail, and the alerts' conditions hold."""
    cluster.end_load()
    leader, _ = wait("Prometheus sees one leader", lambda: leader_seen(prometheus, start))
    others = [pod for pod in PODS if pod != leader]
    for pod in (leader, others[0]):
        cluster.kill(pod)

    def failing():
        cluster.request_fails(others[1])
        rate = 'sum(increase(kuberaft_http_requests_total{code="503"}[1m]))'
        return positive(prometheus, rate) and WITHOUT_MAJORITY <= holding(prometheus)

    wait("Prometheus sees refused requests and no leader", failing)
    for pod in (leader, others[0]):
        cluster.start_node(pod)
    cluster.wait_ready()
    wait("Prometheus sees one leader", lambda: leader_seen(prometheus, start))
    print("majority lost and found again: requests were refused meanwhile")


def holding(prometheus):
    """The alerts whose condition holds now, whether or not it did long enough."""
    return {rule["name"] for rule in prometheus.rules() if prometheus.instant(rule["query"])}


def variables(dashboard, prometheus):
    values = {"datasource": "prometheus"}
    for variable in dashboard["templating"]["list"]:
        if variable["type"] != "query":
            continue
        query = file.substitute(variable["query"]["query"], values)
        wanted = {"namespace": NAMESPACE, "release": RELEASE}[variable["name"]]
        found = prometheus.label_values(query)
        if found != [wanted]:
            raise Failed(f"variable {variable['name']}: {query} gives {found} and not {[wanted]}")
        values[variable["name"]] = wanted
    print("ok: the variables offer the namespace and the release")


def panels(dashboard, prometheus, cluster, start):
    """Each query of each panel; while one's data is not yet as it should be, it is asked again."""
    left = set(expectations.QUERIES)
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            key = (panel["title"], panel["type"], target["refId"])
            expect = expectations.QUERIES.get(key)
            if expect is None:
                raise Failed(f"nothing is expected of {key}: enter it into tests/dashboard/expectations.py")
            left.discard(key)
            last = {}

            def holds(target=target, expect=expect, last=last):
                last["why"] = None
                try:
                    series = prometheus.panel(target, start)
                    expectations.legend(target, series)
                    expect(series, cluster)
                except expectations.Unexpected as error:
                    last["why"] = str(error)
                return last["why"] is None

            wait(f"panel {key} shows what it should", holds, lambda last=last: last.get("why"))
    if left:
        raise Failed(f"expected, and not on the dashboard: {sorted(left)}")
    print(f"ok: {len(expectations.QUERIES)} queries of {len(dashboard['panels'])} panels return what they should")


def annotations(dashboard, prometheus, start):
    for annotation in dashboard["annotations"]["list"]:
        points = [value for series in prometheus.panel(annotation["target"], start) for value in series["values"]]
        if not points:
            raise Failed(f"annotation {annotation['name']!r} marks nothing, though there were elections")
    print("ok: the elections are marked")


def alert_files(folder):
    """The alerts' files with the chart's placeholders filled in; their paths."""
    paths = []
    for name in sorted(os.listdir(os.path.join(CHART, "alerts"))):
        with open(os.path.join(CHART, "alerts", name), encoding="utf-8") as source:
            text = source.read()
        for placeholder, value in PLACEHOLDERS.items():
            text = text.replace(placeholder, value)
        paths.append(os.path.join(folder, name))
        with open(paths[-1], "w", encoding="utf-8") as out:
            out.write(text)
    return paths


def alerts(prometheus):
    evaluated = wait(
        "each alert has been evaluated",
        lambda: (rules := prometheus.rules()) and all(rule["health"] != "unknown" for rule in rules) and rules,
    )
    bad = [f"{rule['name']}: {rule.get('lastError')}" for rule in evaluated if rule["health"] != "ok"]
    if bad:
        raise Failed("alerts that cannot be evaluated: " + "; ".join(bad))
    wait("no alert's condition holds", lambda: holding(prometheus) <= LOOK_BACK, lambda: holding(prometheus))
    firing = [rule["name"] for rule in prometheus.rules() if rule["state"] == "firing"]
    if firing:
        raise Failed(f"alerts fire on a healthy cluster: {firing}")
    print(f"ok: {len(evaluated)} alerts are evaluated, and none fires; still looking back: {sorted(holding(prometheus)) or 'none'}")


def names(cluster, dashboard, prometheus):
    found = list(metrics_page.differences(cluster.metrics()))
    asked = json.dumps(dashboard) + json.dumps([rule["query"] for rule in prometheus.rules()])
    found += metrics_page.unknown(asked)
    if found:
        raise Failed("docs/metrics.md and what the nodes show differ:\n  " + "\n  ".join(found))
    print("ok: docs/metrics.md names every metric that a node shows, and no other")


if __name__ == "__main__":
    try:
        main()
    except Failed as failure:
        sys.exit(f"tests/dashboard/live.py: {failure}")
