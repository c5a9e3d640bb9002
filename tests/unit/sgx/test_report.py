from __future__ import annotations

import inspect
import re
from importlib import resources

import msgspec
import pytest

import kubenclave.sgx.report
from kubenclave.cli.show import as_json
from kubenclave.errors import NotFound
from kubenclave.sgx import describe, draw_picture, epc_need, read_enclave, vm_size_epc_bytes
from kubenclave.sgx.findings import _of_signature
from kubenclave.sgx.report import EnclaveReport
from kubenclave.sgx.tables import KnownSigner, known_signer

MIB = 1 << 20
SCHEMA = resources.files("kubenclave.sgx").joinpath("enclave-report.schema.json")


def schema_of_the_report():
    """The schema of the classes, each property with the words of its class's docstring."""
    schema = msgspec.json.schema(EnclaveReport)
    for name, definition in schema["$defs"].items():
        text = inspect.getdoc(getattr(kubenclave.sgx.report, name))
        words = dict(re.findall(r"^    (\w+): (.*(?:\n        .*)*)", text, re.MULTILINE))
        definition["description"] = text.splitlines()[0]
        for field, value in definition["properties"].items():
            value["description"] = re.sub(r"\s+", " ", words[field])
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def faults(value, schema, definitions, at="$"):
    """Check what the schema uses of JSON Schema: no more, so that an unknown word in it is an error here."""
    known = {"$schema", "$ref", "$defs", "title", "description", "type", "properties", "required", "items", "prefixItems", "anyOf", "enum"}
    assert set(schema) <= known | {"minItems", "maxItems"}, schema
    if "$ref" in schema:
        return faults(value, definitions[schema["$ref"].rpartition("/")[2]], definitions, at)
    if "anyOf" in schema:
        options = [faults(value, option, definitions, at) for option in schema["anyOf"]]
        return [] if not all(options) else options[0]
    types = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool, "null": type(None)}
    if "type" in schema and (not isinstance(value, types[schema["type"]]) or (schema["type"] == "integer" and isinstance(value, bool))):
        return [f"{at} is {value!r}, not {schema['type']}"]
    found = [] if value in schema.get("enum", [value]) else [f"{at} is {value!r}"]
    if isinstance(value, dict):
        found += [f"{at}.{name} is missing" for name in schema["required"] if name not in value]
        found += [f"{at}.{name} is unknown" for name in value if name not in schema["properties"]]
        for name, inner in schema["properties"].items():
            found += faults(value[name], inner, definitions, f"{at}.{name}") if name in value else []
    if isinstance(value, list):
        inner = schema.get("prefixItems") or [schema.get("items")] * len(value)
        found += [] if len(inner) == len(value) else [f"{at} has {len(value)} items"]
        for index, (item, form) in enumerate(zip(value, inner, strict=False)):
            found += faults(item, form, definitions, f"{at}[{index}]") if isinstance(form, dict) else []
    return found


def test_the_schema_in_the_package_is_that_of_the_report():
    # To write it anew: python tests/unit/sgx/test_report.py
    assert msgspec.json.decode(SCHEMA.read_bytes()) == schema_of_the_report()


@pytest.fixture(scope="module")
def files(open_enclave, sdk, signed, signature_of, plain_layout):
    edmm = (*sdk.thread_layout, sdk.entry(3, 8, 50, 0x80000, 0, 0, 0x203))
    return {
        "open enclave": signed(open_enclave()),
        "unsigned": open_enclave(),
        "older": open_enclave(size=1920),
        "sdk": signed(sdk.file(sdk.block(edmm), sdk.block(sdk.thread_layout, version=(1, 4)))),
        "sigstruct": signature_of(plain_layout),
    }


def test_the_json_of_every_kind_of_file_is_valid_by_the_schema(files):
    schema = msgspec.json.decode(SCHEMA.read_bytes())

    for name, data in files.items():
        value = msgspec.json.decode(as_json(describe(read_enclave(data), epc_limit_bytes=1)))
        assert faults(value, schema, schema["$defs"]) == [], name


def test_a_value_that_is_not_by_the_schema_is_told(files):
    schema = msgspec.json.decode(SCHEMA.read_bytes())
    value = msgspec.json.decode(as_json(describe(read_enclave(files["sdk"]))))
    value["memory"]["threads"] = [1]
    value["findings"][0]["severity"] = "fatal"
    del value["format"]

    assert len(faults(value, schema, schema["$defs"])) == 3


def test_the_report_says_who_signed_what_and_how_much_it_takes(files):
    report = describe(read_enclave(files["open enclave"]))
    signature, memory = report.signature, report.memory

    assert (report.format, report.version) == ("Open Enclave ELF", "0.18-0.19")
    assert (signature.isv_prod_id, signature.isv_svn, signature.date, signature.is_valid) == (7, 3, "2026-01-01", True)
    assert (signature.flags, signature.flag_names) == ("0x0000000000000006", ("DEBUG", "MODE64BIT"))
    assert signature.flags_mask == "0xfffffffffffffffd"
    assert signature.mrenclave == memory.mrenclave
    assert (memory.threads, memory.heap_bytes, memory.stack_bytes) == ((2, 2), (4 * 4096, 4 * 4096), 2 * 4096)
    # Image 5, relocations 1, heap 4, twice: stack 2, TCS, 2 SSA, thread data.
    assert sum(group.page_count for group in memory.pages) == memory.epc.enclave_pages == 22
    assert (memory.epc.pages, memory.epc.size_bytes, memory.epc.size_mib) == (24, 24 * 4096, 1)


def test_an_edmm_layout_reports_what_it_may_grow_to(files):
    memory = describe(read_enclave(files["sdk"])).memory

    assert memory.max_epc.enclave_pages - memory.epc.enclave_pages == 50
    assert memory.heap_bytes == (3 * 4096, 53 * 4096)
    assert [group.page_count for group in memory.pages if group.is_added_later] == [50]


def test_the_epc_example_of_a_real_enclave():
    # 2253 added pages: measured on a signed Open Enclave program of 1024 heap and 1024 stack pages and one thread.
    need = epc_need(2253)
    assert (need.pages, need.epc_bytes, need.epc_mib) == (2259, 9_252_864, 9)


def names(data, **choices):
    return {finding.name: finding.severity for finding in describe(read_enclave(data), **choices).findings}


def test_findings_of_a_sound_release_enclave_are_none(open_enclave, signed):
    assert names(signed(open_enclave(attributes=4))) == {}


def test_findings_tell_debug_by_attributes_and_mask(open_enclave, signed):
    assert names(signed(open_enclave(attributes=6))) == {"debug-possible": "warning"}
    enclave = read_enclave(signed(open_enclave(attributes=4), allow_debug=True))
    texts = [finding.text for finding in describe(enclave).findings if finding.name == "debug-possible"]
    assert "DEBUG is set" in texts[0]


def test_a_mask_that_leaves_debug_open_is_found_though_the_attributes_do_not_set_it(open_enclave, signed):
    data = bytearray(signed(open_enclave(attributes=4)))
    # ATTRIBUTEMASK.FLAGS at 944 of the SIGSTRUCT.
    data[0x3100 + 144 + 944] &= ~2
    debug = [finding.text for finding in describe(read_enclave(bytes(data))).findings if finding.name == "debug-possible"]

    assert "its attribute mask leaves DEBUG open" in debug[0]


def test_other_findings(open_enclave, sdk, signed):
    writable = sdk.file(sdk.block([]), relocations=((0x1008, 8, 0),), dynamic=((7, 0xA00), (8, 24), (22, 0)))

    assert names(open_enclave(attributes=4)) == {"unsigned": "warning"}
    assert names(open_enclave(size=1920)) == {"unsigned": "warning", "not-measured": "note"}
    assert names(signed(open_enclave(attributes=4), isv_svn=0)) == {"isv-svn-zero": "note", "oeinfo-disagrees": "warning"}
    assert names(signed(writable)) == {"writable-executable": "warning", "isv-svn-zero": "note"}


def test_a_changed_page_and_a_changed_signature_are_errors(open_enclave, signed):
    data = bytearray(signed(open_enclave(attributes=4)))
    data[0x1200] ^= 1
    assert names(bytes(data)) == {"measurement-differs": "error"}
    data[0x3100 + 144 + 600] ^= 1
    assert names(bytes(data)) == {"measurement-differs": "error", "signature-invalid": "error"}


def test_epc_above_a_limit_is_found_and_at_it_is_not(files):
    need = read_enclave(files["sdk"])

    assert "epc-above-limit" not in names(files["sdk"], epc_limit_bytes=need.max_epc_need.epc_bytes)
    report = describe(need, epc_limit_bytes=need.max_epc_need.epc_bytes - 1)
    assert ["may grow to" in finding.text for finding in report.findings if finding.name == "epc-above-limit"] == [True]
    report = describe(need, epc_limit_bytes=1)
    assert ["it takes" in finding.text for finding in report.findings if finding.name == "epc-above-limit"] == [True]


def test_vm_sizes_have_the_epc_of_their_documentation():
    assert vm_size_epc_bytes("Standard_DC8_v2") == 168 * MIB
    assert vm_size_epc_bytes("standard_dc48DS_v3") == 256 * 1024 * MIB
    with pytest.raises(NotFound, match="Standard_DC2as_v5") as caught:
        vm_size_epc_bytes("Standard_DC2as_v5")
    assert "Standard_DC4s_v2" in caught.value.hint


@pytest.mark.parametrize(
    ("mrsigner", "name", "public"),
    [
        ("ca9ad7331448980aa28890ce73e433638377f179ab4456b2fe237193193a8d0a", "Open Enclave", True),
        ("83d719e77deaca1470f6baf62a4d774303c899db69020f9c70ee1dfc08c7ce9e", "sample", True),
        ("8c4f5775d796503e96137f77c68a829a0056ac8ded70140b081b094490c57bff", "Intel", False),
    ],
)
def test_well_known_signers_are_named(mrsigner, name, public):
    signer = known_signer(bytes.fromhex(mrsigner))

    assert name in signer.name
    assert signer.is_public_key is public
    assert known_signer(bytes(32)) is None


def test_a_published_signing_key_is_a_warning_and_a_vendors_own_is_not(open_enclave, signed):
    sigstruct = read_enclave(signed(open_enclave(attributes=4))).sigstruct

    def found(signer):
        return [(finding.severity, finding.name) for finding in _of_signature(sigstruct, "", signer)]

    assert found(KnownSigner(name="a sample key", is_public_key=True)) == [("warning", "test-signer")]
    assert found(KnownSigner(name="a vendor", is_public_key=False)) == []
    assert found(None) == []


def test_the_picture_shows_every_run_with_its_numbers_and_nothing_from_elsewhere(files):
    enclave = read_enclave(files["sdk"])
    html = draw_picture(enclave, describe(enclave), name="<script>alert(1)</script>&.so")

    assert "&lt;script&gt;alert(1)&lt;/script&gt;&amp;.so" in html
    assert "<script>alert" not in html
    for run in (*enclave.layout.runs, *enclave.layout.later_runs):
        assert f"{run.offset:#x} to {run.end:#x}" in html
    assert enclave.mrenclave.hex() in html
    assert not re.search(r"(src|href)=|https?:|@import|url\((?!#)", html)


def test_the_picture_is_to_scale(files):
    enclave = read_enclave(files["open enclave"])
    html = draw_picture(enclave, describe(enclave), name="enclave")
    rows = html[html.index("<h2>Pages</h2>") :]
    widths = {tip: float(width) for width, tip in re.findall(r'<rect class="page [^>]*width="([\d.]+)"[^>]*data-tip="([^"]*)"', rows)}
    page = 960 / 16
    for tip, width in widths.items():
        start, end = (int(text, 16) for text in re.search(r"(0x[0-9a-f]+) to (0x[0-9a-f]+)", tip).groups())
        # A run that goes over the end of a row is drawn in two parts.
        assert width == pytest.approx((end - start) / 4096 * page) or start // 0x10000 != (end - 1) // 0x10000


def test_an_enclave_of_many_threads_is_drawn_in_bounded_size(sdk):
    entry = sdk.entry(8, 3, 1, 0x10000, 0, 0, 0x203)
    enclave = read_enclave(sdk.file(sdk.block([entry, sdk.group(0x1009, 1, 60000, 0x2000)], enclave_bytes=1 << 32)))
    html = draw_picture(enclave, describe(enclave), name="many")

    assert len(html) < 30 * MIB
    assert "Only the first 20000" in html


if __name__ == "__main__":
    formatted = msgspec.json.format(msgspec.json.encode(schema_of_the_report()), indent=2) + b"\n"
    with resources.as_file(SCHEMA) as path:
        path.write_bytes(formatted)
