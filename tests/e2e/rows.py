"""What a row is, and what it may use."""

import time

from cluster import Failed, names
from load import Measured, milliseconds

ROWS = {}


class Row:
    def __init__(self, run, is_quick, is_fresh):
        self.run, self.name, self.is_quick, self.is_fresh = run, run.__name__, is_quick, is_fresh
        self.about = (run.__doc__ or "").strip()


def row(is_quick=False, is_fresh=False):
    """Registers a row, in the order of definition. Quick ones are in the short selection; fresh ones destroy all data
    themselves, so the load must have finished. All others begin with three settled members."""

    def register(run):
        ROWS[run.__name__] = Row(run, is_quick, is_fresh)
        return run

    return register


class Test:
    """What the rows work with."""

    def __init__(self, cluster, load, environment):
        self.cluster, self.load, self.environment = cluster, load, environment

    def measured(self, name):
        return Measured(self.load, self.cluster, name)

    @staticmethod
    def sleep(seconds):
        """For faults that last so long; nothing is expected to be done by then."""
        time.sleep(seconds)

    def prepare(self):
        """Three settled members, installed again if there are none."""
        if not self.cluster.is_installed():
            self.cluster.install()
        elif self.cluster.stateful_set()["spec"]["replicas"] != 3:
            self.cluster.scale(3)
        self.cluster.settle(3)

    def start_over(self):
        """After a failed row: the next one shall not suffer from it."""
        self.environment.mend_all()
        self.cluster.wait_for("the API server", self.cluster.nodes)
        for node in self.cluster.nodes():
            self.cluster.kubectl("uncordon", node)
        self.load.remove()
        self.cluster.purge()

    def leader_away_from_load(self):
        """A leader on another node than the load's, and alone there. Returns its name and its node."""
        pods = self.cluster.pods()
        nodes = [pod.node for pod in pods.values()]
        if len(set(nodes)) < len(nodes):
            raise Failed(f"members share nodes, so that a node's fault would take the majority: {nodes}")
        leader = self.cluster.leader()
        if pods[leader].node == self.load.node():
            leader = next(name for name in names(3) if name != leader)
            self.cluster.transfer_leadership(leader)
        return leader, pods[leader].node


def expect(is_so, otherwise):
    if not is_so:
        raise Failed(otherwise)


def percentile(numbers, percent):
    """The smallest number that so many percent of all do not exceed."""
    ordered = sorted(numbers)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def spread(gaps):
    """Median, 99th percentile and maximum."""
    return " / ".join(milliseconds(percentile(gaps, percent)) for percent in (50, 99, 100))
