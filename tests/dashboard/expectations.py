"""What each query of the dashboard must return from a cluster of three that had two elections, lost its majority, found
it again and is under load."""

import math

import dashboard as file
import metrics_page
from cluster import PODS

ROUTES = {"/v1/kv/{key}"}
LABEL_VALUES = metrics_page.label_values()


class Unexpected(Exception):
    """A query's data is not as it should be; it may be soon."""


def expect(holds, what, *seen):
    if not holds:
        raise Unexpected(f"{what}: {seen}"[:2000])


def legend(target, series):
    """Each label that the legend shows is there, and names differ."""
    if "legendFormat" not in target:
        return
    labels = file.legend_labels(target["legendFormat"])
    names = [tuple(each["metric"].get(label, "") for label in labels) for each in series]
    expect(all(all(name) for name in names), f"a label of the legend {labels} is missing", names)
    expect(len(set(names)) == len(names), "two series have one name", names)


def points(series):
    """The numbers of a series; NaN is where a quantile has no data."""
    return [number for _, text in series["values"] if not math.isnan(number := float(text))]


def by(label, series):
    return {each["metric"][label]: points(each) for each in series}


def one(series):
    expect(len(series) == 1, "not one series", len(series))
    numbers = points(series[0])
    expect(numbers, "no number in it")
    return numbers


def by_pod(series):
    found = by("pod", series)
    expect(sorted(found) == PODS, "not one series for each pod", sorted(found))
    expect(all(found.values()), "a pod without a number", found)
    return found


def is_now(wanted):
    def check(series, cluster):
        expect(one(series)[-1] == wanted(cluster), "not what the nodes say", one(series)[-1], wanted(cluster))

    return check


def leader_is_named(series, cluster):
    expect(one(series) == [1], "not a leader", series)
    named, actual = series[0]["metric"]["pod"], cluster.status()[0]["leader"]["name"]
    expect(named == actual, "another leads", named, actual)


def leaders_alternate(series, _cluster):
    pods = by_pod(series)
    expect(all(set(numbers) <= {0, 1} for numbers in pods.values()), "neither led nor not", pods)
    expect(sum(numbers[-1] for numbers in pods.values()) == 1, "not one leader at the end", pods)
    led = [pod for pod in pods if 1 in pods[pod]]
    expect(len(led) >= 2, "the leader never changed", led)
    at = {time for each in series for time, _ in each["values"]}
    leaders = {time: [e["metric"]["pod"] for e in series if [time, "1"] in e["values"]] for time in sorted(at)}
    order = [pods[0] for pods in leaders.values() if len(pods) == 1]
    changes = sum(before != after for before, after in zip(order, order[1:]))
    expect(changes >= 2, "fewer than two changes of the leader", order)


def rises(series, _cluster):
    pods = by_pod(series)
    for pod, numbers in pods.items():
        expect(numbers[-1] > numbers[0], "does not rise", pod, numbers)


def term_rises(series, cluster):
    rises(series, cluster)
    ends = {numbers[-1] for numbers in by_pod(series).values()}
    expect(len(ends) == 1, "the terms differ at the end", ends)
    first = min(numbers[0] for numbers in by_pod(series).values())
    expect(ends.pop() - first >= 2, "fewer than two elections", first)


def happened(series, _cluster):
    expect(max(one(series)) > 0, "never above zero", one(series))


def granted(series, _cluster):
    outcomes = by("outcome", series)
    expect(set(outcomes) == LABEL_VALUES["outcome"], "other outcomes", set(outcomes))
    expect(max(outcomes["granted"]) > 0, "no vote granted", outcomes["granted"])


def between(low, high):
    def check(series, _cluster):
        for pod, numbers in by_pod(series).items():
            expect(all(low <= number <= high for number in numbers), f"not from {low} to {high}", pod, numbers)

    return check


def ends_above_zero(series, _cluster):
    # A node that has just begun has not measured yet and shows 0.
    for pod, numbers in by_pod(series).items():
        expect(numbers[-1] > 0 and min(numbers) >= 0, "not above zero", pod, numbers)


def peers(low, high):
    def check(series, _cluster):
        found = by("peer", series)
        expect(set(found) == set(PODS), "not every member was a peer of some leader", set(found))
        for peer, numbers in found.items():
            expect(all(low <= number <= high for number in numbers), f"not from {low} to {high}", peer, numbers)
            expect(max(numbers) > low, f"never above {low}", peer)

    return check


def duration(numbers):
    expect(numbers and all(0 < number < 30 for number in numbers), "not a duration", numbers)


def durations_by(label, wanted):
    def check(series, _cluster):
        found = by(label, series)
        expect(set(found) >= set(wanted), f"{label} is not all of {wanted}", set(found))
        for value in wanted:
            duration(found[value])

    return check


def a_duration(series, _cluster):
    duration(one(series))


def failures(series, _cluster):
    reasons = by("reason", series)
    expect(set(reasons) == LABEL_VALUES["reason"], "other reasons", set(reasons))
    expect(max(reasons["no_leader"] + reasons["no_quorum"]) > 0, "nothing failed without a majority", reasons)


def tolerance(series, _cluster):
    numbers = one(series)
    expect(numbers[-1] == 1 and set(numbers) == {0, 1}, "not one at the end, or never zero", numbers)


def all_three(series, _cluster):
    expect(set(one(series)) == {3}, "not three", one(series))


def routes(series, _cluster):
    found = by("route", series)
    expect(set(found) >= ROUTES, "a route is missing", set(found))
    for route in ROUTES:
        expect(max(found[route]) > 0, "no requests", route)


def refusals(series, _cluster):
    codes = by("code", series)
    expect(max(codes.get("503", [0])) > 0, "no request was refused", codes)


def queues(series, _cluster):
    wanted = LABEL_VALUES["queue"] | {f"peer {pod}" for pod in PODS}
    found = by("queue", series)
    expect(set(found) == wanted, "other queues", set(found))
    expect(all(number >= 0 for numbers in found.values() for number in numbers), "below zero", found)


def directions(series, _cluster):
    expect(set(by("direction", series)) == LABEL_VALUES["direction"], "other directions", series)


QUERIES = {
    ("Leader", "stat", "A"): leader_is_named,
    ("Term", "stat", "A"): is_now(lambda cluster: max(status["term"] for status in cluster.status())),
    ("Voters", "stat", "A"): is_now(lambda _: 3),
    ("Failure tolerance", "stat", "A"): is_now(lambda _: 1),
    ("Keys", "stat", "A"): lambda series, _: expect(0 < one(series)[-1] <= 100, "other keys than were written", series),
    ("Spread", "stat", "A"): is_now(lambda _: 0),
    ("Leader by pod", "state-timeline", "A"): leaders_alternate,
    ("Term", "timeseries", "A"): term_rises,
    ("Elections", "timeseries", "A"): happened,
    ("Elections", "timeseries", "B"): happened,
    ("Votes", "timeseries", "A"): granted,
    ("Votes", "timeseries", "B"): granted,
    ("Commit and applied index", "timeseries", "A"): rises,
    ("Commit and applied index", "timeseries", "B"): rises,
    ("Committed but not applied", "timeseries", "A"): between(0, 10_000),
    ("Follower lag", "timeseries", "A"): peers(0, 100_000),
    ("Flush latency", "timeseries", "A"): durations_by("pod", PODS),
    ("Flush latency", "timeseries", "B"): durations_by("pod", PODS),
    ("Commit latency", "timeseries", "A"): a_duration,
    ("Commit latency", "timeseries", "B"): a_duration,
    ("Peer round trip", "timeseries", "A"): peers(0, 30),
    ("Proposals", "timeseries", "A"): happened,
    ("Proposals", "timeseries", "B"): failures,
    ("Proposals that wait", "timeseries", "A"): between(0, 1000),
    ("Failure tolerance", "timeseries", "A"): tolerance,
    ("Failure tolerance", "timeseries", "B"): all_three,
    ("Storage", "timeseries", "A"): ends_above_zero,
    ("Storage", "timeseries", "B"): ends_above_zero,
    ("Requests", "timeseries", "A"): routes,
    ("Request errors", "timeseries", "A"): refusals,
    ("Request latency", "timeseries", "A"): durations_by("route", ROUTES),
    ("Queues", "timeseries", "A"): queues,
    ("Snapshots", "timeseries", "A"): directions,
}
