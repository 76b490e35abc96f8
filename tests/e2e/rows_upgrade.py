"""New templates: they reach the pods one at a time, and a broken one reaches only one."""

import os
import time

from cluster import MEMBERS, SET, Failed, names, pod_name
from rows import expect, row


def revision(cluster):
    """The newest template's, once the StatefulSet's controller has seen it."""
    found = cluster.stateful_set()
    is_seen = found["status"].get("observedGeneration") == found["metadata"]["generation"]
    return found["status"].get("updateRevision") if is_seen else None


def is_rolled_out(cluster, members=3):
    wanted = revision(cluster)
    return wanted and all(pod.revision == wanted for pod in cluster.pods().values()) and cluster.is_settled(members)


def term(cluster):
    return max(status["term"] for status in cluster.statuses(names(3)))


@row(is_quick=True)
def upgrade_after_scale(test):
    """`helm upgrade` keeps what `kubectl scale` set."""
    cluster = test.cluster
    cluster.scale(5)
    cluster.settle(5)
    before, uids = revision(cluster), {name: pod.uid for name, pod in cluster.pods().items()}
    cluster.upgrade()
    replicas = cluster.stateful_set()["spec"]["replicas"]
    cluster.wait_for("the upgrade to be seen", lambda: revision(cluster))
    expect(replicas == 5 and revision(cluster) == before,
           f"helm upgrade changed the scaled StatefulSet: {replicas} replicas, revision {revision(cluster)}")
    expect({name: pod.uid for name, pod in cluster.pods().items()} == uids, "helm upgrade without a change restarted pods")
    cluster.scale(3)
    cluster.settle(3)
    return "5 replicas stay, no pod restarts"


@row(is_quick=True)
def rollout(test):
    """A new template by `helm upgrade`: N-1 members serve all the time, and the leader moves once."""
    cluster = test.cluster
    before = term(cluster)
    with test.measured("rollout") as measured, cluster.least_ready() as ready:
        cluster.upgrade("--set", f"podAnnotations.e2e=at-{int(time.time())}")
        cluster.wait_for("the newest template everywhere", lambda: is_rolled_out(cluster))
        measured.whole()
    expect(ready and min(ready) >= 2, f"fewer than two members were ready: {ready}")
    moves = term(cluster) - before
    expect(moves == 1, f"{moves} terms passed; the leader should move once")
    return f"{measured.round}; never fewer than {min(ready)} of 3 ready, the leader moved once"


def images(cluster):
    """What the members run."""
    found = cluster.kubectl("get", "pods", "-l", MEMBERS, "-o", "jsonpath={.items[*].spec.containers[0].image}")
    return set(found.split())


@row(is_quick=True)
def next_image(test):
    """`helm upgrade` to another image after a `kubectl scale`: N-1 of the five members serve all the time."""
    cluster = test.cluster
    other = os.environ.get("KUBERAFT_E2E_NEXT_IMAGE", "")
    repository, _, tag = other.rpartition(":")
    change = f"image.repository={repository},image.tag={tag}" if other else f"podAnnotations.e2e=next-{int(time.time())}"
    cluster.scale(5)
    cluster.settle(5)
    before, uids = term(cluster), {pod.uid for pod in cluster.pods().values()}
    with test.measured("next-image") as measured, cluster.least_ready() as ready:
        cluster.upgrade("--set", change)
        cluster.wait_for("the other image everywhere", lambda: is_rolled_out(cluster, 5))
        measured.whole(5)
    replicas = cluster.stateful_set()["spec"]["replicas"]
    expect(replicas == 5, f"helm upgrade made {replicas} of the 5 replicas that kubectl scale set")
    expect(images(cluster) == {other or cluster.image}, f"the members run {images(cluster)}")
    kept = uids & {pod.uid for pod in cluster.pods().values()}
    expect(not kept, f"{len(kept)} pods were not replaced")
    expect(ready and min(ready) >= 4, f"fewer than four members were ready: {ready}")
    moves = term(cluster) - before
    expect(moves == 1, f"{moves} terms passed; the leader should move once")
    # Further rows are about the image under test.
    cluster.upgrade()
    back = cluster.wait_for("the image under test everywhere", lambda: is_rolled_out(cluster, 5))
    expect(images(cluster) == {cluster.image}, f"the members run {images(cluster)}")
    cluster.scale(3)
    cluster.settle(3)
    what = other or "WITHOUT another image (KUBERAFT_E2E_NEXT_IMAGE), another annotation"
    return f"{what}: {measured.round}; never fewer than {min(ready)} of 5 ready; and back in {back:.1f} s"


def broken_upgrade(test, name, *broken):
    """A template whose pods do not get ready; then one that is right again."""
    cluster = test.cluster
    good = revision(cluster)
    with test.measured(name) as measured, cluster.least_ready() as ready:
        cluster.upgrade(*broken)
        cluster.wait_for("the template to be seen", lambda: revision(cluster) not in (None, good))
        bad = revision(cluster)

        def has_failed():
            return any(pod.revision == bad and "waiting" in pod.container() and pod.container()["waiting"].get("reason")
                       in ("ErrImagePull", "ImagePullBackOff", "CrashLoopBackOff") for pod in cluster.pods().values())

        cluster.wait_for("one pod to fail", has_failed)
        # The leader looks every second while it waits.
        test.sleep(15)
        hit = [pod.name for pod in cluster.pods().values() if pod.revision == bad]
        if len(hit) != 1:
            raise Failed(f"the broken template reached {hit}")
        cluster.upgrade("--set", f"podAnnotations.e2e=fixed-{int(time.time())}")
        fixed = cluster.wait_for("the fixed template everywhere", lambda: is_rolled_out(cluster))
        measured.whole()
    expect(min(ready) >= 2, f"fewer than two members were ready: {ready}")
    return f"stops at {hit[0].removeprefix(SET + '-')}; fixed {fixed:.1f} s after the next upgrade; {measured.round}"


@row()
def broken_image(test):
    """An upgrade to an image that is not there stops at one pod; the next upgrade mends it."""
    return broken_upgrade(test, "broken-image", "--set", "image.tag=is-not-there")


@row()
def broken_setting(test):
    """An upgrade with which the program does not start stops at one pod; the next upgrade mends it."""
    return broken_upgrade(test, "broken-setting", "--set", "config.KUBERAFT_ELECTION_TIMEOUT=soon")


WAIT = f"{SET}-wait"


@row(is_fresh=True)
def wait_job(test):
    """`waitJob`: `helm install` and `helm upgrade` end when every pod is of the newest template and serves, or say why not."""
    cluster = test.cluster
    cluster.purge()
    on = ("--set", "waitJob.enabled=true")
    began = time.monotonic()
    cluster.install(*on)
    installed = time.monotonic() - began
    expect(sum(pod.is_ready for pod in cluster.pods().values()) == 3, f"helm did not wait: {cluster.picture()}")
    cluster.exec(pod_name(1), "put", "served", "at-once")
    began = time.monotonic()
    cluster.upgrade(*on, "--set", f"podAnnotations.e2e=at-{int(time.time())}")
    upgraded = time.monotonic() - began
    newest, pods = revision(cluster), cluster.pods().values()
    expect(all(pod.is_ready and pod.revision == newest for pod in pods), f"helm did not wait: {cluster.picture()}")
    cluster.purge()
    began = time.monotonic()
    try:
        cluster.install(*on, "--set", "waitJob.timeoutSeconds=20,config.KUBERAFT_ELECTION_TIMEOUT=soon")
    except Failed as error:
        expect(WAIT in str(error), f"helm does not name the hook: {error}")
    else:
        raise Failed("helm install succeeds although no pod starts")
    failed = time.monotonic() - began
    said = cluster.kubectl("logs", f"job/{WAIT}").strip().splitlines()[-1]
    expect("not ready after 20" in said, f"the hook does not say why: {said}")
    cluster.purge()
    cluster.kubectl("delete", "job", WAIT, "--ignore-not-found")
    return (f"install ends after {installed:.1f} s, an upgrade after {upgraded:.1f} s, all ready; an installation that "
            f"cannot start fails after {failed:.0f} s: {said}")
