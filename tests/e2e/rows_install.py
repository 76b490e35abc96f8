"""Installing: once, again over kept volumes, again over lost ones."""

import datetime
import time

from cluster import RELEASE, SET, Failed, names, pod_name
from rows import expect, row

INSTALL_MAX_S = 60


@row(is_quick=True, is_fresh=True)
def install(test):
    """`helm install` to three ready voters of one cluster."""
    cluster = test.cluster
    cluster.purge()
    began = time.monotonic()
    cluster.install()
    cluster.wait_for("three ready pods", lambda: sum(pod.is_ready for pod in cluster.pods().values()) == 3)
    took = time.monotonic() - began
    cluster.settle(3)
    ids = {status["cluster_id"] for status in cluster.statuses(names(3))}
    expect(len(ids) == 1 and ids == {cluster.latch()}, f"not one cluster: {ids}, latch {cluster.latch()}")
    expect(took <= INSTALL_MAX_S, f"three ready pods after {took:.1f} s, more than {INSTALL_MAX_S} s")
    return f"{took:.1f} s to three ready pods; image {image_size(cluster)}, ready {pod_starts(cluster)} after a container's start"


def image_size(cluster):
    """As the nodes report it."""
    for node in cluster.api("/api/v1/nodes")["items"]:
        for image in node["status"].get("images", []):
            if any(name.endswith(cluster.image.split("/", 1)[-1]) for name in image.get("names", [])):
                return f"{image['sizeBytes'] / 1e6:.0f} MB on the node"
    return "of unknown size"


def pod_starts(cluster):
    """From a container's start to the pod's readiness; Kubernetes notes whole seconds."""

    def at(text):
        return datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))

    took = [(at(pod.ready_since) - at(pod.container()["running"]["startedAt"])).total_seconds()
            for pod in cluster.pods().values()]
    return f"{min(took):.0f}–{max(took):.0f} s"


@row(is_quick=True)
def helm_test(test):
    """`helm test` passes."""
    began = time.monotonic()
    test.cluster.helm("test", RELEASE)
    return f"passed in {time.monotonic() - began:.1f} s"


@row(is_quick=True)
def reinstall(test):
    """Uninstalled with volumes kept, installed again: the old cluster starts again."""
    cluster = test.cluster
    with test.measured("before-uninstall"):
        pass
    before = cluster.cluster_id()
    cluster.helm("uninstall", RELEASE)
    cluster.wait_for("no pods", lambda: not cluster.pods())
    began = time.monotonic()
    cluster.install()
    cluster.settle(3)
    took = time.monotonic() - began
    expect(cluster.cluster_id() == before, "with its volumes kept, it is not the same cluster")
    cluster.wait_for("the leader to fill the latch", lambda: cluster.latch() == before)
    # Reads all that was acknowledged before.
    test.load.finish()
    return f"the same cluster {took:.1f} s after the second installation, its data whole"


@row(is_fresh=True)
def second_cluster_refused(test):
    """All volumes are lost and the chart is installed over that: the latch lets no second cluster be formed."""
    cluster = test.cluster
    test.prepare()
    before = cluster.cluster_id()
    cluster.scale(0)
    cluster.wait_for("no pods", lambda: not cluster.pods())
    cluster.kubectl("delete", "pvc", "--all")
    cluster.kubectl("delete", "statefulset", SET)
    cluster.upgrade("--install")
    began = time.monotonic()

    def says_why():
        return "says that cluster" in cluster.reasons(pod_name(0))

    cluster.wait_for("the latch's refusal", says_why)
    took = time.monotonic() - began
    cluster.wait_for("three answering pods", lambda: all(cluster.statuses(names(3))))
    ids = [status["cluster_id"] for status in cluster.statuses(names(3))]
    if any(ids) or cluster.latch() != before:
        raise Failed(f"a second cluster was formed over lost volumes: {ids}, latch {cluster.latch()}")
    cluster.purge()
    return f"no second cluster; ordinal 0 says why {took:.1f} s after the installation"
