"""Nodes and the API server."""

from cluster import MEMBERS, names
from rows import expect, row

SERVED_WITHIN_S = 3.0


@row()
def nodes_drained(test):
    """Each node is drained in turn; the load is no part of that."""
    cluster, told = test.cluster, []
    for node in sorted({pod.node for pod in cluster.pods().values()}):
        with test.measured("drain") as measured, cluster.least_ready() as ready:
            try:
                cluster.kubectl("drain", node, "--ignore-daemonsets", f"--pod-selector={MEMBERS}", "--timeout=200s")
            finally:
                cluster.kubectl("uncordon", node)
            measured.whole()
        expect(min(ready) >= 2, f"below a quorum: {ready}")
        told.append(f"{node}: {measured.round}")
    return "; ".join(told)


@row()
def api_server_away(test):
    """No API server for two minutes: nothing fails because of that."""
    cluster, environment = test.cluster, test.environment
    environment.need_program()
    with test.measured("api-away") as measured:
        environment.stop_api()
        test.sleep(120)
        environment.start_api()
        measured.whole()
    done = measured.round
    expect(not done.failures(), f"requests failed: {done.failures()}")
    return f"{done}; no failed request among {done.report['operations']}"


def node_fault(test, name, break_it, mend_it):
    """The leader's node is gone for 30 s."""
    cluster = test.cluster
    leader, node = test.leader_away_from_load()
    others = [name for name in names(3) if name != leader]
    with test.measured(name) as measured:
        break_it(node)
        cluster.wait_for("another leader", lambda: "leader" in [s and s["role"] for s in cluster.statuses(others)])
        test.sleep(30)
        mend_it(node)
        measured.whole()
    done = measured.round
    expect(done.gap_s <= SERVED_WITHIN_S, f"no service for longer than {SERVED_WITHIN_S:.0f} s: {done}")
    return f"{done} (30 s of fault included)"


@row()
def leader_node_cut(test):
    """The network of the leader's node is cut for 30 s."""
    test.environment.need_program()
    return node_fault(test, "node-cut", test.environment.cut, test.environment.heal)


@row()
def leader_node_crashed(test):
    """The leader's node loses its power and is booted 30 s later."""
    test.environment.need_program()
    return node_fault(test, "node-crash", test.environment.crash, test.environment.boot)
