/*
 * Runs the host's hardware path against a driver and a vDSO that are played here by the rules of Linux's interface
 * (arch/x86/include/uapi/asm/sgx.h and the checks of arch/x86/kernel/cpu/sgx/ioctl.c). Prints what a real one would have built.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "host/image.h"
#include "host/sgx.h"
#include "host/sha256.h"
#include "host/signature.h"

#define DEVICE 1000
#define PAGES_PER_CALL 3

static struct {
	struct secs secs;
	struct sha256 hash;
	int calls;
	int initialised;
	uint64_t entered_tcs;
} played;

static void demand(int holds, const char *what)
{
	if (!holds) {
		fprintf(stderr, "the kernel would not accept: %s\n", what);
		exit(100);
	}
}

static void extend(const char tag[8], uint64_t offset, const void *rest, size_t rest_bytes)
{
	uint8_t record[64] = { 0 };

	memcpy(record, tag, 8);
	memcpy(record + 8, &offset, 8);
	memcpy(record + 16, rest, rest_bytes);
	sha256_add(&played.hash, record, sizeof(record));
}

static int played_create(const struct sgx_create *request)
{
	uint8_t record[64] = "ECREATE";

	memcpy(&played.secs, (void *)request->secs, sizeof(played.secs));
	demand(played.secs.size >= 8192 && (played.secs.size & (played.secs.size - 1)) == 0, "SECS.SIZE is a power of two");
	demand(played.secs.base % played.secs.size == 0, "SECS.BASE is aligned to SECS.SIZE");
	demand((played.secs.xfrm & 3) == 3 && played.secs.flags == 4, "ATTRIBUTES of a 64-bit release enclave");
	memcpy(record + 8, &played.secs.ssa_frame_pages, 4);
	memcpy(record + 12, &played.secs.size, 8);
	sha256_start(&played.hash);
	sha256_add(&played.hash, record, sizeof(record));
	return 0;
}

static int played_add(struct sgx_add_pages *request)
{
	const struct secinfo *secinfo = (const struct secinfo *)request->secinfo;
	const uint8_t *source = (const uint8_t *)request->source;

	request->count = 0;
	if (played.calls++ == 0) {
		errno = EINTR; /* a signal before the first page */
		return -1;
	}
	demand(request->source % 4096 == 0 && request->offset % 4096 == 0, "aligned source and offset");
	demand(request->length > 0 && request->length % 4096 == 0 && request->offset + request->length <= played.secs.size, "length");
	demand((secinfo->flags & 0xff00) == 0x200 || secinfo->flags == 0x100, "page type and TCS without permissions");
	for (; request->count < request->length && request->count < PAGES_PER_CALL * 4096; request->count += 4096) {
		uint64_t offset = request->offset + request->count;

		extend("EADD\0\0\0", offset, &secinfo->flags, 8);
		for (int chunk = 0; (request->flags & 1) && chunk < 4096; chunk += 256) {
			extend("EEXTEND", offset + chunk, NULL, 0);
			sha256_add(&played.hash, source + request->count + chunk, 256);
		}
	}
	return 0;
}

static int played_init(const struct sgx_init *request)
{
	const struct sigstruct *sigstruct = (const struct sigstruct *)request->sigstruct;
	uint8_t mrenclave[32];

	sha256_finish(&played.hash, mrenclave);
	if (memcmp(sigstruct->mrenclave, mrenclave, 32) != 0) {
		errno = EPERM;
		return -1;
	}
	played.initialised = 1;
	printf("MRENCLAVE ");
	for (int i = 0; i < 32; i++)
		printf("%02x", mrenclave[i]);
	printf("\n");
	return 0;
}

static int played_ioctl(int device, unsigned long number, void *request)
{
	demand(device == DEVICE, "the device's descriptor");
	switch (number) {
	case 0x4008a400:
		return played_create(request);
	case 0xc030a401:
		return played_add(request);
	case 0x4008a402:
		return played_init(request);
	}
	errno = ENOTTY;
	return -1;
}

static void *played_mmap(void *address, size_t length, int protection, int flags, int device, off_t offset)
{
	if (device != DEVICE)
		return mmap(address, length, protection, flags, device, offset);
	demand(flags == (MAP_SHARED | MAP_FIXED), "a shared mapping at a fixed place");
	printf("map %llx %zu %d\n", (unsigned long long)((uintptr_t)address - played.secs.base), length / 4096, protection);
	return address;
}

static int played_enter(unsigned long rdi, unsigned long rsi, unsigned long rdx, unsigned int function, unsigned long r8, unsigned long r9,
			struct sgx_run *run)
{
	static const uint8_t zero[216];
	int (*handler)(long, long, long, long, long, long, struct sgx_run *) = (void *)run->user_handler;

	demand(played.initialised && function == 2 && memcmp(run->reserved, zero, sizeof(zero)) == 0, "EENTER with a clean run structure");
	played.entered_tcs = run->tcs - played.secs.base;
	run->function = 4;
	(void)rdx, (void)r8, (void)r9;
	return handler((long)(rdi + rsi), 0, 0, 0, 0, 0, run);
}

static unsigned long played_vdso(unsigned long type);

#define ioctl(device, number, request) played_ioctl(device, number, request)
#define mmap played_mmap
#define getauxval played_vdso
#include "host/hardware.c"
#undef mmap

/* As the kernel links it: one PT_LOAD, a dynamic section, a symbol table with a hash table of the chosen kind. */
static const char *hash_kind;
static unsigned long played_vdso(unsigned long type)
{
	static const char names[] = "\0__vdso_other\0__vdso_sgx_enter_enclave";
	static Elf64_Sym symbols[3];
	static const uint32_t sysv_hash[] = { 1, 3, 0, 0, 0, 0 };
	/* one bucket, symbols from 1 on, one bloom word; the chain ends with an odd value */
	static const uint32_t gnu_hash[] = { 1, 1, 1, 0, 0, 0, 1, 0x10, 0x11 };
	static Elf64_Dyn dynamic[4];
	static struct {
		Elf64_Ehdr header;
		Elf64_Phdr segments[2];
	} vdso;
	uintptr_t bias = (uintptr_t)&vdso;
	int gnu = strcmp(hash_kind, "gnu") == 0;

	demand(type == AT_SYSINFO_EHDR, "the vDSO's auxiliary value");
	symbols[1] = (Elf64_Sym){ .st_name = 1, .st_shndx = 1 };
	symbols[2] = (Elf64_Sym){ .st_name = 14, .st_shndx = 1, .st_value = (uintptr_t)played_enter - bias };
	dynamic[0] = (Elf64_Dyn){ .d_tag = DT_SYMTAB, .d_un.d_ptr = (uintptr_t)symbols - bias };
	dynamic[1] = (Elf64_Dyn){ .d_tag = DT_STRTAB, .d_un.d_ptr = (uintptr_t)names - bias };
	dynamic[2] = (Elf64_Dyn){ .d_tag = gnu ? DT_GNU_HASH : DT_HASH, .d_un.d_ptr = (gnu ? (uintptr_t)gnu_hash : (uintptr_t)sysv_hash) - bias };
	vdso.header.e_phoff = sizeof(Elf64_Ehdr);
	vdso.header.e_phnum = 2;
	vdso.segments[0] = (Elf64_Phdr){ .p_type = PT_LOAD };
	vdso.segments[1] = (Elf64_Phdr){ .p_type = PT_DYNAMIC, .p_offset = (uintptr_t)dynamic - bias };
	return bias;
}

int main(int count, char **values)
{
	uint8_t mrenclave[32];
	uint64_t answer = 0;
	const uint64_t arguments[2] = { 40, 2 };

	(void)count;
	hash_kind = values[1];
	struct image image = read_image(values[2], mrenclave);
	struct sigstruct sigstruct = read_signature(values[3], mrenclave);

	if (strcmp(hash_kind, "tampered") == 0)
		image.content[0] ^= 1;
	if (!run_on_hardware(DEVICE, &image, &sigstruct, arguments, &answer))
		return 101;
	printf("answer %llu\ntcs %llx\n", (unsigned long long)answer, (unsigned long long)played.entered_tcs);
	return 0;
}
