"""The closure against the loader itself."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kubenclave.image import ImageSpec, Start, Sysroot, build_image, find_closure, parse_reference

pytestmark = pytest.mark.integration

LOADER = "/lib64/ld-linux-x86-64.so.2"
PROGRAMS = ["ls", "bash", "gcc", "git", "openssl", "perl", "skopeo", "runc", "tar", "ssh"]


def loaders_answer(program):
    """Return the paths that the loader would map, its own and the kernel's page aside."""
    listing = subprocess.run([LOADER, "--list", program], capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"=> (\S+) \(0x", listing)) - {LOADER}


def our_answer(program, at=None):
    found = find_closure([Start(source=program, path=at or str(program))], Sysroot(Path("/")))
    return {library.path for library in found.libraries if not library.is_loader}


@pytest.mark.parametrize("name", [*PROGRAMS, sys.executable])
def test_system_programs_get_what_the_loader_gives_them(name):
    program = shutil.which(name)
    if program is None:
        pytest.skip(f"{name} is not installed")
    program = Path(program).resolve()
    kind = subprocess.run([LOADER, "--verify", program], check=False).returncode
    if kind != 0:
        assert our_answer(program) == set()
        return

    assert our_answer(program) == loaders_answer(program)


@pytest.mark.parametrize("flags", [["-Wl,--enable-new-dtags"], ["-Wl,--disable-new-dtags"]])
def test_origin_is_taken_as_the_loader_takes_it(compile_c, flags):
    compile_c("int b(void) { return 1; }", "lib/libb.so", "-shared", "-fPIC")
    compile_c("int b(void); int a(void) { return b(); }", "lib/liba.so", "-shared", "-fPIC", "-Llib", "-lb", "-Wl,-rpath,$ORIGIN", *flags)
    program = compile_c("int a(void); int main(void) { return a(); }", "bin/x", "-Llib", "-la", "-Wl,-rpath,$ORIGIN/../lib", *flags)
    root = program.parents[1]

    assert our_answer(program) == {re.sub(r"/bin/\.\./", "/", path) for path in loaders_answer(program)}
    assert {f"{root}/lib/liba.so", f"{root}/lib/libb.so"} < our_answer(program)


def test_an_image_starts_with_libraries_beside_its_program_and_in_a_configured_directory(compile_c, unpack, inside, tmp_path):
    system = tmp_path / "system"
    for path in (LOADER, "/lib/x86_64-linux-gnu/libc.so.6"):
        (system / path[1:]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, system / path[1:])
    (system / "etc").mkdir()
    (system / "etc/ld.so.conf").write_text("/usr/local/lib\n")
    compile_c("int a(void) { return 40; }", "system/usr/local/lib/liba.so.10", "-shared", "-fPIC", "-Wl,-soname,liba.so.10")
    compile_c("int b(void) { return 2; }", "build/lib/libb.so", "-shared", "-fPIC")
    text = '#include <stdio.h>\nint a(void), b(void);\nint main(void) { printf("%d\\n", a() + b()); return 0; }'
    options = ["system/usr/local/lib/liba.so.10", "-Lbuild/lib", "-lb", "-Wl,-rpath,$ORIGIN/lib"]
    program = compile_c(text, "build/answer", *options)

    image = build_image(
        ImageSpec(reference=parse_reference("answer"), host=program, sysroot=system), tmp_path / "answer.tar", lambda _: None
    )

    assert {file.path for file in image.files} >= {"/usr/local/lib/liba.so.10", "/app/lib/libb.so", "/etc/ld.so.cache"}
    assert inside(unpack(image.archive), "/app/answer", proc=True) == "42\n"


@pytest.mark.parametrize("options", [["-static"], ["-static-pie"], ["-no-pie"], ["-pie"]])
def test_an_image_starts_whatever_way_its_program_is_linked(compile_c, unpack, inside, tmp_path, options):
    program = compile_c('#include <stdio.h>\nint main(void) { puts("started"); return 0; }', "build/x", *options)

    image = build_image(ImageSpec(reference=parse_reference("x"), host=program), tmp_path / "x.tar", lambda _: None)

    assert inside(unpack(image.archive), "/app/x") == "started\n"
    assert image.uncompressed_bytes < 3_000_000
