"""What is done once a majority is lost, as docs/operations.md and docs/kubernetes.md say it; and backups."""

import json
import time

from cluster import RELEASE, SET, LATCH, Failed, names, pod_name
from documented import manifests
from rows import expect, row

BACKUP = f"{SET}-backup"
BACKUPS_ON = ("--set", "backup.enabled=true,backup.persistence.size=1Gi,backup.keep=2")
KEYS = 1000


def start_backup(cluster, job):
    cluster.kubectl("create", "job", f"--from=cronjob/{BACKUP}", job)


def job_counts(cluster, job):
    """How many of a job's pods succeeded, and how many failed."""
    status = cluster.api(f"/apis/batch/v1/namespaces/{cluster.namespace}/jobs/{job}")["status"]
    return status.get("succeeded", 0), status.get("failed", 0)


def back_up(cluster, job):
    """Runs the CronJob at once; returns what it says of the backup."""
    start_backup(cluster, job)
    cluster.wait_for(f"job {job}", lambda: job_counts(cluster, job)[0] == 1)
    return json.loads(cluster.kubectl("logs", f"job/{job}"))


def look_at_backups(cluster, restore, verb):
    """What `snapshot list` or `snapshot inspect` say, in the pod of the restore without the member's volume."""
    pod = json.loads(json.dumps(restore))
    pod["metadata"]["name"] = f"e2e-{verb}"
    container = pod["spec"]["containers"][0]
    container["args"] = ["snapshot", verb, "/backups"]
    container["volumeMounts"] = [mount for mount in container["volumeMounts"] if mount["name"] == "backups"]
    pod["spec"]["volumes"] = [volume for volume in pod["spec"]["volumes"] if volume["name"] == "backups"]
    code, told = cluster.run_pod(pod)
    expect(code == 0, f"snapshot {verb} ended with {code}: {told}")
    return json.loads(told)


def stop_all(cluster):
    cluster.scale(0)
    cluster.wait_for("no pods", lambda: not cluster.pods())


def restore_steps(cluster, claim, pod):
    """Docs: from the deletion of the volumes to the full number of members. Returns what the restore says."""
    cluster.kubectl("delete", "pvc", *(f"data-{name}" for name in names(3)))
    cluster.kubectl("apply", "-f", "-", input=json.dumps(claim))
    code, told = cluster.run_pod(pod)
    expect(code == 0, f"the restore ended with {code}: {told}")
    cluster.kubectl("patch", "configmap", LATCH, "--type", "merge", "-p", '{"data":{"cluster-id":""}}')
    cluster.scale(1)
    cluster.wait_for("the first member", lambda: cluster.pods()[pod_name(0)].is_ready)
    cluster.scale(3)
    cluster.settle(3)
    return json.loads(told)


@row(is_fresh=True)
def backup_and_restore(test):
    """A backup by the CronJob, at once; all volumes lost; the restore that docs/kubernetes.md prints; a failed backup; what
    `helm uninstall` leaves."""
    cluster = test.cluster
    cluster.purge()
    cluster.install(*BACKUPS_ON)
    cluster.settle(3)
    cluster.exec(pod_name(0), "bench", f"--requests={KEYS}", "--duration=0s", f"--keys={KEYS}")
    cluster.exec(pod_name(0), "put", "before", "backup")
    began = time.monotonic()
    backup = back_up(cluster, "e2e-backup")
    backed_up = time.monotonic() - began
    cluster.exec(pod_name(0), "put", "after", "backup")
    claim, pod = manifests(cluster, "kubernetes.md", "name: kuberaft-restore")
    listed, inspected = (look_at_backups(cluster, pod, verb) for verb in ("list", "inspect"))
    expect([found["file"] for found in listed] == [backup["file"]] == [inspected["file"]], f"not one backup: {listed}")

    stop_all(cluster)
    # Nobody to ask: the run fails and says why; its next try, with the cluster back, succeeds.
    start_backup(cluster, "e2e-backup-fails")
    cluster.wait_for("the backup to fail", lambda: job_counts(cluster, "e2e-backup-fails")[1] > 0)
    why = cluster.kubectl("logs", "job/e2e-backup-fails").strip().splitlines()
    expect(why[0].startswith("error: no node gives a snapshot"), f"it does not say why it failed: {why}")
    began = time.monotonic()
    restored = restore_steps(cluster, claim, pod)
    took = time.monotonic() - began
    expect(restored["state_hash"] == backup["state_hash"], f"another state: {restored}, backup {backup}")
    new = restored["restored"]["cluster_id"]
    expect(cluster.cluster_id() == cluster.latch() == new != backup["cluster_id"], f"not cluster {new}: {cluster.picture()}")
    expect(cluster.exec(pod_name(2), "get", "before").strip() == "backup", "a key of the backup is not there")
    expect("there is no key" in lacks(cluster, "after"), "a write after the backup is there")
    cluster.wait_for("the failed backup's next try", lambda: job_counts(cluster, "e2e-backup-fails")[0] == 1)
    again = back_up(cluster, "e2e-backup-again")
    # A restore raises the revision, so that no condition from before it can hold by chance.
    is_same = again["keys"] == backup["keys"] and again["revision"] > backup["revision"]
    expect(is_same, f"another state: {again}, backup {backup}")
    left = uninstalled(cluster)
    expect(left == sorted([BACKUP, *(f"data-{name}" for name in names(3))]), f"uninstalling leaves {left}")
    cluster.purge()
    return (f"backup of {backup['keys']} keys in {backed_up:.1f} s; restored to three members in {took:.1f} s, the same "
            f"state; a backup without members fails, its next try succeeds; uninstalling leaves the four claims only")


def lacks(cluster, key):
    try:
        return cluster.exec(pod_name(1), "get", key)
    except Failed as error:
        return str(error)


def uninstalled(cluster):
    """Names of what there still is of the release after `helm uninstall`."""
    cluster.kubectl("delete", "jobs", "--all")
    cluster.helm("uninstall", RELEASE)
    cluster.wait_for("no pods", lambda: not cluster.pods())
    kinds = ("all,configmaps,secrets,serviceaccounts,roles,rolebindings,persistentvolumeclaims,poddisruptionbudgets,"
             "networkpolicies,leases,endpointslices,controllerrevisions")

    def found():
        text = cluster.kubectl("get", kinds, "-o", "json")
        kept = [item["metadata"]["name"] for item in json.loads(text)["items"]]
        return sorted(name for name in kept if RELEASE in name)

    # What belongs to what was deleted goes a moment later.
    cluster.wait_for("only claims", lambda: all(name.startswith("data-") or name == BACKUP for name in found()))
    return found()


@row()
def quorum_lost(test):
    """Two of three volumes are lost for good at once; `kuberaft recover` in the pod that docs/operations.md prints."""
    cluster = test.cluster
    with test.measured("before-loss"):
        # What is to be found again.
        test.sleep(3)
    # It has all that was acknowledged.
    survivor, before = cluster.leader(), cluster.cluster_id()
    lost = [name for name in names(3) if name != survivor]
    uids = {name: pod.uid for name, pod in cluster.pods().items() if name in lost}
    cluster.kubectl("delete", "pvc", *(f"data-{name}" for name in lost), "--wait=false")
    cluster.delete(*lost, force=True)
    cluster.wait_replaced(uids)
    cluster.wait_for("the survivor to have no leader", lambda: "no leader" in cluster.reasons(survivor))
    began = time.monotonic()
    stop_all(cluster)
    (pod,) = manifests(cluster, "operations.md", "name: kv-recover")
    pod["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"] = f"data-{survivor}"
    code, told = cluster.run_pod(pod)
    expect(code == 1 and "nothing was changed" in told, f"without --yes it ended with {code}: {told}")
    pod["spec"]["containers"][0]["args"].append("--yes")
    code, told = cluster.run_pod(pod)
    expect(code == 0 and f"ConfigMap {LATCH} names it now" in told, f"recover ended with {code}: {told}")
    cluster.kubectl("delete", "pvc", *(f"data-{name}" for name in lost))
    cluster.scale(3)
    cluster.settle(3)
    took = time.monotonic() - began
    expect(cluster.cluster_id() == cluster.latch() != before, "not the new cluster")
    # Reads all that was acknowledged before.
    found = test.load.finish()["found_writes"]
    return f"{took:.1f} s from the first command to three voters; {found} writes of their own keys found again, none lost"
