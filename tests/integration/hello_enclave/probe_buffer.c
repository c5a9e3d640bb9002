/*
 * Enters the enclave as a hostile host would: with a buffer at a place of its choice relative to the enclave, and a length.
 *
 *     probe_buffer ENCLAVE SIGNATURE inside|outside OFFSET LENGTH
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/launch.h"
#include "host/signature.h"

static uint64_t arguments[2];
static int inside;
static uint64_t offset;
static uint8_t outside[4096] __attribute__((aligned(4096)));

uint8_t *__real_reserve_elrange(uint64_t bytes);
uint8_t *__wrap_reserve_elrange(uint64_t bytes);

/* Called by the simulation before it enters, and the first to know where the enclave lies. */
uint8_t *__wrap_reserve_elrange(uint64_t bytes)
{
	uint8_t *base = __real_reserve_elrange(bytes);

	arguments[0] = (inside ? (uintptr_t)base : (uintptr_t)outside) + offset;
	return base;
}

int main(int count, char **values)
{
	uint8_t mrenclave[32];

	(void)count;
	struct image image = read_image(values[1], mrenclave);
	struct sigstruct sigstruct = read_signature(values[2], mrenclave);

	inside = strcmp(values[3], "inside") == 0;
	offset = strtoull(values[4], NULL, 0);
	arguments[1] = strtoull(values[5], NULL, 0);
	printf("%llu\n", (unsigned long long)run_in_simulation(&image, &sigstruct, arguments));
	return 0;
}
