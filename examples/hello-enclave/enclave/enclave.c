/*
 * The enclave: says hello, and shows who it is by a report that the processor makes of it.
 *
 * Freestanding: no library, no system call, no relocation. It trusts nothing that the host passes: the buffer must lie wholly outside the
 * enclave, or the host could make the enclave overwrite its own memory.
 */
#include <stddef.h>
#include <stdint.h>

#include "hello.h"

#define ENCLU_EREPORT 0

/* What the layout step puts at the start of each thread's page (kubenclave.sgx.layout, THREAD_PAGE). */
struct thread_page {
	uint64_t elrange_bytes;
	uint64_t tcs_offset;
	uint64_t heap_offset;
	uint64_t heap_bytes;
	uint64_t stack_offset;
	uint64_t stack_bytes;
	uint64_t number;
};

/* TARGETINFO, REPORTDATA and REPORT must lie inside the enclave, aligned so (SDM, EREPORT). All zero: a report for no one in particular. */
static uint8_t target_info[512] __attribute__((aligned(512)));
static uint8_t report_data[64] __attribute__((aligned(128)));
static union {
	struct report report;
	uint8_t bytes[512];
} own_report __attribute__((aligned(512)));

static const char text[HELLO_TEXT_BYTES] = "Hello world from the enclave";

static uint64_t thread_word(size_t offset)
{
	uint64_t value;

	__asm__("movq %%gs:(%1), %0" : "=r"(value) : "r"(offset));
	return value;
}

/* False where [start, start + length) wraps around or shares a byte with [base, base + size). */
static int lies_outside(uint64_t start, uint64_t length, uint64_t base, uint64_t size)
{
	uint64_t end;

	if (__builtin_add_overflow(start, length, &end))
		return 0;
	return end <= base || start >= base + size;
}

static void make_report(void)
{
	__asm__ volatile("enclu"
			 :
			 : "a"(ENCLU_EREPORT), "b"(target_info), "c"(report_data), "d"(&own_report)
			 : "memory", "cc");
}

/* Memory outside is written in whole, aligned words only, so that no stale data goes along (Intel-SA-00615). */
static void write_outside(volatile uint64_t *to, const void *from, size_t bytes)
{
	const uint8_t *source = from;

	for (size_t at = 0; at < bytes; at += sizeof(uint64_t)) {
		uint64_t word;

		__builtin_memcpy(&word, source + at, sizeof(word));
		to[at / sizeof(uint64_t)] = word;
	}
}

uint64_t enclave_main(uint64_t buffer, uint64_t length, uint64_t tcs);

uint64_t enclave_main(uint64_t buffer, uint64_t length, uint64_t tcs)
{
	uint64_t base = tcs - thread_word(offsetof(struct thread_page, tcs_offset));
	uint64_t size = thread_word(offsetof(struct thread_page, elrange_bytes));

	if (!lies_outside(buffer, length, base, size))
		return HELLO_BUFFER_INSIDE;
	if (length < sizeof(struct hello_reply) || buffer % 8 != 0)
		return HELLO_BUFFER_UNFIT;

	make_report();

	volatile uint64_t *reply = (volatile uint64_t *)buffer;

	write_outside(reply, text, sizeof(text));
	write_outside(reply + offsetof(struct hello_reply, report) / 8, &own_report.report, sizeof(struct report));
	return HELLO_DONE;
}
