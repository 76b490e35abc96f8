"""docs/metrics.md compared with what running nodes show."""

import os
import re

from dashboard import ROOT

PAGE = os.path.join(ROOT, "docs", "metrics.md")
# Shown only with TLS, which the cluster of this test is without.
ONLY_WITH_TLS = "kuberaft_tls_"
# What the text format adds to a histogram's name, and to its labels.
HISTOGRAM_PARTS = ("_bucket", "_sum", "_count")


def listed():
    """Type and labels of each metric on the page, by name."""
    with open(PAGE, encoding="utf-8") as file:
        rows = re.findall(r"^\| `(\w+)` \| (\w+) \| ([^|]*) \|", file.read(), re.MULTILINE)
    return {name: (kind, frozenset(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}


def label_values():
    """The values of the labels that have a fixed set of them, by label."""
    with open(PAGE, encoding="utf-8") as file:
        table = file.read().partition("## Values of labels")[2]
    rows = re.findall(r"^\| `(\w+)` \| ([^|]*) \|$", table, re.MULTILINE)
    return {label: set(re.findall(r"`(\w+)`", values)) for label, values in rows}


def shown(texts):
    """The same of what nodes show."""
    found = {}
    for text in texts:
        kinds = dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE))
        for name, labels in re.findall(r"^([a-z_]+)(?:{(.*)})? \S+$", text, re.MULTILINE):
            for part in HISTOGRAM_PARTS:
                base = name.removesuffix(part)
                name = base if kinds.get(base) == "histogram" else name
            keys = frozenset(re.findall(r'(\w+)="', labels)) - {"le"}
            found[name] = (kinds[name], keys)
    return found


def differences(texts):
    """In words, what the page and the nodes do not agree on."""
    page, nodes = listed(), shown(texts)
    for name in sorted(page.keys() | nodes.keys()):
        if name not in page:
            yield f"{name} is shown and not on the page"
        elif name not in nodes:
            if not name.startswith(ONLY_WITH_TLS):
                yield f"{name} is on the page and not shown"
        elif page[name] != nodes[name]:
            yield f"{name} is {nodes[name]} and on the page {page[name]}"
    for label, values in label_values().items():
        found = {value for text in texts for value in re.findall(rf'^kuberaft_.*\b{label}="(\w+)"', text, re.MULTILINE)}
        for value in sorted(found - values):
            yield f'{label}="{value}" is shown and not on the page'


def unknown(queries):
    """Metrics of kuberaft that queries ask for and the page does not have."""
    page = listed()
    for name in sorted(set(re.findall(r"kuberaft_[a-z_]+", queries))):
        bases = {name, *(name.removesuffix(part) for part in HISTOGRAM_PARTS)}
        if not bases & page.keys() and not name.startswith(ONLY_WITH_TLS):
            yield f"{name} is asked for and not on the page"
