"""Enclaves made with gcc, and a second opinion on their measurement: another ELF parser, one record at a time, no code of the room."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection

from kubenclave.cli import main

PAGE = 4096
HERE = Path(__file__).parent


def compiled(directory, source, *flags):
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    result = directory / f"{source.stem}.so"
    common = [
        "-shared",
        "-fPIC",
        "-nostdlib",
        "-ffreestanding",
        "-O1",
        "-fno-stack-protector",
        "-Wl,--build-id=none",
        "-Wl,-z,separate-code",
    ]
    subprocess.run(["gcc", *common, *flags, "-o", result, source], check=True, timeout=60)
    return result


@pytest.fixture(scope="session")
def oe_file(tmp_path_factory):
    return compiled(tmp_path_factory.mktemp("oe"), HERE / "open_enclave.c", "-Wl,-e,oe_entry", "-mtls-dialect=gnu")


@pytest.fixture(scope="session")
def sdk_files(tmp_path_factory):
    directory = tmp_path_factory.mktemp("sdk")
    plain = compiled(directory, HERE / "intel_sdk.c", "-Wl,-e,enclave_entry")
    textrel = shutil.copy(HERE / "intel_sdk.c", directory / "textrel.c")
    return plain, compiled(directory, Path(textrel), "-Wl,-e,enclave_entry", "-DTEXT_RELOCATION", "-Wl,-z,notext", "-Wno-error")


class Measurement:
    """The pseudo code of ECREATE, EADD and EEXTEND."""

    def __init__(self, ssa_frame_pages, size):
        self.digest = hashlib.sha256(b"ECREATE\0" + struct.pack("<IQ", ssa_frame_pages, size) + bytes(44))
        self.count = 0

    def page(self, offset, flags, content, *, extend=True):
        self.count += 1
        self.digest.update(b"EADD\0\0\0\0" + struct.pack("<QQ", offset, flags) + bytes(40))
        content = bytes(content).ljust(PAGE, b"\0")
        assert len(content) == PAGE
        for at in range(0, PAGE if extend else 0, 256):
            self.digest.update(b"EEXTEND\0" + struct.pack("<Q", offset + at) + bytes(48) + content[at : at + 256])


def up(value, to=PAGE):
    return (value + to - 1) // to * to


def flags_of(segment):
    flags = segment["p_flags"]
    return 0x200 | (1 if flags & 4 else 0) | (2 if flags & 2 else 0) | (4 if flags & 1 else 0)


@pytest.fixture(scope="session")
def open_enclave_by_hand():  # noqa: C901 - one loader, read from top to bottom
    """Measure an Open Enclave 0.18 file: MRENCLAVE and number of pages."""

    def measure(data):  # noqa: C901, PLR0912 - as above
        elf = ELFFile(io.BytesIO(data))
        loads = [segment for segment in elf.iter_segments() if segment["p_type"] == "PT_LOAD"]
        size = up(max(segment["p_vaddr"] + segment["p_memsz"] for segment in loads))
        image = bytearray(size)
        for segment in loads:
            image[segment["p_vaddr"] : segment["p_vaddr"] + segment["p_filesz"]] = segment.data()
        info = elf.get_section_by_name(".oeinfo")
        heap, stack, tcs = struct.unpack_from("<QQQ", info.data(), 8)
        dynsym = elf.get_section_by_name(".dynsym")
        table = b""
        for name in (".rela.dyn", ".rela.plt"):
            section = elf.get_section_by_name(name)
            if isinstance(section, RelocationSection):
                for row in section.iter_relocations():
                    addend = row["r_addend"] if row["r_info_type"] != 18 else dynsym.get_symbol(row["r_info_sym"])["st_value"]
                    table += struct.pack("<QQq", row["r_offset"], row["r_info"], addend)
        table = table.ljust(up(len(table)), b"\0")
        tdata, tbss = elf.get_section_by_name(".tdata"), elf.get_section_by_name(".tbss")
        tls = next(segment for segment in elf.iter_segments() if segment["p_type"] == "PT_TLS")
        assert tls["p_vaddr"] == tdata["sh_addr"]
        tls_pages = up(up(tdata["sh_size"], tls["p_align"]) + up(tbss["sh_size"], tbss["sh_addralign"])) // PAGE
        total = size + len(table) + PAGE * (heap + tcs * (stack + 2 + tls_pages + 5))
        elrange = 1
        while elrange < total:
            elrange *= 2
        start = info["sh_addr"]
        image[start + 96 : start + 144] = struct.pack("<6Q", start, 1960, size, len(table), size + len(table), elrange)
        image[start + 144 : start + 144 + 1808] = bytes(1808)
        values = {
            "_reloc_rva": size,
            "_reloc_size": len(table),
            "_tdata_rva": tdata["sh_addr"],
            "_tdata_size": tdata["sh_size"],
            "_tdata_align": tls["p_align"],
            "_tbss_size": tbss["sh_size"],
            "_tbss_align": tbss["sh_addralign"],
            "_td_from_tcs_offset": (tls_pages + 4) * PAGE,
        }
        for symbol in dynsym.iter_symbols():
            if symbol.name in {*values, "_enclave_rva"}:
                image[symbol["st_value"] : symbol["st_value"] + 8] = struct.pack("<Q", values.get(symbol.name, symbol["st_value"]))
        result = Measurement(1, elrange)
        for segment in loads:
            for at in range(segment["p_vaddr"] // PAGE * PAGE, segment["p_vaddr"] + segment["p_memsz"], PAGE):
                result.page(at, flags_of(segment), image[at : at + PAGE])
        at = size
        for place in range(0, len(table), PAGE):
            result.page(at + place, 0x201, table[place : place + PAGE])
        at += len(table)
        for _ in range(heap):
            result.page(at, 0x203, b"", extend=False)
            at += PAGE
        for _ in range(tcs):
            at += PAGE
            for _ in range(stack):
                result.page(at, 0x203, b"\xcc" * PAGE)
                at += PAGE
            at += PAGE
            segment_base = at + (4 + tls_pages) * PAGE
            fields = (0, 0, at + PAGE, 0, 2, elf["e_entry"], 0, segment_base, segment_base, 0xFFFFFFFF, 0xFFFFFFFF)
            result.page(at, 0x100, struct.pack("<QQQIIQQQQII", *fields))
            result.page(at + PAGE, 0x203, b"")
            result.page(at + 2 * PAGE, 0x203, b"")
            at += 4 * PAGE
            for _ in range(tls_pages + 1):
                result.page(at, 0x203, b"")
                at += PAGE
        return result.digest.digest(), result.count

    return measure


@pytest.fixture(scope="session")
def sdk_by_hand():  # noqa: C901, PLR0915 - one loader, read from top to bottom
    """Measure by one metadata block of an SDK file: MRENCLAVE and number of pages."""

    def measure(data, block):
        version = struct.unpack_from("<Q", block, 8)[0]
        elf = ELFFile(io.BytesIO(data))
        loads = [
            (s["p_offset"], s["p_filesz"], s["p_vaddr"], s["p_memsz"], flags_of(s)) for s in elf.iter_segments() if s["p_type"] == "PT_LOAD"
        ]
        dynamic = next(segment for segment in elf.iter_segments() if segment["p_type"] == "PT_DYNAMIC")
        writable = set()
        if any(tag.entry.d_tag == "DT_TEXTREL" for tag in dynamic.iter_tags()):
            for section in elf.iter_sections():
                if isinstance(section, RelocationSection):
                    for row in section.iter_relocations():
                        if row["r_info_type"]:
                            writable |= {row["r_offset"] // PAGE, (row["r_offset"] + 7) // PAGE}
        file = bytearray(data)
        patch_at, patch_bytes, layout_at, layout_bytes = struct.unpack_from("<IIII", block, 1872)
        for at in range(patch_at, patch_at + patch_bytes, 32):
            target, source, size = struct.unpack_from("<QII", block, at)
            file[target : target + size] = block[source : source + size]
        ssa, enclave_size = struct.unpack_from("<I", block, 24)[0], struct.unpack_from("<Q", block, 40)[0]
        result = Measurement(ssa, enclave_size)
        last = None
        for offset, file_bytes, address, memory_bytes, flags in loads:
            padding(result, version, last, address)
            if address > (last[0] if last else 0):
                last = (address, memory_bytes, flags)
            content = bytes(address % PAGE) + file[offset : offset + file_bytes]
            for place in range(0, address % PAGE + memory_bytes, PAGE):
                page = address // PAGE * PAGE + place
                extra = 2 if page // PAGE in writable and place < len(content) else 0
                result.page(page, flags | extra, content[place : place + PAGE])
        padding(result, version, last, 1 << 62)
        contexts(result, block, layout_at, layout_at + layout_bytes, 0)
        return result.digest.digest(), result.count

    def padding(result, version, last, following):
        if version == 1 << 32 | 3 and last is not None:
            address, memory_bytes, flags = last
            end = up(address + memory_bytes)
            if end < up(up(memory_bytes) + address) and end < following // PAGE * PAGE:
                result.page(end, flags, b"")

    def contexts(result, block, start, end, delta):
        for at in range(start, end, 32):
            kind, count, times, step = struct.unpack_from("<HHIQ", block, at)
            if kind & 0x1000:
                for number in range(1, times + 1):
                    contexts(result, block, at - 32 * count, at, step * number)
            else:
                context(result, block, at, delta)

    def context(result, block, at, delta):
        _, attributes, pages, rva, size, offset, flags = struct.unpack_from("<HHIQIIQ", block, at)
        if not attributes & 1:
            return
        rva += delta
        extend = attributes & 3 == 3
        if offset and flags == 0x100:
            tcs = bytearray(block[offset : offset + size].ljust(PAGE, b"\0"))
            for place in (16, 48, 56):
                struct.pack_into("<Q", tcs, place, struct.unpack_from("<Q", tcs, place)[0] + rva)
            result.page(rva, flags, tcs, extend=extend)
        elif offset:
            content = block[offset : offset + size]
            for number in range(pages):
                result.page(rva + number * PAGE, flags, content[number * PAGE : (number + 1) * PAGE])
        elif flags:
            for number in range(pages):
                result.page(rva + number * PAGE, flags, struct.pack("<I", size) * 1024, extend=extend)

    return measure


ENTRY, GROUP, PATCH = struct.Struct("<HHIQIIQ"), struct.Struct("<HHIQ16x"), struct.Struct("<QII16x")


@pytest.fixture(scope="session")
def with_metadata():
    """Play the SDK's signing tool: write metadata blocks into the note of a compiled file. Blocks are (version, layout, patches)."""

    def write(data, *blocks, elrange=1 << 24):
        note = ELFFile(io.BytesIO(data)).get_section_by_name(".note.sgxmeta")
        at = note["sh_offset"] + 12 + 13
        written = bytearray(data)
        made = []
        for version, layout, patches in blocks:
            tcs = struct.pack("<QQQIIQQQQII", 0, 0, PAGE, 0, 2, 0x1000, 0, 3 * PAGE, 3 * PAGE, 0xFFFFFFFF, 0xFFFFFFFF)
            content = tcs + b"".join(patch for _, patch in patches)
            rows, place = b"", 1888 + len(tcs)
            for target, patch in patches:
                rows += PATCH.pack(target, place, len(patch))
                place += len(patch)
            table = b"".join(layout)
            directories = struct.pack("<IIII", place, len(rows), place + len(rows), len(table))
            body = content + rows + table
            head = struct.pack(
                "<QQIIIIIIQQQ", 0x86A80294635D0E4C, version[0] << 32 | version[1], 1888 + len(body), 0, 1, 0, 0, 0, elrange, 4, 3
            )
            block = head + bytes(1808) + directories + body
            written[at : at + len(block)] = block
            made.append(block)
            at += len(block)
        assert at <= note["sh_offset"] + note["sh_size"]
        return bytes(written), made

    return write


@pytest.fixture
def run(capsys):
    """Run a command line: exit code, stdout, stderr."""

    def command(*words):
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


@pytest.fixture(scope="session")
def sgxs_tools():
    """Find Fortanix's tools: by KUBENCLAVE_SGXS_TOOLS, or where the test set-up puts them."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = Path(os.environ.get("KUBENCLAVE_SGXS_TOOLS") or cache / "kubenclave/tools/sgxs-tools-0.10.0/bin")
    if not (folder / "sgxs-sign").is_file():
        pytest.skip(f"Fortanix's sgxs-tools are not in {folder}; KUBENCLAVE_SGXS_TOOLS names another folder")

    def tool(name, *words, binary=False):
        return subprocess.run([folder / name, *map(str, words)], capture_output=True, text=not binary, timeout=60, check=False)

    return tool
