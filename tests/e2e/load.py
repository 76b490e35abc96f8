"""The load: `kuberaft chaos watch` in a pod of its own. It writes and reads, judges what it saw, measures gaps."""

import json
import http.client
import time

from cluster import RELEASE, SET, Failed

POD, PORT = "e2e-load", 7070


class Round:
    """What happened between begin and end."""

    def __init__(self):
        self.report, self.whole_s = None, None

    @property
    def gap_s(self):
        """The longest time without a successful write, of a client that knows all pods."""
        return self.report["longest_write_gap_ms"] / 1000

    @property
    def service_gap_s(self):
        return self.report["longest_write_gap_by_service_ms"] / 1000

    def failures(self):
        """Requests of all clients that failed or whose outcome is unknown, by code."""
        kinds = ("failed_requests", "unknown_requests", "failed_requests_by_service")
        return {f"{kind}.{code}": count for kind in kinds for code, count in self.report[kind].items() if count}

    def __str__(self):
        whole = "" if self.whole_s is None else f"; whole again after {self.whole_s:.1f} s"
        began = self.report["longest_write_gap_at_ms"] / 1000
        return f"gap {milliseconds(self.gap_s)} after {began:.1f} s (Service {milliseconds(self.service_gap_s)}){whole}"


def milliseconds(seconds):
    return f"{seconds * 1000:.0f} ms"


class Load:
    """Runs on the node that no row breaks. Each round is judged when it ends, all of them once more by `finish`."""

    def __init__(self, cluster):
        self.cluster, self.is_running, self.rounds = cluster, False, 0
        self.totals = {"acknowledged_writes": 0, "operations": 0}

    def node(self):
        return self.cluster.nodes()[-1]

    def start(self):
        if self.is_running:
            return
        namespace = self.cluster.namespace
        arguments = ["chaos", "watch", "--pods", SET, "--headless", f"{SET}-peers.{namespace}.svc",
                     "--replicas-max", "9", "--service", f"{SET}.{namespace}.svc:7001", "--listen", f"0.0.0.0:{PORT}"]
        container = {"name": "load", "image": self.cluster.image, "imagePullPolicy": "IfNotPresent", "args": arguments}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": POD, "labels": {"app": POD, "of": RELEASE}},
               "spec": {"nodeName": self.node(), "restartPolicy": "Never", "terminationGracePeriodSeconds": 60,
                        "automountServiceAccountToken": False, "containers": [container]}}
        self.cluster.kubectl("apply", "-f", "-", input=json.dumps(pod))
        self.cluster.wait_for("the load", lambda: self.request("GET", "/rounds")[0] == 200)
        self.is_running = True

    def request(self, method, path, timeout=10):
        path = f"/api/v1/namespaces/{self.cluster.namespace}/pods/{POD}:{PORT}/proxy{path}"
        try:
            return self.cluster.proxy.request(method, path, b"" if method == "POST" else None, timeout=timeout)
        except (OSError, http.client.HTTPException) as error:
            return 0, str(error).encode()

    def _post(self, path):
        # Judging takes a moment; reading everything back waits for a leader.
        status, body = self.request("POST", path, timeout=180)
        if status not in (200, 204):
            raise Failed(f"the load refuses {path}: {status} {body[:500].decode(errors='replace')}")
        return json.loads(body) if body.strip() else None

    def begin(self, name):
        self.rounds += 1
        self._post(f"/rounds/{self.rounds}-{name}")

    def end(self):
        """The round's report, once it is linearizable and nothing is lost."""
        report = self._post("/rounds")
        judge(report)
        for total in self.totals:
            self.totals[total] += report[total]
        return report

    def finish(self):
        """Reads every acknowledged write of every round once more, then ends the load."""
        if not self.is_running:
            return None
        self.is_running = False
        report = self._post("/finish")
        judge(report)
        self.remove()
        return report

    def remove(self):
        self.is_running = False
        self.cluster.kubectl("delete", "pod", POD, "--ignore-not-found", "--grace-period=0", "--force")


def judge(report):
    if report["lost_writes"]:
        raise Failed(f"{report['lost_writes']} acknowledged writes are lost: {report}")
    if report.get("unread_writes"):
        raise Failed(f"{report['unread_writes']} acknowledged writes cannot be read: {report}")
    for judged in report.get("rounds", [report]):
        if judged["linearizable"] is not True:
            raise Failed(f"not linearizable: {judged['violation']}")


class Measured:
    """A round as a `with` block; `whole(members)` waits for full health and takes the time since the block began."""

    def __init__(self, load, cluster, name):
        self.load, self.cluster, self.name, self.round = load, cluster, name, Round()

    def __enter__(self):
        self.load.start()
        self.load.begin(self.name)
        self.began = time.monotonic()
        return self

    def whole(self, members=3):
        self.cluster.settle(members)
        self.round.whole_s = time.monotonic() - self.began

    def __exit__(self, kind, *_):
        if kind is None:
            self.round.report = self.load.end()
