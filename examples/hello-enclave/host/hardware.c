/*
 * SGX by Linux's in-kernel driver (since 5.11): SGX_IOC_ENCLAVE_CREATE, _ADD_PAGES and _INIT, then the vDSO's
 * __vdso_sgx_enter_enclave. It follows the kernel's documented interface and has not yet met SGX hardware.
 */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fail.h"
#include "launch.h"

#define ASK_FOR_EPC "Ask for EPC in the pod's resource limits, so that the node's device plugin hands over /dev/sgx_enclave."
#define SEE_KERNEL_LOG "Look into the node's kernel log, and whether its EPC is used up."

uint8_t *reserve_elrange(uint64_t bytes)
{
	uint8_t *area = mmap(NULL, 2 * bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (area == MAP_FAILED)
		fail(EXIT_HOST_UNFIT, "Lift the limit on address space (ulimit -v).", "no address range of %llu bytes is free",
		     (unsigned long long)bytes);
	return (uint8_t *)(((uintptr_t)area + bytes - 1) & ~(uintptr_t)(bytes - 1));
}

int protection(uint32_t secinfo)
{
	return (secinfo & SECINFO_R ? PROT_READ : 0) | (secinfo & SECINFO_W ? PROT_WRITE : 0) | (secinfo & SECINFO_X ? PROT_EXEC : 0);
}

int open_device(const char *path)
{
	/* The second is where drivers outside the kernel put it. */
	const char *const usual[] = { "/dev/sgx_enclave", "/dev/sgx/enclave" };
	int device = -1;

	if (path != NULL) {
		device = open(path, O_RDWR | O_CLOEXEC);
	} else {
		device = open(path = usual[0], O_RDWR | O_CLOEXEC);
		if (device < 0 && errno == ENOENT)
			device = open(path = usual[1], O_RDWR | O_CLOEXEC);
	}
	if (device >= 0)
		return device;
	if (errno == ENODEV || errno == ENXIO)
		return -1;
	if (errno == ENOENT)
		fail(EXIT_HOST_UNFIT, ASK_FOR_EPC, "no SGX device was handed to this container: %s does not exist", path);
	fail(EXIT_HOST_UNFIT, ASK_FOR_EPC, "this container may not use the SGX device %s: %s", path, strerror(errno));
}

static bool create(int device, const struct image *image, const struct sigstruct *sigstruct, uint8_t *base)
{
	struct secs secs __attribute__((aligned(PAGE_BYTES)));
	struct sgx_create request = { .secs = (uintptr_t)&secs };

	memset(&secs, 0, sizeof(secs));
	secs.size = image->elrange_bytes;
	secs.base = (uintptr_t)base;
	secs.ssa_frame_pages = image->ssa_frame_pages;
	secs.miscselect = sigstruct->miscselect & sigstruct->miscmask;
	secs.flags = ATTRIBUTE_MODE64;
	secs.xfrm = 3;
	if (ioctl(device, SGX_IOC_CREATE, &request) == 0)
		return true;
	/* What a device that is not an SGX driver answers to a request that it does not know. */
	if (errno == ENOTTY || errno == EINVAL || errno == ENODEV || errno == ENXIO || errno == ENOSYS || errno == EOPNOTSUPP)
		return false;
	fail(EXIT_FAILED, SEE_KERNEL_LOG, "the SGX driver did not create the enclave (SGX_IOC_ENCLAVE_CREATE): %s", strerror(errno));
}

static void add_pages(int device, const struct image *image)
{
	for (size_t first = 0, count; first < image->page_count; first += count) {
		struct secinfo secinfo = { .flags = image->pages[first].secinfo };

		count = run_length(image, first);
		for (size_t done = 0; done < count * PAGE_BYTES;) {
			struct sgx_add_pages request = {
				.source = (uintptr_t)image->content + first * PAGE_BYTES + done,
				.offset = image->pages[first].offset + done,
				.length = count * PAGE_BYTES - done,
				.secinfo = (uintptr_t)&secinfo,
				.flags = image->pages[first].measured ? SGX_PAGE_MEASURE : 0,
			};

			if (ioctl(device, SGX_IOC_ADD_PAGES, &request) != 0 && errno != EINTR)
				fail(EXIT_FAILED, SEE_KERNEL_LOG, "the SGX driver did not add page %#llx (SGX_IOC_ENCLAVE_ADD_PAGES): %s",
				     (unsigned long long)(request.offset + request.count), strerror(errno));
			done += request.count;
		}
	}
}

/* After adding, because the driver caps a mapping's permissions by those of its pages; the processor needs TCS pages readable and writable. */
static void map_pages(int device, const struct image *image, uint8_t *base)
{
	for (size_t first = 0, count; first < image->page_count; first += count) {
		uint32_t secinfo = image->pages[first].secinfo;
		int wanted = secinfo == SECINFO_TCS ? PROT_READ | PROT_WRITE : protection(secinfo);

		count = run_length(image, first);
		if (mmap(base + image->pages[first].offset, count * PAGE_BYTES, wanted, MAP_SHARED | MAP_FIXED, device, 0) == MAP_FAILED)
			fail(EXIT_FAILED, "Check that /dev is not mounted noexec.", "the enclave's pages at %#llx could not be mapped: %s",
			     (unsigned long long)image->pages[first].offset, strerror(errno));
	}
}

static size_t symbol_count(const uint32_t *sysv_hash, const uint32_t *gnu_hash)
{
	uint32_t last = 0;

	if (sysv_hash != NULL)
		return sysv_hash[1]; /* nchain is the number of symbols */
	if (gnu_hash == NULL)
		return 0;
	const uint32_t *buckets = gnu_hash + 4 + 2 * gnu_hash[2];
	const uint32_t *chains = buckets + gnu_hash[0];

	for (uint32_t i = 0; i < gnu_hash[0]; i++)
		if (buckets[i] > last)
			last = buckets[i];
	if (last < gnu_hash[1])
		return 0;
	while ((chains[last - gnu_hash[1]] & 1) == 0)
		last++;
	return last + 1;
}

/* Finds a function that the kernel maps into every process; NULL where this kernel has none of that name. */
static void *vdso_function(const char *name)
{
	const uint8_t *vdso = (const uint8_t *)getauxval(AT_SYSINFO_EHDR);

	if (vdso == NULL)
		return NULL;
	const Elf64_Ehdr *header = (const Elf64_Ehdr *)vdso;
	const Elf64_Phdr *segments = (const Elf64_Phdr *)(vdso + header->e_phoff);
	const Elf64_Dyn *dynamic = NULL;
	const uint8_t *bias = vdso;
	const Elf64_Sym *symbols = NULL;
	const char *names = NULL;
	const uint32_t *sysv_hash = NULL, *gnu_hash = NULL;

	for (int i = 0; i < header->e_phnum; i++) {
		if (segments[i].p_type == PT_LOAD)
			bias = vdso + segments[i].p_offset - segments[i].p_vaddr;
		if (segments[i].p_type == PT_DYNAMIC)
			dynamic = (const Elf64_Dyn *)(vdso + segments[i].p_offset);
	}
	for (; dynamic != NULL && dynamic->d_tag != DT_NULL; dynamic++) {
		const void *at = bias + dynamic->d_un.d_ptr;

		switch (dynamic->d_tag) {
		case DT_SYMTAB:
			symbols = at;
			break;
		case DT_STRTAB:
			names = at;
			break;
		case DT_HASH:
			sysv_hash = at;
			break;
		case DT_GNU_HASH:
			gnu_hash = at;
			break;
		}
	}
	if (symbols == NULL || names == NULL)
		return NULL;
	for (size_t i = 0, count = symbol_count(sysv_hash, gnu_hash); i < count; i++)
		if (symbols[i].st_shndx != SHN_UNDEF && strcmp(names + symbols[i].st_name, name) == 0)
			return (void *)(bias + symbols[i].st_value);
	return NULL;
}

/* Called by the vDSO after each exit; keeps RDI, the enclave's answer. */
static int keep_answer(long rdi, long rsi, long rdx, long rsp, long r8, long r9, struct sgx_run *run)
{
	(void)rsi, (void)rdx, (void)rsp, (void)r8, (void)r9;
	*(uint64_t *)run->user_data = (uint64_t)rdi;
	return 0;
}

static void give_up(int number)
{
	(void)number;
	fail(EXIT_FAILED, "Look for an endless loop in the enclave.", "the enclave did not leave within %d seconds", RUN_LIMIT_SECONDS);
}

static uint64_t enter(const struct image *image, const uint8_t *base, const uint64_t arguments[2])
{
	void *address = vdso_function("__vdso_sgx_enter_enclave");
	uint64_t answer = 0;
	struct sgx_run run = {
		.tcs = (uintptr_t)base + image->tcs_offset,
		.user_handler = (uintptr_t)keep_answer,
		.user_data = (uintptr_t)&answer,
	};
	sgx_enter *enter_enclave;

	if (address == NULL)
		fail(EXIT_HOST_UNFIT, "Use a kernel of 5.11 or later with CONFIG_X86_SGX.", "this kernel's vDSO has no __vdso_sgx_enter_enclave");
	memcpy(&enter_enclave, &address, sizeof(enter_enclave));
	signal(SIGALRM, give_up);
	alarm(RUN_LIMIT_SECONDS);
	int result = enter_enclave(arguments[0], arguments[1], 0, ENCLU_EENTER, 0, 0, &run);

	alarm(0);
	if (result != 0 || run.function != ENCLU_EEXIT)
		fail(EXIT_FAILED, "The enclave is faulty, or the processor rejected the entry.",
		     "the enclave did not leave regularly: exception %u, error code %#x, address %#llx (enclave offset %#llx)", run.exception_vector,
		     run.exception_error_code, (unsigned long long)run.exception_address,
		     (unsigned long long)(run.exception_address - (uintptr_t)base));
	return answer;
}

bool run_on_hardware(int device, const struct image *image, const struct sigstruct *sigstruct, const uint64_t arguments[2],
		     uint64_t *answer)
{
	struct sgx_init request = { .sigstruct = (uintptr_t)sigstruct };
	uint8_t *base = reserve_elrange(image->elrange_bytes);

	if (!create(device, image, sigstruct, base))
		return false;
	add_pages(device, image);
	if (ioctl(device, SGX_IOC_INIT, &request) != 0)
		fail(EXIT_FAILED, SEE_KERNEL_LOG, "the processor did not accept the enclave (SGX_IOC_ENCLAVE_INIT): %s", strerror(errno));
	map_pages(device, image, base);
	*answer = enter(image, base, arguments);
	return true;
}
