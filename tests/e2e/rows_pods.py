"""Pods and volumes that go away."""

import random

from cluster import Failed, names, pod_name
from environment import PodCut
from rows import expect, percentile, row, spread

GRACEFUL_P99_MAX_S = 0.1
FORCED_P50_MAX_S, FORCED_MAX_S = 1.0, 3.0


def delete(test, name, victims, force=False):
    """Deletes these pods under load and waits until all is well again. Returns the round."""
    cluster = test.cluster
    uids = {victim: cluster.pods()[victim].uid for victim in victims}
    with test.measured(name) as measured:
        cluster.delete(*victims, force=force)
        cluster.wait_replaced(uids)
        measured.whole()
    return measured.round


def undisturbed(test):
    """Ten seconds without a fault."""
    with test.measured("nothing") as measured:
        test.sleep(10)
    return measured.round


@row(is_quick=True)
def leader_deleted(test):
    """The leader's pod is deleted: it hands over before it goes."""
    return str(delete(test, "leader", [test.cluster.leader()]))


@row(is_quick=True)
def leader_deleted_by_force(test):
    """The leader's pod is deleted without grace, as if it had died."""
    return str(delete(test, "leader-forced", [test.cluster.leader()], force=True))


@row()
def follower_deleted(test):
    """A random follower's pod is deleted."""
    return str(delete(test, "follower", [random.choice(test.cluster.followers())]))


@row()
def two_deleted(test):
    """Two of three pods at once, the leader among them."""
    cluster = test.cluster
    return str(delete(test, "two", [cluster.leader(), random.choice(cluster.followers())]))


@row()
def all_deleted(test):
    """All pods at once."""
    return str(delete(test, "all", names(3)))


@row()
def many_deletions(test):
    """100 pod deletions of mixed kinds; gaps by kind as median / 99th percentile / maximum. Among them rounds in which
    nothing is deleted: what the machines do by themselves."""
    kinds = (["graceful leader"] * 30 + ["forced leader"] * 30 + ["follower"] * 20 + ["two"] * 4 + ["all"] * 4
             + ["nothing"] * 10)
    order = random.Random(1)
    order.shuffle(kinds)
    found = {}
    for at, kind in enumerate(kinds):
        leader, followers = test.cluster.leader(), test.cluster.followers()
        victims = {"follower": [order.choice(followers)], "two": [leader, order.choice(followers)], "all": names(3)}
        if kind == "nothing":
            done = undisturbed(test)
        else:
            done = delete(test, kind.replace(" ", "-"), victims.get(kind, [leader]), force=kind == "forced leader")
        found.setdefault(kind, []).append(done)
        print(f"  {at + 1:3}/{len(kinds)} {kind:16} {done}", flush=True)
    deleted = sum(len(rounds) * {"two": 2, "all": 3, "nothing": 0}.get(kind, 1) for kind, rounds in found.items())
    told = [f"{deleted} pods deleted"]
    for kind, rounds in found.items():
        gaps, by_service = ([getattr(done, of) for done in rounds] for of in ("gap_s", "service_gap_s"))
        whole = [done.whole_s for done in rounds if done.whole_s is not None]
        told.append(f"{kind} ({len(rounds)}): {spread(gaps)}; Service {spread(by_service)}"
                    + (f"; whole again {percentile(whole, 50):.1f} s" if whole else ""))
    graceful, forced = ([done.gap_s for done in found[kind]] for kind in ("graceful leader", "forced leader"))
    text = "\n    ".join(told)
    expect(percentile(graceful, 99) <= GRACEFUL_P99_MAX_S, f"too long a gap on a graceful delete of the leader: {text}")
    expect(percentile(forced, 50) <= FORCED_P50_MAX_S and max(forced) <= FORCED_MAX_S,
           f"too long a gap on a forced delete of the leader: {text}")
    return text


def wipe(test, pod):
    """A volume is lost: its member is replaced by a new node of the same name, in the same cluster."""
    cluster = test.cluster
    before, uid = cluster.status(pod), cluster.pods()[pod].uid
    with test.measured("wiped") as measured:
        cluster.kubectl("delete", "pvc", f"data-{pod}", "--wait=false")
        cluster.delete(pod)
        cluster.wait_replaced({pod: uid})
        measured.whole()
    after = cluster.status(pod)
    if after["cluster_id"] != before["cluster_id"] or after["node_id"] == before["node_id"]:
        raise Failed(f"expected a new member of cluster {before['cluster_id']}, found {after}")
    return str(measured.round)


@row()
def follower_wiped(test):
    """A follower loses its volume."""
    return wipe(test, next(name for name in test.cluster.followers() if name != pod_name(0)))


@row(is_quick=True)
def ordinal_0_wiped(test):
    """The pod that forms clusters loses its volume, while it leads."""
    test.cluster.transfer_leadership(pod_name(0))
    return wipe(test, pod_name(0))


@row()
def volume_copied(test):
    """Another member's volume under a pod: two processes with one node id. The copy is refused."""
    cluster, environment = test.cluster, test.environment
    original, copy = pod_name(0), pod_name(1)
    nodes = {name: pod.node for name, pod in cluster.pods().items()}
    with test.measured("before-copy"):
        pass
    before = cluster.cluster_id()
    cluster.scale(0)
    cluster.wait_for("no pods", lambda: not cluster.pods())
    tools = {pod: f"e2e-tools-{pod}" for pod in (original, copy)}
    try:
        for pod, name in tools.items():
            environment.tools(name, node=nodes[pod], claim=f"data-{pod}")
        environment.copy_volume(tools[original], tools[copy])
    finally:
        environment.remove_tools(*tools.values())
    cluster.scale(3)
    took = cluster.wait_for("a leader without the copy", lambda: cluster.pods()[original].is_ready)
    said = cluster.wait_for("the copy to say what is wrong", lambda: complaint(cluster, copy))
    text = complaint(cluster, copy)
    expect(not cluster.pods()[copy].is_ready, f"the copy is ready: {cluster.status(copy)}")
    # What the administrator does: that volume goes, and a new member comes.
    cluster.kubectl("delete", "pvc", f"data-{copy}", "--wait=false")
    cluster.delete(copy)
    cluster.settle(3)
    expect(cluster.cluster_id() == before, "another cluster")
    test.load.finish()
    return f"the others serve after {took:.1f} s; the copy is refused ({said:.1f} s): {text}"


def complaint(cluster, pod):
    """Why this pod does not serve, in its own words."""
    log = cluster.kubectl("logs", pod, "--tail=50", check=False) + cluster.kubectl(
        "logs", pod, "--previous", "--tail=50", check=False)
    lines = [line for line in log.splitlines() if "it was first used as" in line or "is a copy" in line]
    return lines[-1][-300:] if lines else None


@row()
def leader_pod_cut(test):
    """The leader's pod alone loses its network for 20 s; its node keeps it."""
    cluster = test.cluster
    leader, node = test.leader_away_from_load()
    with PodCut(test.environment, leader, node) as cut, test.measured("pod-cut") as measured:
        cut.cut()
        try:
            others = [name for name in names(3) if name != leader]
            cluster.wait_for("another leader", lambda: "leader" in [s and s["role"] for s in cluster.statuses(others)])
            test.sleep(20)
        finally:
            cut.heal()
        measured.whole()
    return f"{measured.round} (20 s of cut included)"
