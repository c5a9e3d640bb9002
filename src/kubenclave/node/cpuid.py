"""Ask the processor itself: the CPUID instruction, by 25 bytes of machine code in a mapping of their own.

Linux before 5.17 shows no EPC sizes in sysfs, and /dev/cpu/*/cpuid would take a privileged container. CPUID is not privileged.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform

from kubenclave.node.processor import Registers, SgxProcessor, describe_processor

# void cpuid(uint32_t leaf /* edi */, uint32_t subleaf /* esi */, uint32_t out[4] /* rdx */), System V ABI for x86-64.
_CODE = bytes.fromhex(
    "53"  # push rbx: the caller's
    "4989d0"  # mov r8, rdx: cpuid overwrites rdx
    "89f8"  # mov eax, edi
    "89f1"  # mov ecx, esi
    "0fa2"  # cpuid
    "418900"  # mov [r8], eax
    "41895804"  # mov [r8+4], ebx
    "41894808"  # mov [r8+8], ecx
    "4189500c"  # mov [r8+12], edx
    "5b"  # pop rbx
    "c3"  # ret
)
_FOUR_REGISTERS = ctypes.c_uint32 * 4


class Cpuid:
    """The CPUID instruction as a function of leaf and sub-leaf.

    Raises:
        OSError: No code may be mapped.
    """

    def __init__(self) -> None:
        private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        self._memory = mmap.mmap(-1, mmap.PAGESIZE, flags=private, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        self._memory.write(_CODE)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        libc = ctypes.CDLL(None, use_errno=True)
        # Never writable and executable at once.
        if libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(mmap.PAGESIZE), mmap.PROT_READ | mmap.PROT_EXEC) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        self._instruction = ctypes.CFUNCTYPE(None, ctypes.c_uint32, ctypes.c_uint32, ctypes.POINTER(ctypes.c_uint32))(address)

    def __call__(self, leaf: int, subleaf: int) -> Registers:
        """Ask once."""
        out = _FOUR_REGISTERS()
        self._instruction(leaf, subleaf, out)
        return Registers(eax=out[0], ebx=out[1], ecx=out[2], edx=out[3])


def read_processor() -> SgxProcessor | None:
    """Describe the processor this runs on; None on another architecture, or where no code may be mapped."""
    if platform.machine() != "x86_64":
        return None
    try:
        return describe_processor(Cpuid())
    except OSError:
        return None
