"""Compares what the director exports with what node_exporter reads from the director's /proc files, both by
Prometheus' own parser. Arguments: the director's /metrics, node_exporter's /metrics."""

import sys

from prometheus_client.parser import text_string_to_metric_families


def families(path):
    with open(path, encoding="utf-8") as f:
        return list(text_string_to_metric_families(f.read()))


def values(all_families):
    found = {}
    for family in all_families:
        for s in family.samples:
            if s.name.startswith("node_ipvs_"):
                key = (s.name, tuple(sorted(s.labels.items())))
                assert key not in found, f"twice: {key}"
                found[key] = (family.type, s.value)
    return found


def whole(family):
    """A histogram's buckets grow, and the last has all."""
    buckets, counts = {}, {}
    for s in family.samples:
        of = tuple(sorted((k, v) for k, v in s.labels.items() if k != "le"))
        if s.name.endswith("_bucket"):
            buckets.setdefault(of, []).append((float(s.labels["le"]), s.value))
        if s.name.endswith("_count"):
            counts[of] = s.value
    assert counts and buckets.keys() == counts.keys(), f"{family.name} is not whole"
    for of, steps in buckets.items():
        assert steps == sorted(steps), f"{family.name}{of} does not grow: {steps}"
        assert [v for _, v in steps] == sorted(v for _, v in steps), f"{family.name}{of} falls: {steps}"
        assert steps[-1] == (float("inf"), counts[of]), f"{family.name}{of}: {steps[-1]} of {counts[of]}"


ours, theirs = families(sys.argv[1]), families(sys.argv[2])
# the parser takes `_total` off the names of counters
names = [(f.name, f.type) for f in ours]
twice = {n for n in names if names.count(n) > 1}
assert not twice, f"families are there twice: {twice}"
series = [(s.name, tuple(sorted(s.labels.items()))) for f in ours for s in f.samples]
assert len(series) == len(set(series)), "a series is there twice"
for f in ours:
    assert f.type in ("counter", "gauge", "histogram"), f"{f.name} is {f.type}"
    if f.type == "histogram":
        whole(f)
    assert f.documentation, f"{f.name} says nothing of itself"
    assert f.samples, f"{f.name} has no sample"

ours, theirs = values(ours), values(theirs)
for key in sorted(set(ours) | set(theirs)):
    assert ours.get(key) == theirs.get(key), f"{key}: {ours.get(key)}, node_exporter says {theirs.get(key)}"
print(len(ours), "series of node_ipvs,", sum(v for _, v in ours.values()), "in sum,", len(series), "in all")
