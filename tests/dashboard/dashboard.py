"""The dashboard file: what each panel must have, and its variables put in as Grafana does."""

import copy
import json
import os
import re

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
FILE = os.path.join(ROOT, "charts", "kuberaft", "dashboards", "kuberaft.json")
UID = "kuberaft-cluster"
GRID_WIDTH = 24
# Grafana's names of units (packages/grafana-data/src/valueFormats/categories.ts); an unknown one is shown as a suffix.
UNITS = {"none", "short", "s", "bytes", "Bps", "ops", "opm", "reqps"}
# What issue and interface ask for, each with the metrics that such a panel shows.
WANTED = {
    "leader timeline by pod": ("state-timeline", ["kuberaft_raft_is_leader", "by (pod)"]),
    "term": ("timeseries", ["kuberaft_raft_term"]),
    "elections": ("timeseries", ["rate(kuberaft_raft_elections_started_total", "rate(kuberaft_raft_elections_won_total"]),
    "votes": ("timeseries", ["rate(kuberaft_raft_votes_total", "rate(kuberaft_raft_prevotes_total"]),
    "commit and applied index": ("timeseries", ["(kuberaft_raft_commit_index", "(kuberaft_raft_applied_index"]),
    "their difference": ("timeseries", ["kuberaft_raft_commit_index", " - kuberaft_raft_applied_index"]),
    "follower lag": ("timeseries", ["kuberaft_raft_peer_lag_entries"]),
    "flush latency": ("timeseries", ["kuberaft_storage_flush_duration_seconds_bucket"]),
    "commit latency": ("timeseries", ["kuberaft_raft_commit_duration_seconds_bucket"]),
    "peer round trip": ("timeseries", ["kuberaft_raft_peer_rtt_seconds"]),
    "proposals": ("timeseries", ["kuberaft_raft_proposals_failed_total"]),
    "proposals that wait": ("timeseries", ["kuberaft_raft_proposals_pending"]),
    "failure tolerance": ("timeseries", ["kuberaft_raft_failure_tolerance"]),
    "storage": ("timeseries", ["kuberaft_storage_bytes"]),
    "requests": ("timeseries", ["rate(kuberaft_http_requests_total"]),
    "request latency": ("timeseries", ["kuberaft_http_request_duration_seconds_bucket"]),
}


def load():
    with open(FILE, encoding="utf-8") as file:
        return json.load(file)


def substitute(text, values):
    """Puts in `$name` and `${name}`; a variable that is not known is an error, as Grafana would send it as it is."""

    def value(found):
        name = found.group(1) or found.group(2)
        if name not in values:
            raise ValueError(f"unknown variable ${name} in: {text}")
        return str(values[name])

    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", value, text)


def legend_labels(legend):
    """The labels that a legend such as `p50 {{pod}}` shows."""
    return re.findall(r"{{\s*(\w+)\s*}}", legend)


def problems(dashboard):
    """What the types do not say: everything named, described, with a unit, on the grid, and nothing left out."""
    found = []
    if dashboard.get("uid") != UID:
        found.append(f"the uid is {dashboard.get('uid')!r} and not {UID!r}: links to it break")
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    for name, kind in (("datasource", "datasource"), ("namespace", "query"), ("release", "query")):
        if variables.get(name, {}).get("type") != kind:
            found.append(f"no variable {name!r} of type {kind!r}")
    known = dict.fromkeys(list(variables) + ["__rate_interval", "__interval", "__range"], "x")
    panels = dashboard["panels"]
    ids = [panel["id"] for panel in panels]
    found += [f"id {id} is there twice" for id in sorted(set(ids)) if ids.count(id) > 1]
    for panel in panels:
        found += [f"panel {panel.get('title')!r}: {what}" for what in panel_problems(panel, known)]
    for at, one in enumerate(panels):
        for other in panels[at + 1 :]:
            if overlap(one["gridPos"], other["gridPos"]):
                found.append(f"panels {one['title']!r} and {other['title']!r} overlap")
    for name, (kind, parts) in WANTED.items():
        if not any(panel["type"] == kind and shows(panel, parts) for panel in panels):
            found.append(f"no panel for {name}")
    return found


def panel_problems(panel, known):
    for field in ("title", "description"):
        if not panel.get(field, "").strip():
            yield f"no {field}"
    unit = panel.get("fieldConfig", {}).get("defaults", {}).get("unit")
    if unit not in UNITS:
        yield f"unit {unit!r} is none of {sorted(UNITS)}"
    grid = panel["gridPos"]
    if min(grid["x"], grid["y"]) < 0 or min(grid["w"], grid["h"]) < 1 or grid["x"] + grid["w"] > GRID_WIDTH:
        yield f"{grid} is not on the grid"
    if not panel.get("targets"):
        yield "no query"
    if panel.get("datasource", {}).get("uid") != "${datasource}":
        yield "not the data source of the variable"
    for target in panel.get("targets", []):
        for selector in re.findall(r"kuberaft_\w+({[^}]*})?", target["expr"]):
            if 'namespace="$namespace"' not in selector or 'release="$release"' not in selector:
                yield f"shows other clusters, too: {target['expr']}"
        try:
            substitute(target["expr"], known)
        except ValueError as error:
            yield str(error)


def overlap(one, other):
    return (
        one["x"] < other["x"] + other["w"]
        and other["x"] < one["x"] + one["w"]
        and one["y"] < other["y"] + other["h"]
        and other["y"] < one["y"] + one["h"]
    )


def shows(panel, parts):
    expressions = " ".join(target["expr"] for target in panel["targets"])
    return all(part in expressions for part in parts)


def broken(dashboard):
    """Copies with one mistake each, as (what is wrong, copy, whether the types find it; else `problems` does)."""

    def edit(change):
        other = copy.deepcopy(dashboard)
        panels = {panel["title"] + "/" + panel["type"]: panel for panel in other["panels"]}
        change(other, panels)
        return other

    for what, change in {
        "a misspelled field of the dashboard": lambda d, p: d.update(tittle="kuberaft"),
        "a refresh that is a number": lambda d, p: d.update(refresh=10),
        "a cursor mode that does not exist": lambda d, p: d.update(graphTooltip=7),
        "a variable without a name": lambda d, p: d["templating"]["list"][1].pop("name"),
        "a kind of variable that does not exist": lambda d, p: d["templating"]["list"][1].update(type="prom"),
        "a panel type that is not used": lambda d, p: p["Term/stat"].update(type="graph"),
        "a panel without a unit": lambda d, p: p["Storage/timeseries"]["fieldConfig"]["defaults"].pop("unit"),
        "a misspelled field of a panel": lambda d, p: p["Storage/timeseries"].update(descripton="x"),
        "a misspelled option of a graph": lambda d, p: p["Storage/timeseries"]["options"].update(tooltips={}),
        "a way to draw that does not exist": lambda d, p: p["Storage/timeseries"]["fieldConfig"]["defaults"]["custom"].update(drawStyle="lines"),
        "a misspelled way to draw": lambda d, p: p["Storage/timeseries"]["fieldConfig"]["defaults"]["custom"].update(lineWith=1),
        "a timeline's width as text": lambda d, p: p["Leader by pod/state-timeline"]["fieldConfig"]["defaults"]["custom"].update(lineWidth="1"),
        "a stat with a graph's options": lambda d, p: p["Term/stat"].update(options=p["Storage/timeseries"]["options"]),
        "a position as text": lambda d, p: p["Term/stat"]["gridPos"].update(x="0"),
        "a query without an expression": lambda d, p: p["Term/stat"]["targets"][0].pop("expr"),
    }.items():
        yield what, edit(change), True
    for what, change in {
        "another uid": lambda d, p: d.update(uid="other"),
        "no release to choose": lambda d, p: d["templating"]["list"].pop(),
        "an empty description": lambda d, p: p["Storage/timeseries"].update(description=" "),
        "a unit that does not exist": lambda d, p: p["Storage/timeseries"]["fieldConfig"]["defaults"].update(unit="byte"),
        "panels that overlap": lambda d, p: p["Storage/timeseries"]["gridPos"].update(x=15),
        "a panel beyond the edge": lambda d, p: p["Storage/timeseries"]["gridPos"].update(w=9),
        "an unknown variable": lambda d, p: p["Storage/timeseries"]["targets"][0].update(expr="rate(x[$interval])"),
        "a query over all releases": lambda d, p: p["Storage/timeseries"]["targets"][0].update(expr="kuberaft_raft_term"),
        "a panel left out": lambda d, p: d["panels"].remove(p["Follower lag/timeseries"]),
    }.items():
        yield what, edit(change), False
