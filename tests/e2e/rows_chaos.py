"""`kuberaft chaos --kube` as an administrator runs it: from outside, through the API server's port-forward."""

import json
import signal
import subprocess

from cluster import SET, STUCK_S, Failed
from environment import binary
from rows import expect, milliseconds, row

OF_PODS = ["delete:leader", "force:leader", "two", "all", "wipe"]
OF_NODES = ["cable:leader", "power:leader"]
BROKEN_S = 10


def chaos(test, faults, hold_s):
    """The command that does so; faults of nodes by the program of the surroundings."""
    words = [binary(), "chaos", "--kube", "--namespace", test.cluster.namespace, "--statefulset", SET,
             f"--faults={','.join(faults)}", f"--hold={hold_s:.0f}s", "--output=json"]
    for name, (fault, mend) in {"cable": ("cut", "heal"), "power": ("crash", "boot")}.items():
        if any(wanted.startswith(name) for wanted in faults):
            for flag, does in (("--command", fault), ("--heal", mend)):
                words += [flag, f"{name}=node={{node}}; '{test.environment.program}' {does} \"${{node##*[!0-9]}}\""]
    return words


@row()
def chaos_outside(test):
    """`kuberaft chaos --kube` through port-forward: each kind of fault once, then Ctrl-C while a node is cut off."""
    cluster, environment = test.cluster, test.environment
    test.load.finish()
    faults = OF_PODS + (OF_NODES if environment.program else [])
    done = subprocess.run(chaos(test, faults, BROKEN_S), capture_output=True, text=True, timeout=STUCK_S * len(faults))
    if done.returncode != 0:
        raise Failed(f"exit code {done.returncode}: {done.stderr[-2000:]}")
    report = json.loads(done.stdout)
    expect(report["ok"] and len(report["rounds"]) == len(faults), f"not all rounds: {report['problems']}")
    told = [f"{found['fault']} {milliseconds(found['write_gap_ms']['max'] / 1000)}, "
            f"whole {found['healthy_after_ms']['max'] / 1000:.1f} s" for found in report["faults"]]
    told.append(f"{report['final']['acknowledged_writes']} writes, none lost")
    cluster.settle(3)
    if environment.program:
        told.append(interrupted(test))
    return "; ".join(told)


def interrupted(test):
    """SIGINT while a node is cut off: it is healed, and nothing of the load is left."""
    leader = test.cluster.leader()
    words = chaos(test, ["cable:leader"], STUCK_S)
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        others = [name for name in sorted(test.cluster.pods()) if name != leader]
        test.cluster.wait_for("another leader behind the cut", lambda: process.poll() is not None or "leader" in [
            status and status["role"] for status in test.cluster.statuses(others)])
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=STUCK_S)
    finally:
        if process.poll() is None:
            process.kill()
            test.environment.run("heal", test.environment.number(test.cluster.pods()[leader].node))
    expect(process.returncode == 1 and "healing what is broken" in said, f"exit code {process.returncode}: {said}")
    test.cluster.settle(3)
    return "Ctrl-C heals a cut node"
