/* The two ways to run an enclave: with the processor's SGX, and without it. */
#ifndef LAUNCH_H
#define LAUNCH_H

#include <stdbool.h>
#include <stdint.h>

#include "image.h"
#include "sgx.h"

/* An address range of a power of two, aligned to its size as ECREATE demands, in which nothing can be accessed yet. */
uint8_t *reserve_elrange(uint64_t bytes);

/* The mmap protection of a page with this SECINFO. */
int protection(uint32_t secinfo);

/*
 * Opens the SGX device. Ends the program with EXIT_HOST_UNFIT where there is none or it may not be opened; gives -1 where the device node
 * stands for no device.
 */
int open_device(const char *path);

/*
 * Builds the enclave through Linux's driver and enters it once with two arguments. False, with nothing done, where the device turns out
 * not to be an SGX driver. The enclave stays mapped.
 */
bool run_on_hardware(int device, const struct image *image, const struct sigstruct *sigstruct, const uint64_t arguments[2],
		     uint64_t *answer);

/* Runs the same pages as ordinary memory, playing what the processor would do; see simulate.c. The enclave stays mapped. */
uint64_t run_in_simulation(const struct image *image, const struct sigstruct *sigstruct, const uint64_t arguments[2]);

/* How long an enclave may run before the host gives up on it. */
#define RUN_LIMIT_SECONDS 5

#endif
