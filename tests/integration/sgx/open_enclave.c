/* An enclave image in the layout of Open Enclave 0.18: everything that its loader looks at, and no runtime. */
typedef unsigned long u64;
typedef unsigned int u32;
typedef unsigned short u16;

__attribute__((visibility("default"))) u64 _enclave_rva, _reloc_rva, _reloc_size;
__attribute__((visibility("default"))) u64 _tdata_rva, _tdata_size, _tdata_align, _tbss_size, _tbss_align, _td_from_tcs_offset;

struct properties {
    u32 size, type;
    u64 heap_pages, stack_pages, tcs_count;
    u16 product_id, security_version;
    u32 flags;
    unsigned char family_id[16], extended_product_id[16];
    u64 attributes, xfrm, start_address;
    u64 image_info[6];
    unsigned char sigstruct[1808];
    u64 end_marker;
};
_Static_assert(sizeof(struct properties) == 1960, "the structure of release 0.18");

__attribute__((section(".oeinfo"), used)) static struct properties info = {
    .size = sizeof info, .type = 2, .heap_pages = 20, .stack_pages = 3, .tcs_count = 3, .product_id = 11, .security_version = 2,
    .attributes = 6, .end_marker = 0xececececececececUL,
};

__attribute__((visibility("default"))) __thread u64 thread_value __attribute__((aligned(64), tls_model("initial-exec"))) = 42;
__attribute__((visibility("default"))) __thread u64 thread_room[700] __attribute__((tls_model("initial-exec")));

static u64 target = 7;
u64 *pointer = &target;
u64 bss[2000];

__attribute__((visibility("default"))) u64 oe_entry(u64 argument) { return argument + *pointer + thread_value + thread_room[argument % 700] + bss[3]; }
