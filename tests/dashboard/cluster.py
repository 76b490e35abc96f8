"""A cluster of real nodes, a load on it, and a Prometheus that scrapes it, all on loopback addresses.

Every process is ended by its own id when the `with` block of `Processes` ends, also by Ctrl-C or SIGTERM.
"""

import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

NAMESPACE = "default"
RELEASE = "kv"
PODS = [f"{RELEASE}-kuberaft-{ordinal}" for ordinal in range(3)]
WAIT_S = 120
SCRAPE_S = 1

_http = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Failed(Exception):
    """The test has failed; for people."""


def wait(what, condition, why=lambda: None):
    """Returns the condition's value once it holds."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        threading.Event().wait(0.1)
    raise Failed(f"not within {WAIT_S} s: {what}; {why() or ''}")


def get(url, timeout=10):
    """Status and text of an answer; (None, reason) without one."""
    try:
        with _http.open(url, timeout=timeout) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return None, str(error)


def free_ports(count):
    """Ports that were free just now, each another."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


class Processes:
    """The processes that this test has started."""

    def __init__(self, folder):
        self.folder = folder
        self.running = {}
        self.is_starting = False
        self.signalled = None

    def __enter__(self):
        def stop(number, _frame):
            self.signalled = number
            # A process between its start and its entry here would stay behind.
            if not self.is_starting:
                raise SystemExit(128 + number)

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, stop)
        return self

    def __exit__(self, kind, *_):
        # A second signal must not cut this short.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        for name in list(self.running):
            if kind is not None and issubclass(kind, Failed):
                print(f"-- the end of {name}'s log:\n{self.log(name)[-2000:]}")
            self.end(name, signal.SIGKILL)

    def start(self, name, command):
        with open(self.path(name), "ab") as log:
            self.is_starting = True
            try:
                # Out of reach of a Ctrl-C at the terminal, which this process answers.
                self.running[name] = subprocess.Popen(
                    command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, process_group=0
                )
            finally:
                self.is_starting = False
        if self.signalled is not None:
            raise SystemExit(128 + self.signalled)

    def end(self, name, number):
        process = self.running.get(name)
        if process is not None:
            process.send_signal(number)
            process.wait()
            del self.running[name]

    def check(self):
        """Nothing has ended by itself."""
        for name, process in self.running.items():
            if process.poll() is not None:
                raise Failed(f"{name} ended with {process.returncode}: {self.log(name)[-2000:]}")

    def path(self, name):
        return os.path.join(self.folder, f"{name}.log")

    def log(self, name):
        with open(self.path(name), encoding="utf-8", errors="replace") as file:
            return file.read()


class Cluster:
    """Three nodes, called as the chart's pods would be."""

    def __init__(self, processes, binary, folder):
        self.processes, self.binary, self.folder = processes, binary, folder
        ports = iter(free_ports(3 * len(PODS)))
        self.ports = {pod: {use: next(ports) for use in ("client", "peer", "ops")} for pod in PODS}

    def start(self):
        for pod in PODS:
            self.start_node(pod)
        self.wait_ready()

    def start_node(self, pod):
        address = lambda of, use: f"127.0.0.1:{self.ports[of][use]}"
        members = ",".join(f"{of}/{address(of, 'peer')}" for of in PODS)
        command = [self.binary, "serve", "--name", pod, "--initial-cluster", members]
        command += [flag for use in ("client", "peer", "ops") for flag in (f"--{use}-addr", address(pod, use))]
        # What fails without a majority fails soon.
        command += ["--data-dir", os.path.join(self.folder, pod), "--request-timeout", "2s"]
        self.processes.start(pod, command)

    def kill(self, pod):
        self.processes.end(pod, signal.SIGKILL)

    def ops(self, pod, path):
        return get(f"http://127.0.0.1:{self.ports[pod]['ops']}{path}")

    def wait_ready(self):
        def ready():
            self.processes.check()
            return all(self.ops(pod, "/readyz")[0] == 200 for pod in PODS)

        wait("all nodes are ready", ready)

    def status(self):
        """The status of each node."""
        return [json.loads(self.ops(pod, "/v1/status")[1]) for pod in PODS]

    def endpoints(self):
        return ",".join(f"127.0.0.1:{self.ports[pod]['client']}" for pod in PODS)

    def transfer(self, to):
        command = [self.binary, "transfer-leader", "--to", to, "--endpoints", self.endpoints()]
        last = {}

        def done():
            run = subprocess.run(command, capture_output=True, text=True, check=False)
            last["error"] = run.stderr
            return run.returncode == 0

        # On a busy machine the leader's first attempt may fail.
        wait(f"{to} is made leader", done, lambda: last["error"])

    def load(self):
        """Reads and writes from here on, slow enough that the machine has room for the rest."""
        # Writing all keys first does not outlive a change of leaders.
        flags = "--op mixed --no-fill --clients 8 --rate 100 --keys 100 --duration 1h"
        self.processes.start("bench", [self.binary, "bench", "--endpoints", self.endpoints(), *flags.split()])

    def end_load(self):
        self.processes.end("bench", signal.SIGTERM)

    def request_fails(self, pod):
        """A write and a read at a node without a majority."""
        url = f"http://127.0.0.1:{self.ports[pod]['client']}/v1/kv/refused"
        for request in (urllib.request.Request(url, data=b"x", method="PUT"), url):
            get(request, timeout=30)

    def metrics(self):
        """What each node shows."""
        return [self.ops(pod, "/metrics")[1] for pod in PODS]


class Prometheus:
    """Scrapes each node with the labels that the chart's ServiceMonitor gives to its pod."""

    def __init__(self, processes, folder, cluster, rule_files):
        self.processes, self.folder, self.cluster = processes, folder, cluster
        self.rule_files = rule_files
        self.url = f"http://127.0.0.1:{free_ports(1)[0]}"

    def start(self):
        targets = [
            {
                "targets": [f"127.0.0.1:{self.cluster.ports[pod]['ops']}"],
                "labels": {
                    "namespace": NAMESPACE,
                    "service": f"{RELEASE}-kuberaft-peers",
                    "pod": pod,
                    "container": "kuberaft",
                    "endpoint": "ops",
                    # The Service's label app.kubernetes.io/name, by `jobLabel`.
                    "job": "kuberaft",
                    # By the ServiceMonitor's relabeling.
                    "release": RELEASE,
                },
            }
            for pod in PODS
        ]
        config = {
            "global": {"scrape_interval": f"{SCRAPE_S}s", "evaluation_interval": "1s"},
            "rule_files": self.rule_files,
            "scrape_configs": [{"job_name": "kuberaft", "static_configs": targets}],
        }
        path = os.path.join(self.folder, "prometheus.json")
        with open(path, "w", encoding="utf-8") as out:
            # JSON is YAML.
            json.dump(config, out)
        listen = self.url.removeprefix("http://")
        data = os.path.join(self.folder, "prometheus")
        flags = [f"--config.file={path}", f"--storage.tsdb.path={data}", f"--web.listen-address={listen}"]
        self.processes.start("prometheus", ["prometheus", *flags])

        def scrapes():
            self.processes.check()
            return get(f"{self.url}/-/ready")[0] == 200 and len(self.instant("up == 1")) == len(PODS)

        wait("Prometheus scrapes all nodes", scrapes)

    def ask(self, path, **parameters):
        status, text = get(f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters, doseq=True)}")
        if status != 200:
            raise Failed(f"Prometheus refuses {path} {parameters}: {text}")
        return json.loads(text)["data"]

    def instant(self, expression):
        return self.ask("query", query=expression)["result"]

    def panel(self, target, start):
        """The series of a panel's query over the time since `start`, as Grafana would ask for them."""
        from dashboard import substitute

        now = time.time()
        values = {
            "datasource": "prometheus",
            "namespace": NAMESPACE,
            "release": RELEASE,
            "__interval": f"{SCRAPE_S}s",
            # Grafana: the larger of four scrapes, and one more than the interval.
            "__rate_interval": f"{max(4 * SCRAPE_S, SCRAPE_S + SCRAPE_S)}s",
            "__range": f"{max(1, int(now - start))}s",
        }
        expression = substitute(target["expr"], values)
        if target.get("instant"):
            result = self.ask("query", query=expression, time=now)["result"]
            return [{"metric": series["metric"], "values": [series["value"]]} for series in result]
        return self.ask("query_range", query=expression, start=start, end=now, step=SCRAPE_S)["result"]

    def label_values(self, query):
        """Grafana's `label_values(selector, label)`."""
        found = re.fullmatch(r"label_values\((.+),\s*(\w+)\)", query)
        if not found:
            raise Failed(f"not a query for a label's values: {query}")
        return self.ask(f"label/{found.group(2)}/values", **{"match[]": found.group(1)})

    def rules(self):
        return [rule for group in self.ask("rules", type="alert")["groups"] for rule in group["rules"]]
