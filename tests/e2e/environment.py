"""Faults below Kubernetes: what only a program that knows the machines can do, and the cut of a single pod."""

import json
import os
import re
import shutil
import subprocess

from cluster import Failed, command


class Missing(Exception):
    """The surroundings lack what a row needs."""


def binary():
    """The program under test, for this machine."""
    target = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "target")
    built = [os.path.join(target, profile, "kuberaft") for profile in ("release", "debug")]
    built = sorted(filter(os.path.exists, built), key=os.path.getmtime)
    found = os.environ.get("KUBERAFT_E2E_BINARY") or shutil.which("kuberaft") or (built and built[-1])
    if not found:
        raise Missing("needs KUBERAFT_E2E_BINARY, kuberaft for this machine (or on PATH, or built in target)")
    return found


class Environment:
    """KUBERAFT_E2E_CLUSTER, a program that cuts, crashes and boots nodes; KUBERAFT_E2E_TOOLS_IMAGE for the rest."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.program = os.environ.get("KUBERAFT_E2E_CLUSTER", "")
        self.tools_image = os.environ.get("KUBERAFT_E2E_TOOLS_IMAGE", "docker.io/library/debian:bookworm-slim")
        self.undo = []

    def need_program(self):
        if not self.program:
            raise Missing("needs KUBERAFT_E2E_CLUSTER, a program that cuts, crashes and boots nodes (--help)")

    def run(self, *words):
        self.need_program()
        return command(self.program, *words)

    @staticmethod
    def number(node):
        found = re.search(r"(\d+)$", node)
        return found.group(1) if found else node

    def _break(self, fault, mend, node):
        self.undo.append((mend, node))
        self.run(fault, node)

    def _mend(self, mend, node):
        self.run(mend, node)
        self.undo.remove((mend, node))

    def cut(self, node):
        self._break("cut", "heal", self.number(node))

    def heal(self, node):
        self._mend("heal", self.number(node))

    def crash(self, node):
        self._break("crash", "boot", self.number(node))

    def boot(self, node):
        self._mend("boot", self.number(node))

    def stop_api(self):
        self._break("stop", "start", "kube-apiserver")

    def start_api(self):
        self._mend("start", "kube-apiserver")

    def mend_all(self):
        """After a failure: nothing stays broken."""
        for mend, what in reversed(self.undo[:]):
            self._mend(mend, what)

    # Pods with tools: the image of kuberaft has no shell.

    def tools(self, name, node=None, claim=None, is_privileged=False):
        """Starts a pod that waits to be used by `sh`; on this node, with this volume at /volume."""
        container = {"name": "tools", "image": self.tools_image, "imagePullPolicy": "IfNotPresent",
                     "command": ["sleep", "86400"], "securityContext": {"privileged": is_privileged}}
        spec = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "containers": [container],
                "hostPID": is_privileged, "hostNetwork": is_privileged, "automountServiceAccountToken": False}
        volumes = {}
        if node:
            spec["nodeName"] = node
        if claim:
            volumes["/volume"] = {"name": "volume", "persistentVolumeClaim": {"claimName": claim}}
        if is_privileged:
            volumes["/host"] = {"name": "host", "hostPath": {"path": "/"}}
        spec["volumes"] = list(volumes.values())
        container["volumeMounts"] = [{"name": v["name"], "mountPath": path} for path, v in volumes.items()]
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
        self.cluster.kubectl("apply", "-f", "-", input=json.dumps(pod))
        try:
            self.cluster.kubectl("wait", f"pod/{name}", "--for=condition=Ready", "--timeout=60s")
        except Failed as error:
            self.remove_tools(name)
            raise Missing(f"needs KUBERAFT_E2E_TOOLS_IMAGE, an image with sh, tar and chroot that the nodes have: "
                          f"{self.tools_image} does not start: {error}") from error

    def remove_tools(self, *pods):
        self.cluster.kubectl("delete", "pod", *pods, "--ignore-not-found", "--grace-period=0", "--force")

    def sh(self, pod, script):
        return self.cluster.kubectl("exec", pod, "--", "sh", "-ec", script)

    def copy_volume(self, source, target):
        """The files at /volume of one pod with tools take the place of those of another."""
        self.sh(target, "rm -rf /volume/*")
        kubectl = ["kubectl", "-n", self.cluster.namespace, "exec"]
        reading = subprocess.Popen([*kubectl, source, "--", "tar", "-C", "/volume", "-cf", "-", "."], stdout=subprocess.PIPE)
        with reading:
            command(*kubectl, "-i", target, "--", "tar", "-C", "/volume", "-xpf", "-", stdin=reading.stdout)
        if reading.returncode != 0:
            raise Failed("the volume cannot be read")


class PodCut:
    """Cuts one pod off, in its own network namespace, by a privileged pod on its node. Its node stays connected."""

    RULES = ("add table inet e2ecut; "
             "add chain inet e2ecut in { type filter hook input priority 0; policy drop; }; "
             "add chain inet e2ecut out { type filter hook output priority 0; policy drop; }")

    def __init__(self, environment, pod, node):
        self.environment, self.name = environment, "e2e-tools-cut"
        environment.tools(self.name, node=node, is_privileged=True)
        # The process whose environment names the pod shares the pod's network.
        self.inside = (f"cd /host/proc; pid=; for p in [0-9]*; do grep -qzx 'KUBERAFT_NAME={pod}' $p/environ 2>/dev/null && "
                       f"grep -qzx 'KUBERAFT_KUBE_NAMESPACE={environment.cluster.namespace}' $p/environ && pid=$p || true; done; "
                       f"[ -n \"$pid\" ]; chroot /host nsenter -t \"$pid\" -n ")

    def cut(self):
        self.environment.sh(self.name, f"{self.inside} nft '{self.RULES}'")

    def heal(self):
        self.environment.sh(self.name, f"{self.inside} nft delete table inet e2ecut")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.environment.remove_tools(self.name)
