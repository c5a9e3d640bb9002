/* Checks a SIGSTRUCT as EINIT does. */
#ifndef SIGNATURE_H
#define SIGNATURE_H

#include <stdint.h>

#include "sgx.h"

/* Reads and checks the SIGSTRUCT at `path` against the measurement; ends the program with EXIT_REFUSED where it does not hold. */
struct sigstruct read_signature(const char *path, const uint8_t mrenclave[32]);

/* SHA-256 of the signer's modulus. */
void compute_mrsigner(const struct sigstruct *sigstruct, uint8_t mrsigner[32]);

#endif
