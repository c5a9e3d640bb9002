"""Hosts of every kind in their images: what they open by name, read of the system, and are written in."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from kubenclave.errors import NotFound, Refused
from kubenclave.image import AddedFile, ImageSpec, Start, Surrounding, Sysroot, build_image, find_closure, parse_reference

pytestmark = pytest.mark.integration

MAIN = "import sys; from kubenclave.cli import main; sys.exit(main())"
LOADER = "/lib64/ld-linux-x86-64.so.2"


@pytest.fixture
def image(tmp_path):
    def build(program, name="x.tar", **more):
        return build_image(ImageSpec(reference=parse_reference("x"), host=program, **more), tmp_path / name, lambda _: None)

    return build


def hints(built):
    return " ".join(finding.hint for finding in built.findings)


# --- opened by name ------------------------------------------------------------------------------------------------------------------

LAUNCH = """
#include <dlfcn.h>
#include <stdio.h>
int main(void) {
  void *library = dlopen("libsgx_enclave_common.so.1", RTLD_NOW);
  if (!library) { puts(dlerror()); return 1; }
  int (*answer)(void) = (int (*)(void))dlsym(library, "answer");
  printf("%d\\n", answer());
  return 0;
}
"""


def system_with(compile_c, tmp_path):
    """Make a system root with this machine's C library and a stand-in of a runtime library in a configured directory."""
    system = tmp_path / "system"
    for path in (LOADER, "/lib/x86_64-linux-gnu/libc.so.6"):
        (system / path[1:]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, system / path[1:])
    (system / "etc").mkdir()
    (system / "etc/ld.so.conf").write_text("/opt/intel/lib\n")
    options = ["-shared", "-fPIC", "-Wl,-soname,libsgx_enclave_common.so.1"]
    compile_c("int answer(void) { return 42; }", "system/opt/intel/lib/libsgx_enclave_common.so.1", *options)
    return system


def test_what_an_enclave_runtime_opens_by_name_is_there_when_it_does(compile_c, image, unpack, inside, tmp_path):
    system = system_with(compile_c, tmp_path)
    program = compile_c(LAUNCH, "build/launch")

    built = image(program, sysroot=system)

    assert "/opt/intel/lib/libsgx_enclave_common.so.1" in {file.path for file in built.files}
    assert inside(unpack(built.archive), "/app/launch") == "42\n"


def test_without_it_the_build_fails_in_words_and_the_loader_agrees(compile_c, image, unpack, tmp_path):
    system = system_with(compile_c, tmp_path)
    (system / "opt/intel/lib/libsgx_enclave_common.so.1").unlink()
    program = compile_c(LAUNCH, "build/launch")

    with pytest.raises(NotFound, match="no enclave can be created"):
        image(program, sysroot=system)
    if os.geteuid() == 0:
        place = unpack(image(program, sysroot=system, allow_missing=("libsgx_enclave_common.so.1",)).archive)
        done = subprocess.run(["chroot", place, "/app/launch"], capture_output=True, text=True, check=False)
        assert (done.returncode, "cannot open shared object file" in done.stdout) == (1, True)


def test_a_variant_for_newer_processors_is_left_out_and_the_image_runs_without(compile_c, image, unpack, inside, tmp_path):
    """The loader here takes the variant (glibc 2.33 and later); the image holds the one for every x86-64 processor."""
    compile_c('const char *kind(void) { return "any"; }', "lib/libkind.so", "-shared", "-fPIC", "-Wl,-soname,libkind.so")
    variant = tmp_path / "lib/glibc-hwcaps/x86-64-v2/libkind.so"
    compile_c('const char *kind(void) { return "newer"; }', variant.relative_to(tmp_path), "-shared", "-fPIC", "-Wl,-soname,libkind.so")
    text = "#include <stdio.h>\nconst char *kind(void);\nint main(void) { puts(kind()); return 0; }"
    program = compile_c(text, "lib/kind", "-Llib", "-lkind", "-Wl,-rpath,$ORIGIN")

    loaders = subprocess.run([LOADER, "--list", program], capture_output=True, text=True, check=True).stdout
    found = find_closure([Start(source=program, path=str(program))], Sysroot(Path("/")))

    if "x86-64-v2 (supported" in subprocess.run([LOADER, "--help"], capture_output=True, text=True, check=True).stdout:
        assert str(variant) in loaders
    assert f"{tmp_path}/lib/libkind.so" in {library.path for library in found.libraries}
    assert inside(unpack(image(program).archive), "/app/kind", proc=True) == "any\n"


# --- surroundings --------------------------------------------------------------------------------------------------------------------


def test_openssl_finds_the_certificates_when_asked_for_and_misses_them_when_not(compile_c, image, unpack, inside):
    if not Path("/etc/ssl/certs/ca-certificates.crt").exists() or not Path("/usr/include/openssl/ssl.h").exists():
        pytest.skip("needs ca-certificates and libssl-dev")
    text = """
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <stdio.h>
int main(void) {
  SSL_CTX *context = SSL_CTX_new(TLS_client_method());
  SSL_CTX_set_default_verify_paths(context);
  printf("%d\\n", sk_X509_OBJECT_num(X509_STORE_get0_objects(SSL_CTX_get_cert_store(context))));
  return 0;
}
"""
    program = compile_c(text, "build/tls", "-lssl", "-lcrypto")

    without, with_ = image(program, "without.tar"), image(program, "with.tar", surroundings=(Surrounding.CA,))

    assert "--with ca." in hints(without)
    assert "--with ca." not in hints(with_)
    assert inside(unpack(without.archive), "/app/tls") == "0\n"
    assert int(inside(unpack(with_.archive), "/app/tls")) > 50


def test_users_and_zones_are_found_when_asked_for(compile_c, image, unpack, inside):
    if not Path("/usr/share/zoneinfo/Asia/Tokyo").exists():
        pytest.skip("needs tzdata")
    text = """
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
int main(void) {
  struct passwd *user = getpwuid(getuid());
  time_t zero = 0;
  setenv("TZ", "Asia/Tokyo", 1);
  printf("%s %d\\n", user ? user->pw_name : "nobody", localtime(&zero)->tm_hour);
  return 0;
}
"""
    program = compile_c(text, "build/who")

    without = image(program, "without.tar")
    with_ = image(program, "with.tar", surroundings=(Surrounding.USERS, Surrounding.NSS, Surrounding.TZ))

    assert all(f"--with {switch}." in hints(without) for switch in ("users", "tz"))
    assert inside(unpack(without.archive), "/app/who") == "nobody 0\n"
    assert inside(unpack(with_.archive), "/app/who") == "app 9\n"


# --- languages -----------------------------------------------------------------------------------------------------------------------


def test_a_go_program_is_just_a_program(image, unpack, inside, tmp_path):
    go = shutil.which("go")
    if go is None:
        pytest.skip("needs go")
    (tmp_path / "main.go").write_text(
        'package main\n\nimport ("fmt"; "net/http"; "os")\n\n'
        'func main() {\n\tif len(os.Args) > 1 {\n\t\thttp.Get(os.Args[1])\n\t}\n\tfmt.Println("from Go")\n}\n'
    )
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false"}
    subprocess.run([go, "build", "-o", tmp_path / "gohost", tmp_path / "main.go"], check=True, env=environment, cwd=tmp_path)

    built = image(tmp_path / "gohost", strip=True)

    assert [layer.comment for layer in built.layers] == ["application"]
    assert inside(unpack(built.archive), "/app/gohost") == "from Go\n"
    assert "--with ca." in hints(built)
    assert built.saved_bytes > 100_000


def test_a_rust_program_is_just_a_program(image, unpack, inside, tmp_path):
    rustc = shutil.which("rustc")
    if rustc is None:
        pytest.skip("needs rustc")
    (tmp_path / "main.rs").write_text('fn main() { println!("from Rust"); }\n')
    subprocess.run([rustc, "-O", "-o", tmp_path / "rusthost", tmp_path / "main.rs"], check=True, cwd=tmp_path)

    built = image(tmp_path / "rusthost", strip=True)

    assert "libgcc_s.so.1" in " ".join(file.path for file in built.files)
    assert inside(unpack(built.archive), "/app/rusthost") == "from Rust\n"
    assert built.saved_bytes > 100_000


def test_a_python_program_is_an_interpreter_and_added_directories(image, unpack, inside, tmp_path):
    python = Path("/usr/bin/python3")
    library = Path(f"/usr/lib/{python.resolve().name}")
    if os.geteuid() != 0:
        pytest.skip("entering an image needs root")
    if not library.is_dir():
        pytest.skip("needs Debian's python3")
    # What a minimal interpreter is made of; a real program would name its own folders.
    wanted = tmp_path / "lib"
    shutil.copytree(
        library, wanted, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", "test", "dist-packages", "sitecustomize.py")
    )
    for link in [path for path in wanted.rglob("*") if path.is_symlink()]:
        link.unlink()
    (tmp_path / "main.py").write_text('import ssl, sqlite3, json\nprint("from Python", ssl.HAS_TLSv1_3, json.dumps(sqlite3.apilevel))\n')

    built = image(
        python,
        files=(AddedFile(source=wanted, path=str(library)), AddedFile(source=tmp_path / "main.py", path="/app/main.py")),
        environment={"PYTHONHOME": "/usr"},
        command=("-I", "/app/main.py"),
    )

    paths = " ".join(file.path for file in built.files)
    assert "libssl.so" in paths
    assert "libsqlite3.so" in paths
    place = unpack(built.archive)
    done = subprocess.run(
        ["chroot", "--userspec=65532:65532", place, "/app/python3", "-s", "/app/main.py"],
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], "PYTHONHOME": "/usr"},
        check=False,
    )
    assert done.stdout == 'from Python True "2.0"\n', done.stderr


# --- strip ---------------------------------------------------------------------------------------------------------------------------


def test_stripped_programs_are_no_larger_than_binutils_makes_them_and_run(compile_c, image, unpack, inside, tmp_path):
    if shutil.which("strip") is None:
        pytest.skip("needs binutils")
    program = compile_c('#include <stdio.h>\nint main(void) { puts("stripped"); return 0; }', "build/x", "-static", "-g")
    subprocess.run(["strip", "--strip-all", "-o", tmp_path / "binutils", program], check=True)

    built = image(program, strip=True)

    size = next(file.size_bytes for file in built.files if file.path == "/app/x")
    assert size <= (tmp_path / "binutils").stat().st_size
    assert built.saved_bytes == program.stat().st_size - size
    assert inside(unpack(built.archive), "/app/x") == "stripped\n"


# --- circumstances -------------------------------------------------------------------------------------------------------------------


def test_everything_at_once_is_the_same_bytes_under_different_circumstances(compile_c, tmp_path):
    compile_c('#include <stdio.h>\nint main(void) { puts("x"); return 0; }', "one/x", "-g")
    (tmp_path / "one/data/sub").mkdir(parents=True)
    (tmp_path / "one/data/sub/file").write_text("content")
    subprocess.run(
        ["openssl", "genpkey", "-quiet", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", "key.pem"],
        cwd=tmp_path,
        check=True,
    )
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    for path in (tmp_path / "two").rglob("*"):
        os.utime(path, (1, 1))
    (tmp_path / "two/data/sub").chmod(0o700)
    words = ["--host", "x", "--tag", "x", "-o", "x.tar", "--add", "data:/data", "--strip", "--attest", "--sign-key", "../key.pem"]
    words += ["--with", "ca", "--with", "users", "--env", "A=1"]

    def run(folder, **more):
        command = [sys.executable, "-c", MAIN, "image", "build", *words]
        done = subprocess.run(command, cwd=tmp_path / folder, capture_output=True, text=True, check=False, **more)
        assert done.returncode == 0, done.stderr
        return (tmp_path / folder / "x.tar").read_bytes()

    first = run("one", umask=0o022, env={"PATH": os.environ["PATH"], "LC_ALL": "C"})
    other = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "TZ": "Asia/Tokyo", "PYTHONHASHSEED": "5", "SOURCE_DATE_EPOCH": ""}
    assert run("two", umask=0o077, env=other) == first


def test_an_unreadable_file_is_an_error_that_names_it(compile_c, tmp_path):
    if os.geteuid() != 0:
        pytest.skip("becoming another user needs root")
    program = compile_c("int main(void) { return 0; }", "x", "-static")
    secret = tmp_path / "data/secret"
    secret.parent.mkdir()
    secret.write_text("nobody's business")
    secret.chmod(0o600)
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(folder.stat().st_mode | 0o755)
    out = tmp_path / "out"
    out.mkdir()
    out.chmod(0o777)
    words = ["image", "build", "--host", str(program), "--tag", "x", "-o", str(out / "x.tar"), "--add", f"{secret.parent}:/data"]
    # Everything is imported before the user changes, who may not read this interpreter's modules.
    loaded = "import os, sys; from kubenclave.cli import main; import kubenclave.image, kubenclave.cli.image, rich.table; "
    text = f"{loaded}sys.argv[1:] = {words!r}; os.setuid(65532); sys.exit(main())"

    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False, env={"PATH": os.environ["PATH"]})

    assert done.returncode == 5, done.stderr
    assert f"{secret} cannot be read: Permission denied" in done.stderr
    assert list(out.iterdir()) == []


def test_devices_are_refused_and_never_opened(tmp_path, image):
    if os.geteuid() != 0:
        pytest.skip("making a device needs root")
    (tmp_path / "d").mkdir()
    os.mknod(tmp_path / "d" / "tape", 0o600 | 0o020000, os.makedev(1, 8))

    with pytest.raises(Refused, match="is a device"):
        image(Path("/bin/true"), files=(AddedFile(source=tmp_path / "d", path="/d"),))


def test_the_sbom_of_a_system_program_names_debians_packages(image):
    if not Path("/var/lib/dpkg/status").exists():
        pytest.skip("needs dpkg")
    built = image(Path("/bin/ls"), attest=True)

    with tarfile.open(built.archive) as tar:
        documents = [tar.extractfile(member).read() for member in tar if member.isfile()]
    bom = next(json.loads(data) for data in documents if data.startswith(b"{") and b'"bomFormat"' in data)
    packages = {item["name"]: item for item in bom["components"] if "purl" in item}
    for package, path in (("coreutils", "/app/ls"), ("libc6", "/lib/x86_64-linux-gnu/libc.so.6")):
        assert path in {file["name"] for file in packages[package]["components"]}
        asked = subprocess.run(["dpkg-query", "-W", "-f", "${Version}", package], capture_output=True, text=True, check=True).stdout
        assert packages[package]["version"] == asked
