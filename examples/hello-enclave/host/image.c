/*
 * Reads SGXS. Accepted is what this project writes: ECREATE, then pages in ascending order, each EADD followed by 16 EEXTENDs in order or
 * by none. Content that is loaded but not measured (UNMEASRD) is refused: nobody could vouch for it.
 */
#include "image.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fail.h"
#include "sha256.h"

/* Far above this example's needs; keeps a hostile file from claiming the machine's memory. */
#define MAX_STREAM_BYTES (64u << 20)
#define MAX_PAGES 65536u
#define MAX_ELRANGE_BYTES (UINT64_C(1) << 36)

#define RECORD_BYTES 64u
#define REBUILD "Build the enclave again, or get an undamaged copy of it."

static const char tag_ecreate[8] = "ECREATE", tag_eadd[8] = "EADD", tag_eextend[8] = "EEXTEND";

uint8_t *read_file(const char *path, size_t limit, size_t *length)
{
	/* Not blocking, so that a named pipe cannot hold the host up. */
	int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	struct stat facts;
	size_t filled = 0;

	if (file < 0)
		fail(errno == ENOENT || errno == ENOTDIR ? EXIT_NOT_FOUND : EXIT_FAILED, "Check the path and its permissions.", "cannot open %s: %s", path, strerror(errno));
	if (fstat(file, &facts) != 0 || !S_ISREG(facts.st_mode))
		fail(EXIT_REFUSED, "Give the path of a regular file.", "%s is not a regular file", path);
	if ((uint64_t)facts.st_size > limit)
		fail(EXIT_REFUSED, REBUILD, "%s is %lld bytes long, more than the %zu that are accepted", path, (long long)facts.st_size, limit);
	*length = (size_t)facts.st_size;
	uint8_t *data = malloc(*length + 1);
	if (data == NULL)
		fail(EXIT_HOST_UNFIT, "Give the container more memory.", "not enough memory to read %s", path);
	while (filled < *length) {
		ssize_t count = read(file, data + filled, *length - filled);

		if (count <= 0)
			fail(EXIT_REFUSED, REBUILD, "%s could not be read to its end", path);
		filled += (size_t)count;
	}
	close(file);
	return data;
}

static uint64_t word_at(const uint8_t *bytes)
{
	uint64_t value;

	memcpy(&value, bytes, sizeof(value));
	return value;
}

static bool all_zero(const uint8_t *bytes, size_t length)
{
	while (length > 0 && *bytes == 0)
		bytes++, length--;
	return length == 0;
}

struct reader {
	const char *path;
	const uint8_t *data;
	size_t length;
	size_t at;
};

static _Noreturn void refuse(const struct reader *reader, const char *what)
{
	fail(EXIT_REFUSED, REBUILD, "%s at offset %zu: %s", reader->path, reader->at, what);
}

static bool next_is(const struct reader *reader, const char tag[8])
{
	return reader->at + RECORD_BYTES <= reader->length && memcmp(reader->data + reader->at, tag, 8) == 0;
}

static void read_ecreate(struct reader *reader, struct image *image)
{
	const uint8_t *record = reader->data + reader->at;

	if (!next_is(reader, tag_ecreate))
		refuse(reader, "the stream does not begin with ECREATE");
	memcpy(&image->ssa_frame_pages, record + 8, sizeof(image->ssa_frame_pages));
	image->elrange_bytes = word_at(record + 12);
	if (image->elrange_bytes < 2 * PAGE_BYTES || image->elrange_bytes > MAX_ELRANGE_BYTES ||
	    (image->elrange_bytes & (image->elrange_bytes - 1)) != 0)
		refuse(reader, "the size of the enclave is not a power of two within the limit");
	if (image->ssa_frame_pages != 1 || !all_zero(record + 20, RECORD_BYTES - 20))
		refuse(reader, "the SSA frame size is not one page, or reserved bytes are not zero");
	reader->at += RECORD_BYTES;
}

static void check_tcs(const struct reader *reader, const struct image *image, const uint8_t *content)
{
	const struct tcs *tcs = (const struct tcs *)content;
	bool inside = tcs->oentry < image->elrange_bytes && tcs->ofsbase < image->elrange_bytes && tcs->ogsbase < image->elrange_bytes &&
		      tcs->ossa < image->elrange_bytes;

	if (tcs->state != 0 || tcs->flags != 0 || tcs->cssa != 0 || tcs->aep != 0 || !all_zero(tcs->reserved, sizeof(tcs->reserved)))
		refuse(reader, "a TCS has fields set that only the processor may set");
	if (!inside || tcs->nssa == 0 || (tcs->ossa | tcs->ofsbase | tcs->ogsbase) % PAGE_BYTES != 0)
		refuse(reader, "a TCS points outside the enclave or is not aligned");
}

static void read_page(struct reader *reader, struct image *image)
{
	const uint8_t *record = reader->data + reader->at;
	struct page *page = &image->pages[image->page_count];
	uint8_t *content = image->content + image->page_count * (size_t)PAGE_BYTES;
	uint64_t least = image->page_count == 0 ? 0 : page[-1].offset + PAGE_BYTES;

	if (!next_is(reader, tag_eadd))
		refuse(reader, "expected an EADD record");
	uint64_t secinfo = word_at(record + 16);

	page->offset = word_at(record + 8);
	page->secinfo = (uint32_t)secinfo;
	if (page->offset % PAGE_BYTES != 0 || page->offset < least || page->offset > image->elrange_bytes - PAGE_BYTES)
		refuse(reader, "a page is unaligned, out of order or outside the enclave");
	bool regular = (secinfo & ~(uint64_t)SECINFO_PERMISSIONS) == SECINFO_REG;
	bool permitted = (secinfo & SECINFO_R) || !(secinfo & SECINFO_W);
	if ((!(regular && permitted) && secinfo != SECINFO_TCS) || !all_zero(record + 24, RECORD_BYTES - 24))
		refuse(reader, "a page has a type or permissions that cannot be added");
	reader->at += RECORD_BYTES;
	page->measured = next_is(reader, tag_eextend);
	for (uint32_t chunk = 0; page->measured && chunk < PAGE_BYTES; chunk += CHUNK_BYTES) {
		record = reader->data + reader->at;
		if (!next_is(reader, tag_eextend) || reader->at + RECORD_BYTES + CHUNK_BYTES > reader->length)
			refuse(reader, "expected an EEXTEND record with its 256 bytes");
		if (word_at(record + 8) != page->offset + chunk || !all_zero(record + 16, RECORD_BYTES - 16))
			refuse(reader, "an EEXTEND record is not for the next chunk of its page");
		memcpy(content + chunk, record + RECORD_BYTES, CHUNK_BYTES);
		reader->at += RECORD_BYTES + CHUNK_BYTES;
	}
	if (page->secinfo == SECINFO_TCS) {
		check_tcs(reader, image, content);
		if (image->tcs_offset == UINT64_MAX)
			image->tcs_offset = page->offset;
	}
	image->page_count++;
}

struct image read_image(const char *path, uint8_t mrenclave[32])
{
	struct reader reader = { .path = path };
	struct image image = { .tcs_offset = UINT64_MAX };
	struct sha256 hash;

	reader.data = read_file(path, MAX_STREAM_BYTES, &reader.length);
	read_ecreate(&reader, &image);
	size_t capacity = (reader.length - reader.at) / RECORD_BYTES;
	if (capacity > MAX_PAGES)
		capacity = MAX_PAGES;
	/* Untouched pages of this mapping cost nothing. It may be executable, as Linux's driver asks of the pages that it copies. */
	image.content = mmap(NULL, (capacity + 1) * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	image.pages = calloc(capacity + 1, sizeof(struct page));
	if (image.content == MAP_FAILED || image.pages == NULL)
		fail(EXIT_HOST_UNFIT, "Give the container more memory.", "not enough memory for the pages of %s", path);
	while (reader.at < reader.length) {
		if (image.page_count == capacity)
			refuse(&reader, "the stream has more pages than are accepted, or ends within a record");
		read_page(&reader, &image);
	}
	if (image.tcs_offset == UINT64_MAX)
		refuse(&reader, "the enclave has no TCS, so no thread can enter it");
	/* Everything in the stream is measured, so its hash is MRENCLAVE. */
	sha256_start(&hash);
	sha256_add(&hash, reader.data, reader.length);
	sha256_finish(&hash, mrenclave);
	free((void *)reader.data);
	return image;
}

void measure(const struct image *image, const uint8_t *(*page_at)(const void *argument, size_t page), const void *argument,
	     uint8_t mrenclave[32])
{
	uint8_t record[RECORD_BYTES] = { 0 };
	struct sha256 hash;

	sha256_start(&hash);
	memcpy(record, tag_ecreate, 8);
	memcpy(record + 8, &image->ssa_frame_pages, 4);
	memcpy(record + 12, &image->elrange_bytes, 8);
	sha256_add(&hash, record, sizeof(record));
	for (size_t i = 0; i < image->page_count; i++) {
		uint64_t secinfo = image->pages[i].secinfo;

		memset(record, 0, sizeof(record));
		memcpy(record, tag_eadd, 8);
		memcpy(record + 8, &image->pages[i].offset, 8);
		memcpy(record + 16, &secinfo, 8);
		sha256_add(&hash, record, sizeof(record));
		for (uint32_t chunk = 0; image->pages[i].measured && chunk < PAGE_BYTES; chunk += CHUNK_BYTES) {
			uint64_t offset = image->pages[i].offset + chunk;

			memset(record, 0, sizeof(record));
			memcpy(record, tag_eextend, 8);
			memcpy(record + 8, &offset, 8);
			sha256_add(&hash, record, sizeof(record));
			sha256_add(&hash, page_at(argument, i) + chunk, CHUNK_BYTES);
		}
	}
	sha256_finish(&hash, mrenclave);
}

size_t run_length(const struct image *image, size_t first)
{
	const struct page *pages = image->pages;
	size_t next = first + 1;

	while (next < image->page_count && pages[next].offset == pages[next - 1].offset + PAGE_BYTES &&
	       pages[next].secinfo == pages[first].secinfo && pages[next].measured == pages[first].measured)
		next++;
	return next - first;
}
