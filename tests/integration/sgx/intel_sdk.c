/* An enclave image in the layout of Intel's SDK: a note that metadata is written into, and no runtime. */
__asm__(".section .note.sgxmeta,\"\",@note\n"
        ".long 13\n.long 40000\n.long 1\n.asciz \"sgx_metadata\"\n.fill 40000,1,0\n.previous\n");

#ifdef TEXT_RELOCATION
__asm__(".text\n.globl in_code\nin_code: .quad enclave_entry\n");
#endif

static unsigned long target = 7;
unsigned long *pointer = &target;
unsigned long bss[2000];
__attribute__((visibility("default"))) unsigned long g_global_data[4] = {1, 2, 3, 4};

__attribute__((visibility("default"))) unsigned long enclave_entry(unsigned long argument) { return argument + *pointer + bss[3] + g_global_data[1]; }
