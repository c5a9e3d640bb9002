/* What host and enclave agree on: the reply that the enclave writes into the host's memory. */
#ifndef HELLO_H
#define HELLO_H

#include <stdint.h>

#define HELLO_TEXT_BYTES 48

/* REPORT as EREPORT writes it (Intel SDM volume 3D, REPORT). */
struct report {
	uint8_t cpu_svn[16];
	uint32_t miscselect;
	uint8_t reserved1[12];
	uint8_t isv_ext_prod_id[16];
	uint64_t flags;
	uint64_t xfrm;
	uint8_t mrenclave[32];
	uint8_t reserved2[32];
	uint8_t mrsigner[32];
	uint8_t reserved3[32];
	uint8_t config_id[64];
	uint16_t isv_prod_id;
	uint16_t isv_svn;
	uint16_t config_svn;
	uint8_t reserved4[42];
	uint8_t isv_family_id[16];
	uint8_t report_data[64];
	uint8_t key_id[32];
	uint8_t mac[16];
} __attribute__((packed));

_Static_assert(sizeof(struct report) == 432, "REPORT is 432 bytes long");
_Static_assert(__builtin_offsetof(struct report, mrenclave) == 64, "REPORT.MRENCLAVE is at 64");
_Static_assert(__builtin_offsetof(struct report, mrsigner) == 128, "REPORT.MRSIGNER is at 128");
_Static_assert(__builtin_offsetof(struct report, report_data) == 320, "REPORT.REPORTDATA is at 320");

/* The enclave writes it in whole, aligned 8-byte words (see enclave.c). */
struct hello_reply {
	char text[HELLO_TEXT_BYTES];
	struct report report;
} __attribute__((aligned(8)));

_Static_assert(sizeof(struct hello_reply) % 8 == 0, "the reply is written in 8-byte words");

/* The enclave's answer, in RDI when it leaves. */
enum hello_status {
	HELLO_DONE = 0,
	HELLO_BUFFER_INSIDE = 1, /* the buffer touches the enclave's own memory, or wraps around */
	HELLO_BUFFER_UNFIT = 2,	 /* too short or not aligned to 8 bytes */
	HELLO_REENTERED = 3,	 /* entered while an exception of this thread is pending */
};

#endif
