"""Manifests as the documentation prints them, so that what people copy is what is tried."""

import json
import os
import re
import textwrap

from cluster import Failed

DOCS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "docs")


def manifests(cluster, page, holds):
    """The objects of the first YAML block of this page that holds this text; image and size are the installation's."""
    with open(os.path.join(DOCS, page), encoding="utf-8") as file:
        blocks = re.findall(r"^ *```yaml\n(.*?)^ *```", file.read(), re.DOTALL | re.MULTILINE)
    found = [textwrap.dedent(block) for block in blocks if holds in block]
    if not found:
        raise Failed(f"docs/{page} has no YAML block with {holds}")
    text = re.sub(r"registry\.example/kuberaft:\S+", cluster.image, found[0]).replace("10Gi", "1Gi")
    # kubectl reads YAML, and one object after the other comes back.
    read = cluster.kubectl("create", "--dry-run=client", "-o", "json", "-f", "-", input=text)
    decoder, objects = json.JSONDecoder(), []
    while read := read.strip():
        read_object, end = decoder.raw_decode(read)
        objects += read_object.get("items", [read_object])
        read = read[end:]
    return objects
