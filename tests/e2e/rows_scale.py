"""Following the number of replicas."""

import time

from cluster import CHART, RELEASE, Failed, names, pod_name
from rows import expect, milliseconds, row


@row(is_quick=True)
def scaling(test):
    """1 → 3 → 5 → 3 → 1 → 0 → 3 by `kubectl scale`."""
    cluster, load, told = test.cluster, test.load, []
    cluster.scale(1)
    cluster.settle(1)
    for members in (3, 5, 3, 1):
        with test.measured(f"to-{members}") as measured:
            cluster.scale(members)
            measured.whole(members)
        done = measured.round
        told.append(f"→{members} {done.whole_s:.1f} s (gap {milliseconds(done.gap_s)}, "
                    f"Service {milliseconds(done.service_gap_s)})")
    before = cluster.cluster_id()
    cluster.scale(0)
    told.append(f"→0 {cluster.wait_for('no pods', lambda: not cluster.pods()):.1f} s")
    began = time.monotonic()
    cluster.scale(3)
    cluster.settle(3)
    told.append(f"→3 {time.monotonic() - began:.1f} s")
    expect(cluster.cluster_id() == before, "after hibernation it is another cluster")
    load.finish()
    return "1 " + ", ".join(told)


@row()
def woken_too_small(test):
    """3 → 0 → 1 waits for a majority and says so; 3 again works."""
    cluster = test.cluster
    with test.measured("before-sleep"):
        pass
    cluster.scale(0)
    cluster.wait_for("no pods", lambda: not cluster.pods())
    cluster.scale(1)
    took = cluster.wait_for("the advice", lambda: "scale back to 3" in cluster.reasons(pod_name(0)))
    text = cluster.reasons(pod_name(0))
    if cluster.pods()[pod_name(0)].is_ready:
        raise Failed("one of three members is ready by itself")
    cluster.scale(3)
    again = cluster.settle(3)
    expect(sorted(v["name"] for v in cluster.status(pod_name(0))["voters"]) == names(3), "other members")
    test.load.finish()
    return f"says after {took:.1f} s: {text}; whole {again:.1f} s after scaling to 3"


@row()
def even_and_many(test):
    """3 → 4 → 7 → 3: an even number of voters works and shows; seven on three nodes; all go again in one step."""
    cluster, told = test.cluster, []
    for members in (4, 7, 3):
        with test.measured(f"to-{members}") as measured:
            cluster.scale(members)
            measured.whole(members)
        shown = {cluster.metric(name, "kuberaft_raft_voters") for name in names(members)}
        expect(shown == {members}, f"the metrics show {shown} voters, not {members}")
        told.append(f"→{members} {measured.round.whole_s:.1f} s (gap {milliseconds(measured.round.gap_s)}, "
                    f"Service {milliseconds(measured.round.service_gap_s)})")
    notes = cluster.helm("upgrade", RELEASE, CHART, *cluster.values(), "--dry-run=server", "--set", "replicaCount=4")
    expect("WARNING: 4 members survive no more failures than 3" in notes, "the notes do not warn of an even number")
    cluster.upgrade()
    return ", ".join(told)
