#!/usr/bin/env python3
"""Renders the chart with each file of options/ and looks at what comes out.

usage: tests/chart/rendered.py [--update]

Each rendering is compared with golden/NAME.yaml, which holds only what is unlike the default rendering; that one is
k8s/kuberaft.yaml itself. A file that begins with "# On top of: a, b" is rendered with those options, too, and compared with
what they give without it. --update writes these files again. Both Helm 3 and Helm 4 render (helm and helm4 on PATH). All
manifests, those in docs/ too, are checked against the Kubernetes API of every supported version, and against the types
of the Prometheus operator and of cert-manager; a field that is not known there is an error.
"""

import copy
import difflib
import functools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap

import yaml

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.normpath(os.path.join(HERE, "..", ".."))
CHART = os.path.join(ROOT, "charts", "kuberaft")
OPTIONS = os.path.join(HERE, "options")
GOLDEN = os.path.join(HERE, "golden")
KUBE_OLDEST = (1, 30)
KUBE_RENDERED = "1.34.0"
ABSENT = object()

problems = []


def problem(text):
    problems.append(text)
    print(f"FAILED: {text}", file=sys.stderr)


def load(path):
    with open(path, encoding="utf-8") as file:
        return yaml.safe_load(file)


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


@functools.cache
def about():
    return load(os.path.join(CHART, "Chart.yaml"))


# ---------------------------------------------------------------- rendering

def helms():
    found = [helm for helm in ("helm", "helm4") if shutil.which(helm)]
    versions = {helm: subprocess.run([helm, "version", "--template", "{{.Version}}"], capture_output=True, text=True,
                                     check=True).stdout.strip() for helm in found}
    for major in ("v3.", "v4."):
        if not any(version.startswith(major) for version in versions.values()):
            print(f"WARNING: no Helm {major[1]} on PATH: that it renders the same was NOT tested", file=sys.stderr)
    return versions


def helm_template(helm, *arguments, chart=CHART, kube=KUBE_RENDERED):
    words = [helm, "template", "kv", chart, "--namespace", "default", "--kube-version", kube, *arguments]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(words)}: {done.stderr.strip()}")
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def named(documents):
    """Documents by kind and name; the full name, which an option may change, is written as *."""
    full_name = next(one["metadata"]["name"] for one in documents if one["kind"] == "StatefulSet")
    found = {}
    for document in documents:
        name = document["metadata"]["name"]
        suffix = name[len(full_name):] if name.startswith(full_name) else None
        key = f"{document['kind']} {name if suffix is None else '*' + suffix}"
        if key in found:
            raise SystemExit(f"rendered twice: {key}")
        found[key] = document
    return dict(sorted(found.items()))


def render(all_helms, *arguments):
    """What every Helm renders; they must agree but for the time."""
    first, *others = all_helms
    documents = named(helm_template(first, *arguments))
    for other in others:
        if without_noise(named(helm_template(other, *arguments))) != without_noise(documents):
            problem(f"{first} and {other} render {' '.join(arguments) or 'the default'} unlike each other")
    return documents


# ---------------------------------------------------------------- golden files

def without_noise(value):
    """The same without what differs from release to release or run to run, or is another file's content."""
    if isinstance(value, dict):
        known = {
            "helm.sh/chart": ("kuberaft-" + about()["version"], "kuberaft-VERSION"),
            "app.kubernetes.io/version": (about()["appVersion"], "VERSION"),
        }
        cleaned = {}
        for key, inner in value.items():
            if key in known and inner == known[key][0]:
                cleaned[key] = known[key][1]
            elif key.endswith(".json") and os.path.exists(os.path.join(CHART, "dashboards", key)):
                same = inner.strip() == read(os.path.join(CHART, "dashboards", key)).strip()
                cleaned[key] = f"<dashboards/{key}>" if same else inner
            elif key == "groups":
                cleaned[key] = alerts_or(inner)
            else:
                cleaned[key] = without_noise(inner)
        return cleaned
    if isinstance(value, list):
        return [without_noise(inner) for inner in value]
    if isinstance(value, str):
        if re.fullmatch(r"[0-9]{10}", value):
            return "<seconds since 1970>"
        return re.sub(rf"(/kuberaft):{re.escape(about()['appVersion'])}$", r"\1:VERSION", value)
    return value


def alerts_or(groups):
    """Names of the files that the alerts are in, and the place of the runbooks, if that is all there is."""
    pages = [rule["annotations"]["runbook_url"] for group in groups for rule in group["rules"]]
    base = os.path.dirname(pages[0])
    # What the template fills in, with the default names.
    words = {"RUNBOOKS": base, "NAMESPACE": "default", "FULLNAME": "kv-kuberaft", "BACKUP": "kv-kuberaft-backup"}
    written = {}
    for name in os.listdir(os.path.join(CHART, "alerts")):
        text = functools.reduce(lambda text, word: text.replace(*word), words.items(),
                                read(os.path.join(CHART, "alerts", name)))
        written.update({group["name"]: (f"alerts/{name}", group) for group in yaml.safe_load(text)["groups"]})
    files = [file for file, group in (written.get(group["name"], ("", {})) for group in groups) if group in groups]
    return f"<{', '.join(files)} with runbooks at {base}>" if len(files) == len(groups) else groups


def differences(was, now, path=""):
    """Yields (path, was, now) where they differ; elements of lists are told by their names where they have some."""
    def by_name(value):
        names = [one.get("name") if isinstance(one, dict) else None for one in value]
        return None if None in names or len(set(names)) < len(names) else dict(zip(names, value))

    if isinstance(was, list) and isinstance(now, list) and was and now:
        old, new = by_name(was), by_name(now)
        if old is not None and new is not None:
            was, now, form = old, new, "{}[{}]"
        elif len(was) == len(now):
            was, now, form = dict(enumerate(was)), dict(enumerate(now)), "{}[{}]"
        else:
            yield path, was, now
            return
    elif isinstance(was, dict) and isinstance(now, dict):
        form = "{}.{}" if path else "{}{}"
    else:
        if was != now or type(was) is not type(now):
            yield path, was, now
        return
    for key in list(was) + [key for key in now if key not in was]:
        yield from differences(was.get(key, ABSENT), now.get(key, ABSENT), form.format(path, key))


def golden(default, documents):
    """What is unlike the default rendering, as YAML."""
    parts = {"added": {}, "removed": [], "changed": {}}
    for key, document in documents.items():
        if key not in default:
            parts["added"][key] = document
            continue
        changed = {}
        for path, was, now in differences(default[key], document):
            sides = (("was", was), ("is", now))
            changed[path] = {side: value for side, value in sides if value is not ABSENT}
        if changed:
            parts["changed"][key] = changed
    parts["removed"] = [key for key in default if key not in documents]
    parts = {key: value for key, value in parts.items() if value}
    return yaml.dump(parts, Dumper=Plain, sort_keys=False, width=120) if parts else "{}\n"


class Plain(yaml.SafeDumper):
    def ignore_aliases(self, data):
        return True


def base(name):
    """The options that this one is rendered on top of."""
    first = read(os.path.join(OPTIONS, f"{name}.yaml")).partition("\n")[0]
    _, found, names = first.partition("# On top of: ")
    return tuple(names.split(", ")) if found else ()


def values(options):
    return [word for option in options for word in ("--values", os.path.join(OPTIONS, f"{option}.yaml"))]


def compare(name, text, update):
    path = os.path.join(GOLDEN, f"{name}.yaml")
    old = read(path) if os.path.exists(path) else ""
    if text == old:
        return
    if update:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        print(f"wrote {os.path.relpath(path, ROOT)}")
        return
    relative = os.path.relpath(path, ROOT)
    sys.stderr.writelines(difflib.unified_diff(old.splitlines(True), text.splitlines(True), relative, "rendered now"))
    problem(f"{relative} is not what is rendered; if it should be, run tests/chart/run --update")


def leaves(values, path=()):
    if isinstance(values, dict) and values:
        for key, inner in values.items():
            yield from leaves(inner, path + (key,))
    else:
        yield path


def check_coverage(names):
    """Every value is set by one of the options."""
    # What is below these is handed on as it is.
    free = {"resources", "podSecurityContext", "securityContext", "labels"}

    def until_free(path):
        at = next((at for at, part in enumerate(path) if part in free), len(path))
        return path[:at + 1]

    given = {until_free(path) for name in names for path in leaves(load(os.path.join(OPTIONS, f"{name}.yaml")))}
    for path in {until_free(path) for path in leaves(load(os.path.join(CHART, "values.yaml")))}:
        if not any(one[:len(path)] == path for one in given):
            problem(f"no file in tests/chart/options sets {'.'.join(path)}")


# ---------------------------------------------------------------- the types of the API

class Types:
    """The Kubernetes API of each version, and those of the operators."""

    def __init__(self):
        import kubernetes_validate
        from kubernetes_validate import utils

        # It reads a megabyte for each document otherwise.
        utils.schema_contents = functools.lru_cache(maxsize=None)(utils.schema_contents)
        self.kubernetes = kubernetes_validate
        parsed = [tuple(map(int, version.split(".")[:2])) for version in utils.all_versions()]
        self.versions = [f"{major}.{minor}" for major, minor in parsed if (major, minor) >= KUBE_OLDEST]
        self.refusals = (utils.ValidationError, utils.SchemaNotFoundError)
        self.seen = {}

    def refusal(self, document):
        """Why the document is refused, by any version; None if it is fine. Equal documents are looked at once."""
        key = json.dumps(document, sort_keys=True)
        if key not in self.seen:
            self.seen[key] = self.look(document)
        return self.seen[key]

    def look(self, document):
        group = document["apiVersion"].split("/")[0]
        if group in ("monitoring.coreos.com", "cert-manager.io"):
            return self.look_at_custom(group, document)
        for version in self.versions:
            try:
                self.kubernetes.validate(document, version, strict=True)
            except self.refusals as error:
                where = ".".join(map(str, getattr(error, "absolute_path", ())))
                return f"Kubernetes {version}: {where} {getattr(error, 'message', error)}"
        return None

    @staticmethod
    def look_at_custom(group, document):
        import pydantic

        if group == "monitoring.coreos.com":
            from cloudcoil.models.prometheus_operator import v1
        else:
            from cloudcoil.models.cert_manager import v1
        kind = getattr(v1, document["kind"], None)
        if kind is None or not document["apiVersion"].endswith("/v1"):
            return f"{group} has no {document['kind']} in {document['apiVersion']}"
        try:
            kind.model_validate(document, extra="forbid", by_alias=True, by_name=False)
        except pydantic.ValidationError as error:
            return f"{group}: {error}"
        return None


def spoiled(documents):
    """Manifests with one mistake each: what must be refused."""
    mistakes = [
        ("StatefulSet *", ("spec", "replicaz"), 3),
        ("StatefulSet *", ("spec", "replicas"), "three"),
        ("StatefulSet *", ("spec", "template", "spec", "containers", 0, "imagePullPolice"), "Always"),
        ("StatefulSet *", ("apiVersion",), "apps/v1beta1"),
        ("CronJob *-backup", ("spec", "jobTemplate", "spec", "template", "spec", "restart"), "Never"),
        ("CronJob *-backup", ("kind",), "CronJobs"),
        ("Job *-wait", ("spec", "backoffLimits"), 3),
        ("Role *", ("rules", 0, "verbz"), ["get"]),
        ("NetworkPolicy *", ("spec", "ingress", 0, "ports", 0, "prt"), 1),
        ("PodDisruptionBudget *", ("spec", "maxUnavailables"), 1),
        ("ServiceMonitor *", ("spec", "endpoints", 0, "intervall"), "1s"),
        ("PrometheusRule *", ("spec", "groups", 0, "rules", 0, "alerts"), "A"),
    ]
    for key, path, value in mistakes:
        document = copy.deepcopy(documents[key])
        inner = document
        for part in path[:-1]:
            inner = inner[part]
        inner[path[-1]] = value
        yield f"{key} with {'.'.join(map(str, path))}: {value}", document
    certificate = {"apiVersion": "cert-manager.io/v1", "kind": "Certificate", "metadata": {"name": "a"},
                   "spec": {"secretName": "a", "issuerRef": {"name": "a"}, "dnsName": ["a"]}}
    yield "Certificate with spec.dnsName", certificate


def in_documentation():
    """Manifests in the fenced blocks of the documentation."""
    for folder in ("docs", os.path.join("charts", "kuberaft")):
        for name in sorted(os.listdir(os.path.join(ROOT, folder))):
            if name.endswith(".md"):
                blocks = re.findall(r"^ *```yaml\n(.*?)^ *```", read(os.path.join(ROOT, folder, name)), re.M | re.S)
                for document in (one for block in blocks for one in yaml.safe_load_all(textwrap.dedent(block))):
                    if isinstance(document, dict) and "kind" in document:
                        yield f"{folder}/{name}", document


# ---------------------------------------------------------------- what must hold for every rendering

def pod_templates(documents):
    """Labels and spec of each pod that a document makes."""
    for key, document in documents.items():
        kind, spec = document["kind"], document.get("spec", {})
        if kind == "Pod":
            yield key, document["metadata"].get("labels", {}), spec
        elif kind in ("StatefulSet", "Job", "Deployment"):
            yield key, spec["template"]["metadata"]["labels"], spec["template"]["spec"]
        elif kind == "CronJob":
            template = spec["jobTemplate"]["spec"]["template"]
            yield key, template["metadata"]["labels"], template["spec"]


def check_pods(name, documents):
    """The restricted Pod Security Standard, and a read-only root."""
    for key, _, spec in pod_templates(documents):
        pod = spec["securityContext"]
        good = pod.get("runAsNonRoot") and pod.get("seccompProfile") == {"type": "RuntimeDefault"}
        good = good and not any(spec.get(host) for host in ("hostNetwork", "hostPID", "hostIPC"))
        allowed = {"configMap", "emptyDir", "persistentVolumeClaim", "projected", "secret", "name"}
        good = good and all(set(volume) <= allowed for volume in spec.get("volumes", []))
        for container in spec.get("initContainers", []) + spec["containers"]:
            own = container["securityContext"]
            good = good and own.get("allowPrivilegeEscalation") is False and own.get("readOnlyRootFilesystem")
            good = good and own.get("capabilities") == {"drop": ["ALL"]} and not own.get("privileged")
        if not good:
            problem(f"{name}: {key} is not restricted")


def check_network_policy(name, documents):
    """Pods of jobs and tests reach the client port, all of them; only members and `recover` the peer port."""
    policy = documents["NetworkPolicy *"]["spec"]

    def reaches(labels, port):
        for rule in policy["ingress"]:
            if {"port": port} in rule["ports"]:
                selectors = [peer["podSelector"].get("matchLabels", {}) for peer in rule.get("from", []) if "podSelector" in peer]
                if "from" not in rule or any(one.items() <= labels.items() for one in selectors):
                    return True
        return False

    pods = [(key, labels) for key, labels, _ in pod_templates(documents)]
    recover = read(os.path.join(ROOT, "docs", "operations.md")).partition("# recover.yaml")[2].partition("```")[0]
    recover = next(yaml.safe_load_all(textwrap.dedent("  " + recover)))
    # For another release than that of the page.
    names = documents["StatefulSet *"]["spec"]["selector"]["matchLabels"]
    pods.append(("Pod of recover", {**names, **{key: value for key, value in recover["metadata"]["labels"].items()
                                                if key.endswith("/component")}}))
    pods.append(("a stranger's Pod", {"app": "stranger"}))
    admits_all = [rule.get("from", [{"podSelector": {}}])[-1] == {"podSelector": {}} for rule in policy["ingress"]
                  if {"port": "client"} in rule["ports"]]
    for key, labels in pods:
        may_peer = key.startswith(("StatefulSet", "Pod of recover"))
        may_client = "stranger" not in key or any(admits_all)
        if reaches(labels, "client") != may_client or reaches(labels, "peer") != may_peer:
            problem(f"{name}: the NetworkPolicy is wrong for {key}")


def check_rights(name, documents):
    """No rights beyond names, none to write what only people or Helm write."""
    full_name = documents["StatefulSet *"]["metadata"]["name"]
    for key, document in documents.items():
        if document["kind"] in ("ClusterRole", "ClusterRoleBinding"):
            problem(f"{name}: {key} reaches beyond the namespace")
        for rule in document.get("rules", []) if document["kind"] == "Role" else []:
            resources, verbs = set(rule["resources"]), set(rule["verbs"])
            secret = [f"{full_name}-peer"]
            if "secrets" in resources and (verbs != {"get", "patch"} or rule.get("resourceNames") != secret):
                problem(f"{name}: {key} reaches other Secrets than {secret}, or may more than read and fill it")
            if "*" in resources | verbs or {"pods/status", "pods/exec"} & resources:
                problem(f"{name}: {key} may too much: {rule}")
            if "statefulsets" in resources and not verbs <= {"get", "list", "watch"}:
                problem(f"{name}: {key} may write StatefulSets")
            unnamed = {"endpointslices", "events"}
            if "resourceNames" not in rule and not resources <= unnamed:
                problem(f"{name}: {key} reaches all {sorted(resources)}")


def check_names_fit():
    """The longest names of the longest releases are still names."""
    for arguments in (["--set", f"fullnameOverride={'a' * 52}"], ["--set", f"nameOverride={'a' * 52}"]):
        arguments += ["--values", os.path.join(HERE, "every-option.yaml")] if "full" in arguments[1] else []
        arguments += ["--set", "backup.enabled=true,backup.persistence.existingClaim=,waitJob.enabled=true"]
        for document in helm_template("helm", *arguments):
            name = document["metadata"]["name"]
            longest = {"CronJob": 52, "StatefulSet": 52}.get(document["kind"], 63)
            if len(name) > longest:
                problem(f"{document['kind']} {name} has {len(name)} characters")


def check_about(default):
    """Chart.yaml says what the chart installs."""
    chart = about()
    program = re.search(r'^version = "(.*)"', read(os.path.join(ROOT, "Cargo.toml")), re.M).group(1)
    if chart["appVersion"] != program:
        problem(f"Chart.yaml has appVersion {chart['appVersion']}, the program is {program}")
    images = {container["image"] for _, _, spec in pod_templates(default)
              for container in spec.get("initContainers", []) + spec["containers"]}
    told = {image["image"] for image in yaml.safe_load(chart["annotations"]["artifacthub.io/images"])}
    if images != told:
        problem(f"Chart.yaml lists the images {told}, the chart installs {images}")
    kinds = {"added", "changed", "deprecated", "removed", "fixed", "security"}
    for change in yaml.safe_load(chart["annotations"]["artifacthub.io/changes"]):
        if change["kind"] not in kinds or not change["description"]:
            problem(f"Chart.yaml: {change} is no change")
    for link in yaml.safe_load(chart["annotations"]["artifacthub.io/links"]):
        path = re.sub(r"^https://github.com/kuberaft/kuberaft/(blob|tree)/main/", "", link["url"])
        if path != link["url"] and not os.path.exists(os.path.join(ROOT, path)):
            problem(f"Chart.yaml links to {path}, which is not there")


def notes(helm, *arguments):
    """What people read after an installation: rendered as if it were a manifest, since that needs no cluster."""
    with tempfile.TemporaryDirectory() as folder:
        chart = os.path.join(folder, "kuberaft")
        shutil.copytree(CHART, chart)
        os.rename(os.path.join(chart, "templates", "NOTES.txt"), os.path.join(chart, "notes"))
        with open(os.path.join(chart, "templates", "notes.yaml"), "w", encoding="utf-8") as file:
            file.write('kind: Notes\nmetadata: { name: notes }\ntext: {{ tpl (.Files.Get "notes") . | quote }}\n')
        documents = helm_template(helm, "--show-only", "templates/notes.yaml", *arguments, chart=chart)
        return documents[0]["text"]


def check_notes(all_helms):
    for helm in all_helms:
        text = notes(helm)
        commands = re.findall(r"^  ((?:kubectl|helm) .*)$", text.partition("Next:\n")[2], re.M)
        if len(commands) != 3 or not all(" -n default " in command for command in commands):
            problem(f"{helm}: the notes have not three commands: {commands}")
        for setting, warning in (
            ("replicaCount=4", "WARNING: 4 members survive no more failures than 3"),
            ("persistence.enabled=false", "WARNING: persistence is off"),
            ("replicaCount=0", "the cluster sleeps"),
            ("replicaCount=5,maxMembers=3", "WARNING: only 3 of 5 pods"),
            ("tls.peer.mode=off", "WARNING: members do not authenticate each other"),
            ("tls.peer.enabled=false,networkPolicy.enabled=false", "No network policy keeps other pods off"),
            ("adminAccess=network", "WARNING: everyone who reaches the client port may change members"),
        ):
            if warning in text or warning not in notes(helm, "--set", setting):
                problem(f"{helm}: the notes with {setting} and they alone should say: {warning}")
        secured = notes(helm, "--set", "tls.enabled=true,tls.secretName=x")
        warning = "WARNING: clients are neither encrypted"
        if warning not in text or warning in secured:
            problem(f"{helm}: the notes without TLS, and they alone, should say: {warning}")


# ---------------------------------------------------------------- all of it

def main():
    if sys.argv[1:] not in ([], ["--update"]):
        print(__doc__)
        return 2
    update = sys.argv[1:] == ["--update"]
    versions = helms()
    names = sorted(name.removesuffix(".yaml") for name in os.listdir(OPTIONS))
    default = render(versions)
    plain = render(versions, "--skip-tests")
    # By the names of the options.
    renderings = {(): default}
    for name in names:
        for one in (base(name), (*base(name), name)):
            if one and one not in renderings:
                renderings[one] = render(versions, *values(one))

    clean = {options: without_noise(documents) for options, documents in renderings.items()}
    compare("helm-test", golden(without_noise(plain), clean[()]), update)
    for name in names:
        compare(name, golden(clean[base(name)], clean[(*base(name), name)]), update)
    for left in sorted(set(os.listdir(GOLDEN)) - {f"{name}.yaml" for name in [*names, "helm-test"]}):
        problem(f"tests/chart/golden/{left} belongs to no option")
    check_coverage(names)

    everything = ["--values", os.path.join(HERE, "every-option.yaml")]
    renderings = {", ".join(options) or "default": documents for options, documents in renderings.items()}
    renderings["every option"] = render(versions, *everything)
    renderings["k8s/kuberaft.yaml"] = named(list(yaml.safe_load_all(read(os.path.join(ROOT, "k8s", "kuberaft.yaml")))))
    for name, documents in renderings.items():
        if name != "security-context":
            check_pods(name, documents)
        check_rights(name, documents)
    for name in ("default", "network-policy-from", "every option"):
        check_network_policy(name, renderings[name])
    check_names_fit()
    check_about(default)
    check_notes(versions)

    types = Types()
    for name, documents in renderings.items():
        for key, document in documents.items():
            if refusal := types.refusal(document):
                problem(f"{name}: {key}: {refusal}")
    for place, document in in_documentation():
        if refusal := types.refusal(document):
            problem(f"{place}: {document['kind']}: {refusal}")
    checked, refused = len(types.seen), 0
    for what, document in spoiled(renderings["every option"]):
        refused += 1
        if not types.refusal(document):
            problem(f"taken although it is wrong: {what}")
    for version in types.versions:
        for arguments in ([], everything):
            now = named(helm_template("helm", *arguments, kube=f"{version}.0"))
            if without_noise(now) != without_noise(render(["helm"], *arguments)):
                problem(f"for Kubernetes {version} the chart renders something else")
    if problems:
        print(f"{len(problems)} problems", file=sys.stderr)
        return 1
    print(f"ok: {len(names)} options rendered as before by {', '.join(versions.values())}; {checked} manifests are valid "
          f"for Kubernetes {types.versions[0]} to {types.versions[-1]}, {refused} wrong ones are refused")
    return 0


if __name__ == "__main__":
    sys.exit(main())
