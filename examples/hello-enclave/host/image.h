/* An enclave as its SGXS stream describes it, checked; see image.c for what is accepted. */
#ifndef IMAGE_H
#define IMAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "sgx.h"

struct page {
	uint64_t offset;
	uint32_t secinfo;
	bool measured;
};

struct image {
	uint64_t elrange_bytes;
	uint32_t ssa_frame_pages;
	uint64_t tcs_offset; /* the first TCS */
	size_t page_count;
	struct page *pages;
	uint8_t *content; /* page_count pages, page-aligned, in the order of `pages` */
};

/* Reads a file of at most `limit` bytes; ends the program otherwise. */
uint8_t *read_file(const char *path, size_t limit, size_t *length);

/* Parses an SGXS stream and gives its measurement; ends the program with EXIT_REFUSED where it is damaged. */
struct image read_image(const char *path, uint8_t mrenclave[32]);

/* Computes MRENCLAVE over the pages as they stand in memory, `page_at(argument, i)` being the content of page i. */
void measure(const struct image *image, const uint8_t *(*page_at)(const void *argument, size_t page), const void *argument,
	     uint8_t mrenclave[32]);

/* How many pages from `first` on follow each other with equal SECINFO and measuring, so that one call can treat them. */
size_t run_length(const struct image *image, size_t first);

#endif
