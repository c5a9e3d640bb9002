/*
 * Runs an enclave's own pages without SGX. The pages are mapped as ordinary memory at an aligned base, with the permissions of their
 * SECINFO (a TCS with none); ENCLU is not an instruction on such a machine, so it raises a signal, and the handler plays the leaf.
 *
 * Played are the parts of ECREATE, EADD, EEXTEND and EINIT that decide whether an enclave may run, EENTER, EEXIT and EREPORT. What no
 * program can play: nothing is encrypted, the operating system can read everything, and a report carries no MAC.
 */
#define _GNU_SOURCE
#include "simulate.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "../hello.h"
#include "fail.h"
#include "launch.h"
#include "signature.h"

#define FAULTY "The enclave is faulty; run it under a debugger, it is ordinary memory here."
#define SIGNAL_STACK_BYTES 65536

struct entry {
	uint64_t rdi, rsi, tcs, point, fs, gs, ssa_gprs;
};
_Static_assert(offsetof(struct entry, ssa_gprs) == ENTRY_SSA_GPRS, "simulate_entry.S reads these");
_Static_assert(SYS_ARCH_PRCTL == SYS_arch_prctl, "simulate_entry.S calls it");

uint64_t simulated_eenter(const struct entry *entry);
void simulated_signal(int number, siginfo_t *info, void *context);
void handle_signal(int number, siginfo_t *info, void *context);
extern const char simulated_return[];
extern uint64_t host_fs;

/* One enclave at a time: a signal handler has no other way to know which one. */
static struct {
	const struct image *image;
	const struct sigstruct *sigstruct;
	uint8_t *base;
	uint64_t fs;
	uint8_t mrenclave[32];
	uint8_t mrsigner[32];
} running;

static const uint8_t *mapped_page(const void *base, size_t page)
{
	return (const uint8_t *)base + running.image->pages[page].offset;
}

/* Copies the pages to their places, measures them there, and only then gives them their permissions, TCS pages none. */
static void build(const struct image *image)
{
	running.base = reserve_elrange(image->elrange_bytes);
	for (size_t first = 0, count; first < image->page_count; first += count) {
		uint8_t *at = running.base + image->pages[first].offset;

		count = run_length(image, first);
		if (mprotect(at, count * PAGE_BYTES, PROT_READ | PROT_WRITE) != 0)
			fail(EXIT_HOST_UNFIT, "Give the container more memory.", "not enough memory for the enclave's pages");
		/* Pages that are not measured are zero, as fresh memory is. */
		if (image->pages[first].measured)
			memcpy(at, image->content + first * PAGE_BYTES, count * PAGE_BYTES);
	}
	measure(image, mapped_page, running.base, running.mrenclave);
	compute_mrsigner(running.sigstruct, running.mrsigner);
	if (memcmp(running.mrenclave, running.sigstruct->mrenclave, sizeof(running.mrenclave)) != 0)
		fail(EXIT_REFUSED, "This is a fault of the host program; report it.", "the mapped pages do not measure as they are signed");
	for (size_t first = 0, count; first < image->page_count; first += count) {
		uint8_t *at = running.base + image->pages[first].offset;

		count = run_length(image, first);
		if (mprotect(at, count * PAGE_BYTES, protection(image->pages[first].secinfo)) != 0)
			fail(EXIT_HOST_UNFIT, "Allow this container to map executable memory.", "the enclave's pages could not be given their permissions");
	}
}

/* Whether [address, address + length) lies in pages of the enclave that have all of these permissions. */
static bool permits(uint64_t address, size_t length, uint32_t permissions)
{
	uint64_t at = address - (uintptr_t)running.base, end = at + length;

	if (address < (uintptr_t)running.base || end < at || end > running.image->elrange_bytes)
		return false;
	for (at -= at % PAGE_BYTES; at < end; at += PAGE_BYTES) {
		size_t page = 0;

		while (page < running.image->page_count && running.image->pages[page].offset != at)
			page++;
		if (page == running.image->page_count || (running.image->pages[page].secinfo & permissions) != permissions)
			return false;
	}
	return true;
}

static _Noreturn void refuse_leaf(const char *what, uint64_t offset)
{
	fail(EXIT_FAILED, FAULTY, "the enclave's ENCLU at offset %#llx cannot be played: %s", (unsigned long long)offset, what);
}

/* EREPORT (SDM): RBX = TARGETINFO, RCX = REPORTDATA, RDX = where the report goes; all inside the enclave. */
static void play_ereport(const greg_t *registers, uint64_t offset)
{
	const struct sigstruct *sigstruct = running.sigstruct;
	uint64_t target = (uint64_t)registers[REG_RBX], data = (uint64_t)registers[REG_RCX], output = (uint64_t)registers[REG_RDX];
	struct report report = { 0 };

	if (target % 512 != 0 || data % 128 != 0 || output % 512 != 0)
		refuse_leaf("an operand of EREPORT is not aligned", offset);
	if (!permits(target, 512, SECINFO_R) || !permits(data, 64, SECINFO_R) || !permits(output, sizeof(report), SECINFO_R | SECINFO_W))
		refuse_leaf("an operand of EREPORT lies outside the enclave or lacks permissions", offset);
	report.miscselect = sigstruct->miscselect & sigstruct->miscmask;
	report.flags = ATTRIBUTE_INIT | ATTRIBUTE_MODE64;
	report.xfrm = 3;
	memcpy(report.mrenclave, running.mrenclave, sizeof(report.mrenclave));
	memcpy(report.mrsigner, running.mrsigner, sizeof(report.mrsigner));
	report.isv_prod_id = sigstruct->isv_prod_id;
	report.isv_svn = sigstruct->isv_svn;
	memcpy(report.report_data, (const void *)data, sizeof(report.report_data));
	memcpy((void *)output, &report, sizeof(report));
}

static void set_fs(uint64_t base)
{
	long result;

	__asm__ volatile("syscall" : "=a"(result) : "a"(SYS_ARCH_PRCTL), "D"(SET_FS), "S"(base) : "rcx", "r11", "memory");
	(void)result;
}

static void play_enclu(greg_t *registers, uint64_t offset)
{
	switch ((uint32_t)registers[REG_RAX]) {
	case ENCLU_EREPORT:
		play_ereport(registers, offset);
		registers[REG_RIP] += 3;
		/* Last, because no C code that uses thread-local data may run with the enclave's FS. */
		set_fs(running.fs);
		return;
	case ENCLU_EEXIT:
		if ((uint64_t)registers[REG_RBX] != (uintptr_t)simulated_return)
			refuse_leaf("EEXIT leads elsewhere than to where the enclave was entered from", offset);
		registers[REG_RIP] = registers[REG_RBX];
		return;
	default:
		refuse_leaf("only EEXIT and EREPORT are known here", offset);
	}
}

/* Runs with the host's FS, on its own stack. */
void handle_signal(int number, siginfo_t *info, void *context)
{
	static const uint8_t enclu[3] = { 0x0f, 0x01, 0xd7 };
	greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
	uint64_t instruction = (uint64_t)registers[REG_RIP];
	uint64_t offset = instruction - (uintptr_t)running.base;

	if (number == SIGALRM)
		fail(EXIT_FAILED, "Look for an endless loop in the enclave.", "the enclave did not leave within %d seconds", RUN_LIMIT_SECONDS);
	/* ENCLU raises #UD on a processor without SGX, and #GP (so SIGSEGV) on one that has it but is not inside an enclave. */
	if ((number == SIGILL || number == SIGSEGV) && permits(instruction, sizeof(enclu), SECINFO_X) &&
	    memcmp((const void *)instruction, enclu, sizeof(enclu)) == 0) {
		play_enclu(registers, offset);
		return;
	}
	if (offset < running.image->elrange_bytes)
		fail(EXIT_FAILED, FAULTY, "the enclave faulted at offset %#llx (%s at address %p, enclave base %p)", (unsigned long long)offset,
		     strsignal(number), info->si_addr, (void *)running.base);
	fail(EXIT_FAILED, FAULTY, "%s outside the enclave, at address %#llx", strsignal(number), (unsigned long long)instruction);
}

static void catch_signals(void)
{
	static uint8_t stack[SIGNAL_STACK_BYTES];
	const stack_t alternate = { .ss_sp = stack, .ss_size = sizeof(stack) };
	const int numbers[] = { SIGILL, SIGSEGV, SIGBUS, SIGFPE, SIGTRAP, SIGALRM };
	struct sigaction action = { .sa_sigaction = simulated_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK };

	sigaltstack(&alternate, NULL);
	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
		sigaddset(&action.sa_mask, numbers[i]);
	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
		sigaction(numbers[i], &action, NULL);
}

static const struct tcs *find_tcs(const struct image *image)
{
	for (size_t page = 0; page < image->page_count; page++)
		if (image->pages[page].offset == image->tcs_offset)
			return (const struct tcs *)(image->content + page * PAGE_BYTES);
	abort();
}

uint64_t run_in_simulation(const struct image *image, const struct sigstruct *sigstruct, const uint64_t arguments[2])
{
	const struct tcs *tcs = find_tcs(image);

	running.image = image;
	running.sigstruct = sigstruct;
	build(image);
	uint64_t base = (uintptr_t)running.base, ssa = base + tcs->ossa;
	const struct entry entry = {
		.rdi = arguments[0],
		.rsi = arguments[1],
		.tcs = base + image->tcs_offset,
		.point = base + tcs->oentry,
		.fs = base + tcs->ofsbase,
		.gs = base + tcs->ogsbase,
		.ssa_gprs = ssa + image->ssa_frame_pages * PAGE_BYTES - GPRSGX_BYTES,
	};
	if (!permits(ssa, image->ssa_frame_pages * PAGE_BYTES, SECINFO_R | SECINFO_W))
		fail(EXIT_FAILED, FAULTY, "the SSA frame at enclave offset %#llx is not readable and writable", (unsigned long long)tcs->ossa);
	running.fs = entry.fs;
	syscall(SYS_arch_prctl, GET_FS, &host_fs);
	catch_signals();
	alarm(RUN_LIMIT_SECONDS);
	uint64_t answer = simulated_eenter(&entry);

	alarm(0);
	return answer;
}
