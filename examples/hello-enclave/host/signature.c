/*
 * RSA-3072 with exponent 3, as the processor checks it: the two quotients in the SIGSTRUCT spare the divisions, so multiplying,
 * subtracting and comparing are enough.
 *   s^2 - q1 * n = r1 < n;   s * r1 - q2 * n = r2 < n;   r2 = s^3 mod n, which must be the padded hash of the signed fields.
 */
#include "signature.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "fail.h"
#include "image.h"
#include "sha256.h"

#define RSA_BYTES 384
#define LIMBS (RSA_BYTES / 8)
#define SIGN_AGAIN "Sign the enclave again, or get an undamaged copy of the signature."

typedef struct {
	uint64_t limb[LIMBS]; /* least significant first */
} number;
typedef struct {
	uint64_t limb[2 * LIMBS];
} product;

static number load(const uint8_t bytes[RSA_BYTES])
{
	number value;

	memcpy(&value, bytes, sizeof(value)); /* little-endian in the file and on this machine */
	return value;
}

static bool below(const number *a, const number *b)
{
	for (int i = LIMBS - 1; i >= 0; i--)
		if (a->limb[i] != b->limb[i])
			return a->limb[i] < b->limb[i];
	return false;
}

static product multiply(const number *a, const number *b)
{
	product result = { { 0 } };

	for (int i = 0; i < LIMBS; i++) {
		uint64_t carry = 0;

		for (int j = 0; j < LIMBS; j++) {
			unsigned __int128 sum = (unsigned __int128)a->limb[i] * b->limb[j] + result.limb[i + j] + carry;

			result.limb[i + j] = (uint64_t)sum;
			carry = (uint64_t)(sum >> 64);
		}
		result.limb[i + LIMBS] = carry;
	}
	return result;
}

/* Computes a * b - q * n; false unless 0 <= the result < n. */
static bool reduce(const number *a, const number *b, const number *q, const number *n, number *remainder)
{
	product left = multiply(a, b), right = multiply(q, n);
	bool borrow = false;

	for (int i = 0; i < 2 * LIMBS; i++) {
		unsigned __int128 difference = (unsigned __int128)left.limb[i] - right.limb[i] - borrow;

		left.limb[i] = (uint64_t)difference;
		borrow = (difference >> 64) != 0;
	}
	for (int i = LIMBS; i < 2 * LIMBS; i++)
		if (left.limb[i] != 0)
			return false;
	memcpy(remainder, left.limb, sizeof(*remainder));
	return !borrow && below(remainder, n);
}

/* EMSA-PKCS1-v1_5 of a SHA-256 digest (RFC 8017, 9.2), little-endian. */
static number padded(const uint8_t digest[32])
{
	static const uint8_t digest_info[19] = { 0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01,
						 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, 0x04, 0x20 };
	uint8_t big_endian[RSA_BYTES], little_endian[RSA_BYTES];

	memset(big_endian, 0xff, sizeof(big_endian));
	big_endian[0] = 0;
	big_endian[1] = 1;
	big_endian[RSA_BYTES - 32 - sizeof(digest_info) - 1] = 0;
	memcpy(big_endian + RSA_BYTES - 32 - sizeof(digest_info), digest_info, sizeof(digest_info));
	memcpy(big_endian + RSA_BYTES - 32, digest, 32);
	for (int i = 0; i < RSA_BYTES; i++)
		little_endian[i] = big_endian[RSA_BYTES - 1 - i];
	return load(little_endian);
}

static bool signature_holds(const struct sigstruct *sigstruct)
{
	const uint8_t *raw = (const uint8_t *)sigstruct;
	number n = load(sigstruct->modulus), s = load(sigstruct->signature), q1 = load(sigstruct->q1), q2 = load(sigstruct->q2);
	number first, second, expected;
	uint8_t digest[32];
	struct sha256 hash;

	sha256_start(&hash);
	sha256_add(&hash, raw, 128);
	sha256_add(&hash, raw + 900, 128);
	sha256_finish(&hash, digest);
	expected = padded(digest);
	return n.limb[LIMBS - 1] >> 63 && below(&s, &n) && reduce(&s, &s, &q1, &n, &first) && reduce(&s, &first, &q2, &n, &second) &&
	       memcmp(&second, &expected, sizeof(expected)) == 0;
}

static bool form_holds(const struct sigstruct *sigstruct)
{
	static const uint8_t header[16] = { 0x06, 0, 0, 0, 0xe1, 0, 0, 0, 0, 0, 0x01, 0 };
	static const uint8_t header2[16] = { 0x01, 0x01, 0, 0, 0x60, 0, 0, 0, 0x60, 0, 0, 0, 0x01 };
	static const uint8_t zero[84];

	return memcmp(sigstruct->header, header, sizeof(header)) == 0 && memcmp(sigstruct->header2, header2, sizeof(header2)) == 0 &&
	       (sigstruct->vendor == 0 || sigstruct->vendor == 0x8086) && sigstruct->exponent == 3 &&
	       memcmp(sigstruct->reserved1, zero, sizeof(sigstruct->reserved1)) == 0 &&
	       memcmp(sigstruct->reserved2, zero, sizeof(sigstruct->reserved2)) == 0 &&
	       memcmp(sigstruct->reserved3, zero, sizeof(sigstruct->reserved3)) == 0 &&
	       memcmp(sigstruct->reserved4, zero, sizeof(sigstruct->reserved4)) == 0;
}

struct sigstruct read_signature(const char *path, const uint8_t mrenclave[32])
{
	struct sigstruct sigstruct;
	size_t length;
	uint8_t *data = read_file(path, sizeof(sigstruct), &length);

	if (length != sizeof(sigstruct))
		fail(EXIT_REFUSED, SIGN_AGAIN, "%s is %zu bytes long, not the %zu of a SIGSTRUCT", path, length, sizeof(sigstruct));
	memcpy(&sigstruct, data, sizeof(sigstruct));
	free(data);
	if (!form_holds(&sigstruct))
		fail(EXIT_REFUSED, SIGN_AGAIN, "%s is not a SIGSTRUCT: a constant or reserved field is wrong", path);
	if (!signature_holds(&sigstruct))
		fail(EXIT_REFUSED, SIGN_AGAIN, "the signature in %s does not hold", path);
	if (memcmp(sigstruct.mrenclave, mrenclave, sizeof(sigstruct.mrenclave)) != 0)
		fail(EXIT_REFUSED, "One of the two files is damaged or belongs to another build; build and sign the enclave again.",
		     "the enclave's measurement is not the one that %s signs", path);
	/* This host launches 64-bit enclaves in release mode, with the x87 and SSE state that every processor has. */
	if (((sigstruct.flags ^ ATTRIBUTE_MODE64) & sigstruct.flags_mask) != 0 || ((sigstruct.xfrm ^ 3) & sigstruct.xfrm_mask) != 0 ||
	    (sigstruct.miscselect & sigstruct.miscmask) != 0)
		fail(EXIT_REFUSED, "Sign it for a 64-bit enclave in release mode.", "%s asks for attributes that this host does not launch with", path);
	return sigstruct;
}

void compute_mrsigner(const struct sigstruct *sigstruct, uint8_t mrsigner[32])
{
	struct sha256 hash;

	sha256_start(&hash);
	sha256_add(&hash, sigstruct->modulus, sizeof(sigstruct->modulus));
	sha256_finish(&hash, mrsigner);
}
