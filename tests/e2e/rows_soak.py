"""Load that should overwhelm a cluster, for long: it must cost other clients time, and the members nothing."""

import json
import os
import time

from cluster import SET, STUCK_S, Pod, names
from rows import expect, row

SOAK_S = int(os.environ.get("KUBERAFT_E2E_SOAK", "600"))
WRITERS = 128
IDLE_CONNECTIONS = 2000
MEMORY_SHARE_MAX = 0.8
PAUSE_S = 2
# The volumes may be folders of one disk: a tail of 10,000 entries of 1 MiB on each of three members would fill that.
TRAILING_ENTRIES = 200

# Opens connections and sends nothing; those that are closed are opened again. Prints how many are open at the end.
IDLE = r"""
use strict; use IO::Socket::INET; use IO::Select;
my ($count, $seconds, @targets) = @ARGV;
my (%open, $failed, $closed);
my $until = time + $seconds;
while (time < $until) {
    for my $target (@targets) {
        my $select = $open{$target} //= IO::Select->new;
        for my $socket ($select->can_read(0)) {
            my $got = sysread($socket, my $bytes, 4096);
            next if $got;
            $select->remove($socket); close $socket; $closed++;
        }
        for (1 .. 200) {
            last if $select->count >= $count || time >= $until;
            my $socket = IO::Socket::INET->new(PeerAddr => $target, Timeout => 2);
            if ($socket) { $select->add($socket) } else { $failed++; last }
        }
    }
    select(undef, undef, undef, 0.2);
}
my $sum = 0;
$sum += $_->count for values %open;
printf qq({"open":%d,"closed":%d,"failed":%d}\n), $sum, $closed // 0, $failed // 0;
"""


def headless(pod, port, namespace):
    return f"{pod}.{SET}-peers.{namespace}.svc:{port}"


def pod(name, image, node, words, command=None):
    """A pod that runs to its end. It starts again if it fails: a new pod's first look-up of a name may find no server."""
    container = {"name": name, "image": image, "imagePullPolicy": "IfNotPresent", "args": words}
    if command:
        container["command"] = command
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"nodeName": node, "restartPolicy": "OnFailure", "terminationGracePeriodSeconds": 0,
                     "automountServiceAccountToken": False, "containers": [container]}}


def bench(cluster, name, node, *words):
    endpoints = ",".join(headless(member, 7001, cluster.namespace) for member in names(3))
    return pod(name, cluster.image, node, ["bench", f"--endpoints={endpoints}", f"--duration={SOAK_S}s", "--output=json",
                                           *words])


def load_pods(test):
    """The hostile ones and the one whose requests must be served, all on one node."""
    cluster, node = test.cluster, test.load.node()
    targets = [headless(member, port, cluster.namespace) for member in names(3) for port in (7001, 7000)]
    script = f"ulimit -n $(ulimit -Hn); exec perl -e '{IDLE}' {IDLE_CONNECTIONS} {SOAK_S} {' '.join(targets)}"
    return [
        pod("e2e-idle", test.environment.tools_image, node, [script], ["sh", "-ec"]),
        bench(cluster, "e2e-writers", node, "--op=put", f"--clients={WRITERS}", "--value-bytes=1MiB", "--keys=64",
              "--timeout=30s"),
        bench(cluster, "e2e-others", node, "--op=mixed", "--clients=16", "--rate=50", "--keys=1000"),
    ]


def ended(cluster, name):
    return "terminated" in Pod(cluster.api(f"/api/v1/namespaces/{cluster.namespace}/pods/{name}")).container()


def working_sets(cluster):
    """Bytes that the kubelet counts towards the limit, by member."""
    found = {}
    for node in {one.node for one in cluster.pods().values()}:
        for each in cluster.api(f"/api/v1/nodes/{node}/proxy/stats/summary")["pods"]:
            if each["podRef"]["namespace"] == cluster.namespace and each["podRef"]["name"] in names(3):
                found[each["podRef"]["name"]] = each.get("memory", {}).get("workingSetBytes", 0)
    return found


class Peaks:
    """The most that any member used, as the process and as the kubelet see it."""

    def __init__(self):
        self.resident = self.working_set = 0

    def look(self, cluster):
        for member in names(3):
            self.resident = max(self.resident, cluster.metric(member, "process_resident_memory_bytes") or 0)
        self.working_set = max([self.working_set, *working_sets(cluster).values()])


def bytes_of(quantity):
    units = {"Ki": 2 ** 10, "Mi": 2 ** 20, "Gi": 2 ** 30}
    return int(quantity[:-2]) * units[quantity[-2:]]


def watched(test, pods):
    """Runs the pods to their end. Returns the peaks, and what each pod prints."""
    cluster, peaks, told = test.cluster, Peaks(), {}
    waiting = [each["metadata"]["name"] for each in pods]
    try:
        for each in pods:
            cluster.kubectl("apply", "-f", "-", input=json.dumps(each))
        until = time.monotonic() + SOAK_S + STUCK_S
        while waiting:
            expect(time.monotonic() < until, f"not at their end: {waiting}\n{cluster.picture()}")
            peaks.look(cluster)
            waiting = [name for name in waiting if not ended(cluster, name)]
            test.sleep(PAUSE_S)
        for each in pods:
            name = each["metadata"]["name"]
            lines = cluster.kubectl("logs", name).strip().splitlines()
            told[name] = json.loads("\n".join(lines[next(at for at, line in enumerate(lines) if line.startswith("{")):]))
    finally:
        cluster.kubectl("delete", "pod", *(each["metadata"]["name"] for each in pods), "--ignore-not-found")
    return peaks, told


def standing(cluster):
    """What must stay as it is: each start of each member, the leader, and the terms."""
    statuses = cluster.statuses(names(3))
    return cluster.starts(), cluster.leader(), [status["term"] for status in statuses]


@row(is_fresh=True)
def soak(test):
    """128 writers of 1 MiB values and 2,000 idle connections at each port of each member, for ten minutes
    (KUBERAFT_E2E_SOAK seconds): no restart, no leader change, memory below 80 % of the chart's limit."""
    cluster = test.cluster
    cluster.purge()
    cluster.install("--set", f"config.KUBERAFT_TRAILING_ENTRIES={TRAILING_ENTRIES}")
    cluster.settle(3)
    limit = cluster.stateful_set()["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"]
    before = standing(cluster)
    peaks, told = watched(test, load_pods(test))
    after = standing(cluster)
    writers, others, idle = (told[f"e2e-{name}"] for name in ("writers", "others", "idle"))
    share = peaks.resident / bytes_of(limit)
    figures = (f"{SOAK_S} s: at most {peaks.resident / 2 ** 20:.0f} MiB resident, {100 * share:.0f} % of {limit} (working set "
               f"{peaks.working_set / 2 ** 20:.0f} MiB); {per_second(writers)} writes/s of 1 MiB, refused {writers['errors']}; "
               f"{idle['open']} idle connections open at the end, {idle['closed']} closed by members, {idle['failed']} refused; "
               f"other clients: writes p99 {p99(others, 'writes')}, reads p99 {p99(others, 'reads')}, "
               f"failed {others['errors'] or 'none'}")
    expect(after == before, f"restarts, leader or terms changed: {before}, then {after}; {figures}")
    expect(share < MEMORY_SHARE_MAX, f"too much memory: {figures}")
    expect(idle["open"] or idle["closed"], f"no idle connection was made: {figures}")
    cluster.settle(3)
    cluster.purge()
    return figures


def per_second(report):
    return f"{report['writes']['per_second']:.0f}" if report["writes"] else "no"


def p99(report, kind):
    return f"{report[kind]['latency_ms']['p99']:.0f} ms" if report[kind] else "none done"
