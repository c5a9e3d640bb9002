"""The cluster file: what is read, what is refused and in which words, and its published schema."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubenclave.cluster.checks.rules import check
from kubenclave.cluster.file.cluster_file import parse_cluster, read_cluster_file, schema
from kubenclave.cluster.spec import ClusterSpec, Mode
from kubenclave.errors import NotFound, UsageError

DOCS = Path(__file__).parents[4] / "docs" / "reference"
GOOD = """\
name: brandNewCluster
group: sconaksg
location: uksouth
pools:
  - name: system
    vmSize: Standard_D4s_v5
    mode: System
  - name: sgx
    vmSize: Standard_DC2s_v3
    count: 2
    labels: {tee: sgx}
"""
AS_JSON = {
    "name": "brandNewCluster",
    "group": "sconaksg",
    "location": "uksouth",
    "kubernetesVersion": "1.35",
    "sgx": {"by": "addon", "quoteHelper": True},
    "headers": {"a": "b"},
    "features": ["Microsoft.ContainerService/A"],
    "tags": {"team": "a"},
    "sshKey": "ssh-ed25519 " + "A" * 68,
    "pools": [
        {"name": "system", "vmSize": "Standard_D4s_v5", "mode": "System"},
        {
            "name": "sgx",
            "vmSize": "Standard_DC2s_v3",
            "count": 2,
            "labels": {"tee": "sgx"},
            "autoscale": {"min": 0, "max": 3},
            "taints": [{"key": "a/b", "value": "c", "effect": "NoExecute"}],
            "spot": True,
            "maxPods": 30,
        },
    ],
}


def accepted(text):
    try:
        parse_cluster(text, "it.yaml")
    except UsageError:
        return False
    return True


def refused(text):
    with pytest.raises(UsageError) as caught:
        parse_cluster(text, "it.yaml")
    return caught.value.what


def examples():
    return re.findall(r"```yaml\n(.*?)```", (DOCS / "cluster-file.md").read_text(), re.DOTALL)


def test_a_file_becomes_a_cluster(tmp_path):
    file = tmp_path / "sgx.yaml"
    file.write_text(GOOD)
    spec = read_cluster_file(file)
    assert (spec.name, spec.pools[0].mode, spec.pools[1].count, spec.pools[1].labels) == ("brandNewCluster", Mode.SYSTEM, 2, {"tee": "sgx"})


def test_a_mistake_is_told_with_file_line_and_field(tmp_path):
    file = tmp_path / "sgx.yaml"
    file.write_text(GOOD.replace("    vmSize: Standard_DC2s_v3\n", "    vmSize: ''\n"))
    with pytest.raises(UsageError) as caught:
        read_cluster_file(file)
    assert caught.value.what == f"{file}:9: pools[1].vmSize: '' does not fit. As Azure spells it: Standard_DC2s_v3."


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("uksouth", "UK South"), "it.yaml:3: location: 'UK South' does not fit. The region, as Azure names it in programs: uksouth."),
        (("name: brandNewCluster\n", ""), "it.yaml:1: name: is missing"),
        (("count: 2", "count: 1001"), "it.yaml:10: pools[1].count: 1001 is not between 0 and 1000"),
        (("vmSize: Standard_DC2s_v3", "vm_size: Standard_DC2s_v3"), "it.yaml:9: pools[1].vm_size: is no field; vmSize is meant?"),
        (("mode: System", "mode: system"), "it.yaml:7: pools[0].mode: 'system' is none of System, User; System is meant?"),
        (("count: 2", "count: '2'"), "it.yaml:10: pools[1].count: is '2', text, where a whole number is wanted; write it without quotes."),
        (("{tee: sgx}", "{'a b': c}"), "it.yaml:11: pools[1].labels[\"a b\"]: the name 'a b' does not fit. At most 63 letters"),
        (("location: uksouth", "location:"), "it.yaml:3: location: is empty where text is wanted"),
        (("group: sconaksg", "group: on"), "it.yaml:2: group: is true, a truth value, where text is wanted; write it in quotes."),
    ],
)
def test_a_mistake_is_a_sentence_with_the_rule_and_no_pattern(change, message):
    told = refused(GOOD.replace(*change))
    assert message in told.splitlines()[0] or message in told.splitlines()[-1]
    assert "^" not in told


def test_every_mistake_is_told_on_a_line_of_its_own():
    told = refused(GOOD.replace("uksouth", "UK").replace("count: 2", "count: -1").replace("Standard_D4s_v5", "1"))
    assert [line.split(": ")[1] for line in told.splitlines()] == ["location", "pools[0].vmSize", "pools[1].count"]


def test_of_very_many_mistakes_ten_are_told_and_the_rest_are_counted():
    told = refused(GOOD + "tags: {" + ", ".join(f"k{place}: {place}" for place in range(30)) + "}\n").splitlines()
    assert len(told) == 11
    assert told[-1] == "and 20 more"


def test_a_version_without_quotes_is_refused_as_the_number_that_yaml_makes_of_it():
    told = refused(GOOD + "kubernetesVersion: 1.30\n")
    assert told.startswith("it.yaml:12: kubernetesVersion: is 1.3, a number")
    assert "write it in quotes" in told


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it.yaml:1: the file is empty"),
        ("name: a\nname: b", "it.yaml:2: 'name' stands here again, after line 1"),
        ("pools:\n- name: a\n  name: b", "it.yaml:3: pools[0]: 'name' stands here again, after line 2"),
        ("name: &a b\ngroup: *a", "it.yaml:2: this is not read: an alias"),
        ("{<<: {name: a}}", "it.yaml:1: the key '<<' is no text"),
        ("1: a", "it.yaml:1: the key '1' is no text"),
        ("? [a]\n: b", "it.yaml:1: the key a list or a mapping is no text"),
        ("name: a\n---\nname: b", "it.yaml:2: this is not read: expected a single document"),
        ("name: 2020-01-01", "it.yaml:1: name: YAML takes this for a value of the kind 'timestamp'"),
        ("name: !!python/object/apply:os.system [ls]", "it.yaml:1: name: YAML takes this for a value of the kind 'python/object"),
        ("name: !!binary aGk=", "it.yaml:1: name: YAML takes this for a value of the kind 'binary'"),
        ("name: !!int abc", "it.yaml:1: name: 'abc' is not the number"),
        ("count: 1" + ":59" * 6000, "it.yaml:1: count: '1:59:59"),
        ("count: " + "1" * 10_000, "it.yaml:1: count: '1111"),
        ("name: " + "a" * 20_001, "it.yaml:1: name: a value of 20001 characters is too long"),
        ("[" * 100_000, "it.yaml:1: this is not read: nothing is nested deeper than 16 levels"),
        ('name: "\\ud800"', "it.yaml:1: name: an escape stands here for half a character"),
        ("a: \x07", "it.yaml:1: a character stands here that YAML does not allow"),
        ("name: a\n\tb: c", "it.yaml:2: this is not read"),
        ("- a", "it.yaml:1: the file: is a list where a mapping"),
        ("null", "it.yaml:1: the file: is empty where a mapping"),
    ],
)
def test_what_another_reader_might_take_otherwise_is_refused_with_its_line(text, message):
    assert refused(text).startswith(message)


def test_a_file_that_is_too_large_is_refused_unread(tmp_path):
    file = tmp_path / "large.yaml"
    file.write_bytes(b"#" * (128 * 1024 + 1))
    with pytest.raises(UsageError, match="larger than 131072 bytes"):
        read_cluster_file(file)


def test_an_endless_file_is_refused():
    with pytest.raises(UsageError, match="larger than"):
        read_cluster_file(Path("/dev/zero"))


def test_bytes_that_are_no_utf_8_are_told_with_their_line(tmp_path):
    file = tmp_path / "latin.yaml"
    file.write_bytes(b"name: a\ngroup: \xe4")
    with pytest.raises(UsageError, match=re.escape(f"{file}:2: a byte stands here that is no UTF-8")):
        read_cluster_file(file)


def test_a_file_that_is_not_there_is_not_found(tmp_path):
    with pytest.raises(NotFound, match=r"gone\.yaml"):
        read_cluster_file(tmp_path / "gone.yaml")


def test_a_folder_is_no_cluster_file(tmp_path):
    with pytest.raises(UsageError, match=re.escape(str(tmp_path))):
        read_cluster_file(tmp_path)


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path):
    file = tmp_path / "bom.yaml"
    file.write_text("\ufeff" + GOOD, encoding="utf-8")
    assert read_cluster_file(file).name == "brandNewCluster"


def test_the_published_schema_is_the_one_of_the_code():
    published = json.loads((DOCS / "cluster.schema.json").read_text())
    assert published == schema(), "write it anew: json.dumps(kubenclave.cluster.file.cluster_file.schema(), indent=2)"


def test_the_schema_is_a_schema_of_its_draft_and_says_what_it_is_about():
    jsonschema.Draft202012Validator.check_schema(schema())
    assert {"$schema", "$id", "title"} <= schema().keys()
    assert "``" not in json.dumps(schema())


@pytest.mark.parametrize("text", examples())
def test_every_example_of_the_documentation_is_read_and_nothing_in_it_blocks(text):
    assert not [finding for finding in check(parse_cluster(text, "cluster-file.md")) if finding.blocks]


def test_the_documentation_has_an_example_of_the_guide_of_the_add_on_and_of_scaling_from_zero_on_spot():
    specs = [parse_cluster(text, "cluster-file.md") for text in examples()]
    assert specs[0].name == "brandNewCluster"
    assert any(spec.sgx.by == "addon" and spec.sgx.quote_helper for spec in specs)
    assert any(pool.spot and pool.autoscale is not None and pool.autoscale.min == 0 for spec in specs for pool in spec.pools)


def test_the_documentation_names_every_field():
    text = (DOCS / "cluster-file.md").read_text()
    defined = schema()["$defs"]
    names = {name for part in ("ClusterSpec", "Pool", "SgxOptions") for name in defined[part]["properties"]}
    assert not {name for name in names - {"sgx"} if not re.search(rf"`(sgx\.)?{name}`", text)}


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 1002),
    st.sampled_from([1.5, 2.0, -0.5]),
    st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), max_size=12),
    st.sampled_from(["uksouth", "System", "azure", "1.35", "a/b", "addon", "ends.", "ab\n", "Standard_DC2s_v3"]),
)
names = st.sampled_from(["name", "vmSize", "count", "min", "max", "key", "by", "pools", "tee", "a b", "kubernetes.io/x", "effect", "none"])
values = st.recursive(scalars, lambda part: st.lists(part, max_size=3) | st.dictionaries(names, part, max_size=3), max_leaves=6)


def paths(value, path=()):
    yield path
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, part in entries:
        yield from paths(part, (*path, step))


def changed(value, path, new):
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = changed(value[path[0]], path[1:], new)
    return copy


def without(value, path):
    copy = value.copy()
    if len(path) == 1:
        del copy[path[0]]
    else:
        copy[path[0]] = without(value[path[0]], path[1:])
    return copy


@settings(deadline=None)
@given(path=st.sampled_from(list(paths(AS_JSON))), new=values)
def test_reader_and_schema_agree_about_a_file_with_one_part_exchanged(path, new):
    value = changed(AS_JSON, path, new)
    assert accepted(json.dumps(value, ensure_ascii=False)) == jsonschema.Draft202012Validator(schema()).is_valid(value)


@pytest.mark.parametrize("path", [path for path in paths(AS_JSON) if path], ids=str)
def test_reader_and_schema_agree_about_a_file_with_one_part_left_out(path):
    value = without(AS_JSON, path)
    assert accepted(json.dumps(value, ensure_ascii=False)) == jsonschema.Draft202012Validator(schema()).is_valid(value)


@settings(deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=200) | st.text("[]{}:,-&*!|>'\"#? \nab1", max_size=60))
def test_any_text_at_all_is_read_or_refused_with_a_line(text):
    if accepted(text):
        assert isinstance(parse_cluster(text, "it.yaml"), ClusterSpec)
    else:
        assert re.match(r"it\.yaml:[0-9]+: ", refused(text))


def test_a_name_with_a_null_byte_is_refused_and_does_not_crash():
    with pytest.raises(UsageError):
        read_cluster_file(Path("a\0b"))
