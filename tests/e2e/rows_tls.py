"""TLS: with the secret that members share by default, and with Secrets of the row's own making."""

import calendar
import contextlib
import json
import os
import re
import socket
import ssl
import subprocess
import tempfile
import time

from cluster import RELEASE, SET, STUCK_S, Failed, command, pod_name
from environment import Missing, binary
from rows import expect, row

SECRET = "e2e-tls"
PEER_SECRET = f"{SET}-peer"
KEYS = 20


class Authority:
    """Signs certificates with openssl, in a folder of its own."""

    def __init__(self, name):
        self.folder = tempfile.TemporaryDirectory(prefix="kuberaft-e2e-")
        try:
            self.openssl("-days", "3650", "-subj", f"/CN={name}", "-keyout", "ca.key", "-out", "ca.crt")
        except FileNotFoundError as error:
            raise Missing("needs openssl") from error

    def openssl(self, *words):
        command("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", *words,
                cwd=self.folder.name)

    def path(self, file):
        return os.path.join(self.folder.name, file)

    def sign(self, namespace, days):
        """A certificate with the names that docs/tls.md asks for: tls.crt and tls.key. Returns its end (Unix time)."""
        of_services = [f"{service}{suffix}" for service in (SET, f"{SET}-leader")
                       for suffix in ("", f".{namespace}", f".{namespace}.svc")]
        dns = ",".join(f"DNS:{name}" for name in [f"*.{SET}-peers.{namespace}.svc", *of_services, "localhost"])
        self.openssl("-days", str(days), "-subj", "/CN=node", "-CA", "ca.crt", "-CAkey", "ca.key", "-addext",
                     "basicConstraints=critical,CA:FALSE", "-addext", f"subjectAltName={dns}", "-keyout", "tls.key",
                     "-out", "tls.crt")
        text = command("openssl", "x509", "-in", self.path("tls.crt"), "-noout", "-enddate", "-dateopt", "iso_8601")
        end = time.strptime(text.strip().split("=", 1)[1], "%Y-%m-%d %H:%M:%SZ")
        return calendar.timegm(end)


def put_secret(cluster, authority):
    """Makes the Secret, or replaces it."""
    text = cluster.kubectl("create", "secret", "generic", SECRET, f"--from-file={authority.path('tls.crt')}",
                           f"--from-file={authority.path('tls.key')}", f"--from-file=ca.crt={authority.path('ca.crt')}",
                           "--dry-run=client", "-o", "json")
    cluster.kubectl("apply", "-f", "-", input=text)


def client_pod(cluster, *arguments):
    """Runs a client command next to the members, with the files of the Secret in /tls. Returns exit code and output."""
    container = {"name": "client", "image": cluster.image, "imagePullPolicy": "IfNotPresent", "args": list(arguments),
                 "volumeMounts": [{"name": "tls", "mountPath": "/tls"}]}
    return cluster.run_pod({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "e2e-client"},
        "spec": {"restartPolicy": "Never", "automountServiceAccountToken": False, "containers": [container],
                 "volumes": [{"name": "tls", "secret": {"secretName": SECRET}}]}})


@contextlib.contextmanager
def forwarded(cluster, pod, port):
    """A local port that leads to a pod's."""
    process = subprocess.Popen(["kubectl", "-n", cluster.namespace, "port-forward", f"pod/{pod}", f":{port}"],
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        found = re.search(r"127\.0\.0\.1:(\d+)", process.stdout.readline())
        if not found:
            raise Failed("kubectl port-forward did not start")
        yield int(found.group(1))
    finally:
        process.terminate()
        process.wait()


def greeting(cluster, context):
    """The first bytes that the peer port answers over HTTP/2 in this TLS, or in none; or why it does not."""
    with forwarded(cluster, pod_name(0), 7000) as port:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=10) as stream:
                if context:
                    stream = context.wrap_socket(stream, server_hostname="localhost")
                stream.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")
                return stream.recv(9).hex(), None
        except OSError as error:
            return "", str(error)


def member(ca, identity):
    """Trusts this authority, shows a certificate of that one."""
    context = ssl.create_default_context(cafile=ca.path("ca.crt"))
    context.set_alpn_protocols(["h2"])
    if identity:
        context.load_cert_chain(identity.path("tls.crt"), identity.path("tls.key"))
    return context


def strangers_are_refused(cluster, authority, other):
    """At the peer port: without a certificate, with another authority's, in plain text. A member's is taken."""
    answer, why = greeting(cluster, member(authority, authority))
    # A frame of type SETTINGS (RFC 9113, section 6.5).
    expect(answer[6:8] == "04", f"a member is refused: {answer} {why}")
    strangers = {"no certificate": (member(authority, None), "certificate required"),
                 "another authority's": (member(authority, other), "unknown ca"),
                 "plain text": (None, None)}
    for name, (context, wanted) in strangers.items():
        answer, why = greeting(cluster, context)
        expect(not answer and (wanted is None or wanted in why), f"a stranger with {name} gets {answer!r}, {why}")
    failed = cluster.metric(pod_name(0), 'kuberaft_tls_handshakes_failed_total{use="peer"}')
    expect(failed == len(strangers), f"{failed} refused connections are counted")


def rotate(cluster, authority):
    """Another certificate in the Secret; until every member uses it. Returns how long that took."""
    before = cluster.starts()
    end = authority.sign(cluster.namespace, days=500)
    put_secret(cluster, authority)

    def ends():
        return {cluster.metric(pod, f'kuberaft_tls_certificate_expiry_seconds{{use="{use}"}}')
                for pod in before for use in ("client", "peer")}

    took = cluster.wait_for("the new certificate in use", lambda: ends() == {end})
    expect(cluster.starts() == before, "a pod restarted")
    return took


def struck(cluster, authority):
    """`kuberaft chaos --kube` from outside, under TLS through port-forward. Returns the write gap (ms)."""
    words = [binary(), "chaos", "--kube", "--namespace", cluster.namespace, "--statefulset", SET,
             "--faults=delete:leader", "--output=json", f"--tls-ca={authority.path('ca.crt')}"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=STUCK_S)
    expect(done.returncode == 0, f"chaos under TLS: exit code {done.returncode}: {done.stderr[-2000:]}")
    return json.loads(done.stdout)["faults"][0]["write_gap_ms"]["max"]


def anyone():
    """Trusts everyone, shows nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    return context


def peer_secret(cluster):
    """What the members put into the chart's Secret; empty before."""
    return cluster.api(f"/api/v1/namespaces/{cluster.namespace}/secrets/{PEER_SECRET}").get("data", {})


def only_members_are_served(cluster):
    for name, context in {"no certificate": anyone(), "plain text": None}.items():
        answer, _ = greeting(cluster, context)
        expect(not answer, f"a stranger with {name} gets {answer!r} at the peer port")


@row(is_quick=True, is_fresh=True)
def peers_by_default(test):
    """The chart's defaults: members make themselves a secret and refuse strangers; an upgrade keeps it; installed again over
    kept volumes, they make another one and are the same cluster."""
    cluster = test.cluster
    cluster.purge()
    cluster.install()
    installed = cluster.settle(3)
    secret, id_before = peer_secret(cluster), cluster.cluster_id()
    expect(secret, "the members left their Secret empty")
    only_members_are_served(cluster)
    cluster.exec(pod_name(0), "put", "kept", "value")
    before = cluster.starts()
    cluster.upgrade()
    expect(peer_secret(cluster) == secret, "an upgrade changes the secret")
    expect(cluster.starts() == before, "an upgrade without a change restarts pods")
    members = cluster.exec(pod_name(1), "member", "list")
    expect(all(pod in members for pod in before), f"the members as told inside a pod: {members}")
    cluster.helm("uninstall", RELEASE)
    cluster.wait_for("no pods", lambda: not cluster.pods())
    cluster.install()
    again = cluster.settle(3)
    expect(peer_secret(cluster) not in ({}, secret), "installed again, they have no secret of their own")
    expect(cluster.cluster_id() == id_before, "installed again, it is another cluster")
    found = cluster.exec(pod_name(2), "get", "kept").strip()
    expect(found == "value", f"a key that was kept holds {found}")
    only_members_are_served(cluster)
    cluster.purge()
    return (f"three members in {installed:.1f} s by a secret of their own; strangers refused; kept by an upgrade; the same "
            f"cluster by another secret {again:.1f} s after the second installation")


@row(is_fresh=True)
def tls(test):
    """Installed with TLS on both ports: https, strangers refused, a new certificate without a restart, scaled, the leader
    deleted, by `kuberaft chaos`, too."""
    cluster, authority, other = test.cluster, Authority("kuberaft-ca"), Authority("other-ca")
    cluster.purge()
    authority.sign(cluster.namespace, days=365)
    put_secret(cluster, authority)
    other.sign(cluster.namespace, days=365)
    began = time.monotonic()
    cluster.install("--set", f"tls.enabled=true,tls.secretName={SECRET}")
    cluster.settle(3)
    installed = time.monotonic() - began
    cluster.helm("test", RELEASE)
    https = [f"--endpoints=https://{SET}:7001", "--tls-ca=/tls/ca.crt"]
    code, told = client_pod(cluster, "put", "over", "https", *https)
    expect(code == 0, f"a write over https: {told}")
    for key in range(KEYS):
        cluster.exec(pod_name(key % 3), "put", f"key-{key}", f"value-{key}")
    strangers_are_refused(cluster, authority, other)
    rotated = rotate(cluster, authority)
    cluster.scale(5)
    up = cluster.settle(5)
    leader = cluster.leader()
    uid = cluster.pods()[leader].uid
    cluster.delete(leader)
    cluster.wait_replaced({leader: uid})
    again = cluster.settle(5)
    cluster.scale(3)
    cluster.settle(3)
    for key in range(KEYS):
        found = cluster.exec(pod_name(key % 3), "get", f"key-{key}")
        expect(found.strip() == f"value-{key}", f"key-{key} holds {found}")
    gap_ms = struck(cluster, authority)
    cluster.settle(3)
    code, told = client_pod(cluster, "get", "over", *https)
    expect(code == 0 and told.strip() == "https", f"a read over https: {told}")
    cluster.purge()
    cluster.kubectl("delete", "secret", SECRET)
    return (f"three members in {installed:.1f} s; strangers refused; a replaced Secret in use after {rotated:.0f} s, no "
            f"restart; 3 → 5 in {up:.1f} s; whole {again:.1f} s after the leader's deletion; gap {gap_ms:.0f} ms for "
            "`kuberaft chaos --kube` from outside, which deletes the leader")
