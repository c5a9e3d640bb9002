import importlib.util
import marshal
import re
import sys
import types
from pathlib import Path

import pytest

import kubenclave
from kubenclave.errors import NotFound, Refused
from kubenclave.image.node_agent import read_pins
from kubenclave.image.python import PythonProgram, compiled, python_entries, this_interpreter

SOURCE = b'"""A module."""\nNAMES = {"b", "a"}\n\ndef f(x):\n    return x in {"kernel", "loader", "enclave"}\n'


@pytest.fixture(scope="module")
def entries():
    program = PythonProgram(
        module="kubenclave.errors",
        distributions=(),
        source_root=Path(kubenclave.__file__).parents[1],
        sources=("kubenclave/__init__.py", "kubenclave/errors.py"),
    )
    return python_entries(program, this_interpreter(), lambda _: None)


def test_a_compiled_module_is_loaded_without_a_look_at_its_source():
    data = compiled(SOURCE, "/app/m.py")

    assert data[:4] == importlib.util.MAGIC_NUMBER
    assert data[4:8] == b"\x01\0\0\0"
    assert data[8:16] == importlib.util.source_hash(SOURCE)
    module = types.ModuleType("m")
    exec(marshal.loads(data[16:]), module.__dict__)  # noqa: S102, S302 - made two lines above
    assert module.f("loader")
    assert module.f.__code__.co_filename == "/app/m.py"


def test_what_else_the_process_holds_leaves_no_trace_in_a_compiled_module():
    source = f"X = '{chr(0xA4)}'\n".encode()
    first = compiled(source, "/app/m.py")
    # The one text of this character that the process has is now marked as interned, which other marshal versions write down.
    sys.intern(chr(0xA4))

    assert compiled(source, "/app/m.py") == first


def test_what_is_no_python_is_refused_by_name():
    with pytest.raises(Refused, match=r"/app/m.py cannot be compiled"):
        compiled(b"def", "/app/m.py")


def test_the_image_of_a_python_program_leaves_out_tests_and_teaching_aids(entries):
    paths = {entry.path for entry in entries.runtime}

    tops = {match[1] for path in paths if (match := re.search(r"/lib/python3\.\d+/([^/.]+)", path))}
    assert not tops & {"test", "idlelib", "tkinter", "ensurepip", "lib2to3", "pydoc_data", "turtledemo", "distutils", "site-packages"}
    assert {"asyncio", "os", "ssl", "encodings"} <= tops
    assert not [path for path in paths if path.endswith((".a", ".h", ".exe"))]


def test_every_module_lies_beside_its_compiled_form(entries):
    paths = {entry.path for entry in (*entries.runtime, *entries.application)}

    sources = [path for path in paths if path.endswith(".py")]
    assert len([path for path in paths if path.endswith(".pyc")]) == len(sources) > 300
    assert f"{entries.application[0].path.rpartition('/')[0]}/__pycache__/errors.{sys.implementation.cache_tag}.pyc" in paths


def test_own_sources_are_those_named_and_no_others(entries):
    own = [entry.path for entry in entries.application if "/kubenclave/" in entry.path and entry.path.endswith(".py")]

    assert [path.rpartition("/kubenclave/")[2] for path in own] == ["__init__.py", "errors.py"]


def test_the_interpreter_and_every_extension_module_have_their_libraries(entries):
    paths = {entry.path for entry in entries.runtime}

    assert "/lib64/ld-linux-x86-64.so.2" in paths
    for name in ("libc.so.6", "libgcc_s.so.1"):
        assert [path for path in paths if path.endswith(f"/{name}")]


def test_a_distribution_of_another_version_is_refused():
    program = PythonProgram(module="m", distributions=(("grpclib", "0.0.1"),), source_root=Path("/"), sources=())

    with pytest.raises(Refused, match=r"grpclib .* is installed; 0.0.1 is asked for"):
        python_entries(program, this_interpreter(), lambda _: None)


def test_a_distribution_that_is_not_installed_is_named():
    program = PythonProgram(module="m", distributions=(("no-such-thing", "1"),), source_root=Path("/"), sources=())

    with pytest.raises(NotFound, match="no-such-thing is not installed"):
        python_entries(program, this_interpreter(), lambda _: None)


def test_pins_are_read_from_a_lock_file(tmp_path):
    lock = tmp_path / "node.txt"
    lines = [
        "# made by hand",
        "grpclib==0.4.9 \\",
        "    --hash=sha256:00",
        "    # via x",
        "h2==4.4.1",
        "",
        "anyio==4.16.0 ; sys_platform != 'x' \\",
    ]
    lock.write_text("\n".join(lines))

    assert [(pin.name, pin.version, pin.conditional) for pin in read_pins(lock)] == [
        ("grpclib", "0.4.9", False),
        ("h2", "4.4.1", False),
        ("anyio", "4.16.0", True),
    ]


@pytest.mark.parametrize("line", ["grpclib", "-e .", "grpclib>=1", "grpclib==1 --config x", "../x==1"])
def test_a_line_that_is_no_plain_pin_is_refused_with_its_number(tmp_path, line):
    lock = tmp_path / "node.txt"
    lock.write_text(f"h2==4.4.1\n{line}\n")

    with pytest.raises(Refused, match="line 2"):
        read_pins(lock)


def test_a_lock_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(NotFound, match="cannot be read"):
        read_pins(tmp_path / "node.txt")
