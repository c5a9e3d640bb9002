/*
 * The parts of SGX's binary interface that the host uses. Structures of the processor: Intel SDM volume 3D; of Linux's driver and vDSO:
 * arch/x86/include/uapi/asm/sgx.h. Defined here so that the example builds where the kernel's headers are older than the driver.
 */
#ifndef SGX_H
#define SGX_H

#include <stddef.h>
#include <stdint.h>
#include <sys/ioctl.h>

#define PAGE_BYTES 4096u
#define CHUNK_BYTES 256u

/* ENCLU leaves. */
#define ENCLU_EREPORT 0u
#define ENCLU_EENTER 2u
#define ENCLU_EEXIT 4u

/* SECINFO.FLAGS */
#define SECINFO_R 0x1u
#define SECINFO_W 0x2u
#define SECINFO_X 0x4u
#define SECINFO_PERMISSIONS 0x7u
#define SECINFO_TCS 0x100u
#define SECINFO_REG 0x200u
#define SECINFO_PAGE_TYPE 0xff00u

/* ATTRIBUTES.FLAGS */
#define ATTRIBUTE_INIT 0x1u
#define ATTRIBUTE_MODE64 0x4u
#define ATTRIBUTE_KSS 0x80u

struct secs {
	uint64_t size;
	uint64_t base;
	uint32_t ssa_frame_pages;
	uint32_t miscselect;
	uint8_t reserved1[24];
	uint64_t flags;
	uint64_t xfrm;
	uint8_t mrenclave[32];
	uint8_t reserved2[32];
	uint8_t mrsigner[32];
	uint8_t reserved3[3936];
};
_Static_assert(sizeof(struct secs) == PAGE_BYTES, "SECS is a page");
_Static_assert(offsetof(struct secs, flags) == 48, "SECS.ATTRIBUTES is at 48");
_Static_assert(offsetof(struct secs, mrsigner) == 128, "SECS.MRSIGNER is at 128");

struct secinfo {
	uint64_t flags;
	uint8_t reserved[56];
} __attribute__((aligned(64)));
_Static_assert(sizeof(struct secinfo) == 64, "SECINFO is 64 bytes long");

struct tcs {
	uint64_t state;
	uint64_t flags;
	uint64_t ossa;
	uint32_t cssa;
	uint32_t nssa;
	uint64_t oentry;
	uint64_t aep;
	uint64_t ofsbase;
	uint64_t ogsbase;
	uint32_t fslimit;
	uint32_t gslimit;
	uint8_t reserved[4024];
};
_Static_assert(sizeof(struct tcs) == PAGE_BYTES, "TCS is a page");
_Static_assert(offsetof(struct tcs, ofsbase) == 48, "TCS.OFSBASE is at 48");

struct sigstruct {
	uint8_t header[16];
	uint32_t vendor;
	uint32_t date;
	uint8_t header2[16];
	uint32_t swdefined;
	uint8_t reserved1[84];
	uint8_t modulus[384];
	uint32_t exponent;
	uint8_t signature[384];
	uint32_t miscselect;
	uint32_t miscmask;
	uint8_t cet_attributes;
	uint8_t cet_attributes_mask;
	uint8_t reserved2[2];
	uint8_t isv_family_id[16];
	uint64_t flags;
	uint64_t xfrm;
	uint64_t flags_mask;
	uint64_t xfrm_mask;
	uint8_t mrenclave[32];
	uint8_t reserved3[16];
	uint8_t isv_ext_prod_id[16];
	uint16_t isv_prod_id;
	uint16_t isv_svn;
	uint8_t reserved4[12];
	uint8_t q1[384];
	uint8_t q2[384];
} __attribute__((packed));
_Static_assert(sizeof(struct sigstruct) == 1808, "SIGSTRUCT is 1808 bytes long");
_Static_assert(offsetof(struct sigstruct, miscselect) == 900, "SIGSTRUCT.MISCSELECT is at 900");
_Static_assert(offsetof(struct sigstruct, mrenclave) == 960, "SIGSTRUCT.ENCLAVEHASH is at 960");
_Static_assert(offsetof(struct sigstruct, q1) == 1040, "SIGSTRUCT.Q1 is at 1040");

/* Linux's driver. */
struct sgx_create {
	uint64_t secs;
};
struct sgx_add_pages {
	uint64_t source;
	uint64_t offset;
	uint64_t length;
	uint64_t secinfo;
	uint64_t flags;
	uint64_t count;
};
struct sgx_init {
	uint64_t sigstruct;
};
#define SGX_IOC_CREATE _IOW(0xa4, 0, struct sgx_create)
#define SGX_IOC_ADD_PAGES _IOWR(0xa4, 1, struct sgx_add_pages)
#define SGX_IOC_INIT _IOW(0xa4, 2, struct sgx_init)
#define SGX_PAGE_MEASURE 1u
_Static_assert(SGX_IOC_CREATE == 0x4008a400, "as in the kernel's header");
_Static_assert(SGX_IOC_ADD_PAGES == 0xc030a401, "as in the kernel's header");
_Static_assert(SGX_IOC_INIT == 0x4008a402, "as in the kernel's header");

/* Linux's vDSO. */
struct sgx_run {
	uint64_t tcs;
	uint32_t function;
	uint16_t exception_vector;
	uint16_t exception_error_code;
	uint64_t exception_address;
	uint64_t user_handler;
	uint64_t user_data;
	uint8_t reserved[216];
};
_Static_assert(sizeof(struct sgx_run) == 256, "struct sgx_enclave_run is 256 bytes long");
typedef int sgx_exit_handler(long rdi, long rsi, long rdx, long rsp, long r8, long r9, struct sgx_run *run);
typedef int sgx_enter(unsigned long rdi, unsigned long rsi, unsigned long rdx, unsigned int function, unsigned long r8,
		      unsigned long r9, struct sgx_run *run);

#endif
