"""The cluster under test as kubectl, helm and the API server's proxy see it."""

import concurrent.futures
import contextlib
import http.client
import json
import os
import re
import subprocess
import threading
import time

CHART = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "charts", "kuberaft")
# Generous: it says that something is stuck, not that it is slow.
STUCK_S = float(os.environ.get("KUBERAFT_E2E_TIMEOUT", "300"))
RELEASE = "kv"
SET = f"{RELEASE}-kuberaft"  # the chart's full name
LATCH = f"{SET}-cluster"
OPS_PORT = 7002  # plain HTTP, also where clients need TLS
MEMBERS = "app.kubernetes.io/component=member"


class Failed(Exception):
    """What a row expected did not happen."""


def command(*words, check=True, timeout=STUCK_S + 60, **options):
    done = subprocess.run(words, capture_output=True, text=True, timeout=timeout, **options)
    if check and done.returncode != 0:
        raise Failed(f"{' '.join(words)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def pod_name(ordinal):
    return f"{SET}-{ordinal}"


def names(members):
    return [pod_name(ordinal) for ordinal in range(members)]


class Pod:
    """A pod as the API server describes it."""

    def __init__(self, found):
        self.found = found
        self.name, self.uid = found["metadata"]["name"], found["metadata"]["uid"]
        self.node = found["spec"].get("nodeName", "")
        self.is_leaving = "deletionTimestamp" in found["metadata"]
        self.revision = found["metadata"].get("labels", {}).get("controller-revision-hash")
        conditions = {c["type"]: c for c in found.get("status", {}).get("conditions", [])}
        self.is_ready = not self.is_leaving and conditions.get("Ready", {}).get("status") == "True"
        self.ready_since = conditions.get("Ready", {}).get("lastTransitionTime")

    def container(self):
        """The state of its container: running, waiting or terminated, with what is known of it."""
        statuses = self.found["status"].get("containerStatuses", [{}])
        return statuses[0].get("state", {})


class Proxy:
    """`kubectl proxy`: the API server over one local port."""

    def __init__(self):
        self.process = subprocess.Popen(
            ["kubectl", "proxy", "--port=0"], stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        found = re.search(r":(\d+)", line)
        if not found:
            raise Failed("kubectl proxy did not start")
        self.port = int(found.group(1))

    def request(self, method, path, body=None, timeout=5):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def stop(self):
        self.process.terminate()
        self.process.wait()


class Cluster:
    """One release in one namespace."""

    def __init__(self, image, namespace):
        self.image, self.namespace = image, namespace
        self.proxy = Proxy()

    # Commands

    def kubectl(self, *words, **options):
        return command("kubectl", "-n", self.namespace, *words, **options)

    def helm(self, *words, **options):
        return command("helm", "-n", self.namespace, *words, **options)

    def values(self):
        repository, tag = self.image.rsplit(":", 1)
        return ["--set", f"image.repository={repository},image.tag={tag},persistence.size=1Gi"]

    def create_namespace(self):
        command("kubectl", "create", "namespace", self.namespace, check=False)  # it may be there

    def install(self, *more):
        self.helm("install", RELEASE, CHART, *self.values(), *more)

    def upgrade(self, *more):
        self.helm("upgrade", RELEASE, CHART, *self.values(), *more)

    def is_installed(self):
        return bool(self.helm("list", "--short", "--filter", f"^{RELEASE}$", check=False).strip())

    def purge(self):
        """Back to an empty namespace: nothing of the release is kept."""
        if self.is_installed():
            self.helm("uninstall", RELEASE)
        self.kubectl("delete", "pods", "-l", MEMBERS, "--grace-period=1", "--wait=false", check=False)
        self.wait_for("the pods to go", lambda: not self.pods())
        self.kubectl("delete", "pvc", "--all")

    def scale(self, members):
        self.kubectl("scale", "statefulset", SET, f"--replicas={members}")

    def delete(self, *pods, force=False):
        now = ["--grace-period=0", "--force"] if force else []
        self.kubectl("delete", "pod", *pods, "--wait=false", *now)

    def exec(self, pod, *words):
        """What a command of kuberaft prints in this pod."""
        return self.kubectl("exec", pod, "--", "kuberaft", *words)

    def metric(self, pod, name):
        """The value of the first series that begins so; `None` if there is none."""
        for line in (self.ask(pod, "/metrics", OPS_PORT) or "").splitlines():
            if line.startswith(name):
                return float(line.rsplit(" ", 1)[1])
        return None

    def run_pod(self, manifest):
        """Runs a pod to its end and removes it. Returns the exit code of its container and what it printed."""
        name = manifest["metadata"]["name"]
        path = f"/api/v1/namespaces/{self.namespace}/pods/{name}"
        self.kubectl("apply", "-f", "-", input=json.dumps(manifest))
        try:
            self.wait_for(f"pod {name} to end", lambda: "terminated" in Pod(self.api(path)).container())
            code = Pod(self.api(path)).container()["terminated"]["exitCode"]
            return code, self.kubectl("logs", name)
        finally:
            self.kubectl("delete", "pod", name)

    def transfer_leadership(self, to):
        leader = self.leader()
        if leader != to:
            self.exec(leader, "transfer-leader", "--to", to)
            self.wait_for(f"{to} to lead", lambda: self.roles().get(to) == "leader")

    # Views

    def api(self, path):
        status, body = self.proxy.request("GET", path, timeout=10)
        if status >= 500:
            raise ConnectionError(f"the API server is away: {status}")
        if status != 200:
            raise Failed(f"{path}: {status} {body[:300]!r}")
        return json.loads(body)

    def pods(self):
        """The members' pods by name."""
        found = self.api(f"/api/v1/namespaces/{self.namespace}/pods?labelSelector={MEMBERS.replace('=', '%3D')}")
        return {pod.name: pod for pod in map(Pod, found["items"])}

    def stateful_set(self):
        return self.api(f"/apis/apps/v1/namespaces/{self.namespace}/statefulsets/{SET}")

    def starts(self):
        """Tells each pod, and each start of its container, from others."""
        return {name: (pod.uid, pod.found["status"]["containerStatuses"][0]["restartCount"])
                for name, pod in self.pods().items()}

    def nodes(self):
        """Names of the nodes that are no control plane's."""
        found = self.api("/api/v1/nodes")["items"]
        return sorted(node["metadata"]["name"] for node in found
                      if not any("control-plane" in taint["key"] for taint in node["spec"].get("taints", [])))

    def latch(self):
        found = self.api(f"/api/v1/namespaces/{self.namespace}/configmaps/{LATCH}")
        return found.get("data", {}).get("cluster-id", "")

    def ask(self, pod, path, port=7001, timeout=3):
        """What a pod answers; `None` if it does not, or not with success."""
        try:
            code, body = self.proxy.request(
                "GET", f"/api/v1/namespaces/{self.namespace}/pods/{pod}:{port}/proxy{path}", timeout=timeout)
        except (OSError, http.client.HTTPException):
            return None
        return body.decode() if code == 200 else None

    def status(self, pod):
        answer = self.ask(pod, "/v1/status", OPS_PORT)
        return json.loads(answer) if answer else None

    def statuses(self, pods):
        with concurrent.futures.ThreadPoolExecutor(9) as pool:
            return list(pool.map(self.status, pods))

    def roles(self):
        found = sorted(self.pods())
        return {name: (status or {}).get("role") for name, status in zip(found, self.statuses(found))}

    def leader(self):
        roles = self.roles()
        found = [name for name, role in roles.items() if role == "leader"]
        if len(found) != 1:
            raise Failed(f"not one leader: {roles}")
        return found[0]

    def followers(self):
        leader = self.leader()
        return [name for name in sorted(self.pods()) if name != leader]

    def reasons(self, pod):
        return " ".join((self.status(pod) or {}).get("reasons", []))

    def cluster_id(self):
        return self.status(pod_name(0))["cluster_id"]

    def is_settled(self, members):
        """These many pods, all ready, and all agree that just they are the voters, with one leader."""
        wanted, found = names(members), self.pods()
        if sorted(found) != sorted(wanted) or not all(pod.is_ready for pod in found.values()):
            return False
        reports = self.statuses(wanted)
        if not all(reports):
            return False
        for report in reports:
            if sorted(v["name"] for v in report["voters"]) != sorted(wanted) or report["learners"]:
                return False
        return len({(report["leader"] or {}).get("node_id") for report in reports}) == 1 and all(
            report["leader"] for report in reports)

    # Waiting

    def wait_for(self, what, condition):
        """Returns how many seconds it took."""
        began = time.monotonic()
        while True:
            try:
                if condition():
                    return time.monotonic() - began
            except OSError:
                pass  # the API server is on its way back
            if time.monotonic() - began > STUCK_S:
                raise Failed(f"waited {STUCK_S:.0f} s for {what}\n{self.picture()}")
            time.sleep(0.2)

    def settle(self, members):
        return self.wait_for(f"{members} members", lambda: self.is_settled(members))

    def wait_replaced(self, old):
        """Until each of these pods (name to uid) is another one."""

        def replaced():
            found = self.pods()
            return all(name in found and found[name].uid != uid for name, uid in old.items())

        return self.wait_for(f"other pods than {', '.join(old)}", replaced)

    def picture(self):
        """For a failure's message."""
        lines = [self.kubectl("get", "pods", "-o", "wide", check=False)]
        for name in sorted(self.pods()):
            status = self.status(name)
            if status:
                wanted = ("role", "term", "applied_index", "reasons")
                voters = [voter["name"] for voter in status["voters"]]
                lines.append(f"{name}: { {key: status[key] for key in wanted} } voters {voters}")
        lines.append(self.kubectl("get", "events", "--sort-by=.lastTimestamp", check=False)[-3000:])
        return "\n".join(lines)

    @contextlib.contextmanager
    def least_ready(self):
        """Watches the members' pods; the list then holds the number of ready ones at each change."""
        seen, ready = [], {}
        query = f"watch=1&labelSelector={MEMBERS.replace('=', '%3D')}"
        connection = http.client.HTTPConnection("127.0.0.1", self.proxy.port)
        connection.request("GET", f"/api/v1/namespaces/{self.namespace}/pods?{query}")
        response = connection.getresponse()
        began = len(self.pods())

        def follow():
            with contextlib.suppress(OSError, ValueError, http.client.HTTPException, AttributeError):
                for line in response:
                    event = json.loads(line)
                    pod = Pod(event["object"])
                    ready[pod.name] = pod.is_ready and event["type"] != "DELETED"
                    if len(ready) >= began:
                        seen.append(sum(ready.values()))

        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        try:
            yield seen
        finally:
            with contextlib.suppress(OSError):
                connection.sock.shutdown(2)
            thread.join(5)

    def close(self):
        self.proxy.stop()
