#!/usr/bin/env python3
"""Checks the dashboard's and the alerts' files by themselves, and writes the dashboard as TypeScript for the check against
Grafana's types.

usage: tests/dashboard/check.py FOLDER

FOLDER gets dashboard.ts, the dashboard as it is, and refused.ts, copies of it with one mistake each that the compiler
must find.
"""

import json
import os
import sys

import alerts
import dashboard as file

IMPORT = "import type { ClusterDashboard } from '../types';\n"


def main():
    folder = sys.argv[1]
    os.makedirs(folder, exist_ok=True)
    dashboard = file.load()
    found = [f"charts/kuberaft/dashboards/kuberaft.json: {what}" for what in file.problems(dashboard)]
    found += alerts.problems()
    if found:
        sys.exit("\n".join(found))
    checked, refused = 0, [IMPORT]
    for what, copy, by_types in file.broken(dashboard):
        if by_types:
            refused.append(f"// @ts-expect-error {what}\n")
            refused.append(f"export const copy{len(refused)}: ClusterDashboard = {json.dumps(copy)};\n")
        elif not file.problems(copy):
            sys.exit(f"tests/dashboard/dashboard.py does not find: {what}")
        checked += 1
    with open(os.path.join(folder, "dashboard.ts"), "w", encoding="utf-8") as out:
        out.write(IMPORT + f"export const dashboard: ClusterDashboard = {json.dumps(dashboard, indent=2)};\n")
    with open(os.path.join(folder, "refused.ts"), "w", encoding="utf-8") as out:
        out.writelines(refused)
    print(f"ok: {len(dashboard['panels'])} panels, all named, described, with units and in their places; {checked} mistakes refused")
    print(f"ok: {len(alerts.names())} alerts, each with a runbook page, and tested to fire and not to")


main()
