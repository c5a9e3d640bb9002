/*
 * Loads the enclave hello, says who it is and how it ran.
 *
 *     hello [--simulate] [--device PATH] [--seconds N] hello.sgxs hello.sig
 *
 * The enclave is entered only after its measurement and its signature have been checked, whichever way it is run.
 */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "../hello.h"
#include "fail.h"
#include "image.h"
#include "launch.h"
#include "signature.h"

#define USAGE "Run: hello [--simulate] [--device PATH] [--seconds N] ENCLAVE.sgxs ENCLAVE.sig"
#define MAX_SECONDS 86400

struct request {
	const char *enclave;
	const char *signature;
	const char *device;
	bool simulate;
	long seconds;
};

static long parse_seconds(const char *text)
{
	char *end;

	errno = 0;
	long value = strtol(text, &end, 10);

	if (errno != 0 || end == text || *end != '\0' || value < 0 || value > MAX_SECONDS)
		fail(EXIT_USAGE, USAGE, "--seconds takes a number from 0 to %d", MAX_SECONDS);
	return value;
}

static struct request parse_arguments(int count, char **values)
{
	const struct option options[] = {
		{ "simulate", no_argument, NULL, 's' },
		{ "device", required_argument, NULL, 'd' },
		{ "seconds", required_argument, NULL, 'n' },
		{ 0 },
	};
	struct request request = { 0 };
	int option;

	opterr = 0;
	while ((option = getopt_long(count, values, "", options, NULL)) != -1) {
		switch (option) {
		case 's':
			request.simulate = true;
			break;
		case 'd':
			request.device = optarg;
			break;
		case 'n':
			request.seconds = parse_seconds(optarg);
			break;
		default:
			fail(EXIT_USAGE, USAGE, "the option %s is not known, or its value is missing", values[optind - 1]);
		}
	}
	if (count - optind != 2)
		fail(EXIT_USAGE, USAGE, "two files are needed, the enclave and its signature, not %d", count - optind);
	request.enclave = values[optind];
	request.signature = values[optind + 1];
	return request;
}

static void print_hex(const char *name, const uint8_t bytes[32])
{
	char text[65];

	for (int i = 0; i < 32; i++)
		snprintf(text + 2 * i, 3, "%02x", bytes[i]);
	dprintf(STDOUT_FILENO, "%s %s\n", name, text);
}

/* Without a handler, the first process of a container does not end on these. */
static void leave(int number)
{
	_exit(128 + number);
}

static void hold(long seconds)
{
	struct timespec left = { .tv_sec = seconds };

	while (nanosleep(&left, &left) != 0 && errno == EINTR)
		;
}

int main(int count, char **values)
{
	const struct request request = parse_arguments(count, values);
	static struct hello_reply reply;
	const uint64_t arguments[2] = { (uintptr_t)&reply, sizeof(reply) };
	uint8_t mrenclave[32];
	uint64_t answer = 0;
	bool on_hardware = false;

	signal(SIGTERM, leave);
	signal(SIGINT, leave);
	const struct image image = read_image(request.enclave, mrenclave);
	const struct sigstruct sigstruct = read_signature(request.signature, mrenclave);
	int device = request.simulate ? -1 : open_device(request.device);

	if (device >= 0)
		on_hardware = run_on_hardware(device, &image, &sigstruct, arguments, &answer);
	if (!on_hardware)
		answer = run_in_simulation(&image, &sigstruct, arguments);
	if (answer != HELLO_DONE)
		fail(EXIT_FAILED, "This host does not fit the enclave; build both again.", "the enclave answered %llu instead of saying hello",
		     (unsigned long long)answer);
	dprintf(STDOUT_FILENO, "%.*s\n", HELLO_TEXT_BYTES, reply.text);
	print_hex("MRENCLAVE", reply.report.mrenclave);
	print_hex("MRSIGNER", reply.report.mrsigner);
	dprintf(STDOUT_FILENO, "mode: %s\n", on_hardware ? "SGX hardware" : "simulated (no SGX hardware was involved)");
	hold(request.seconds);
	return EXIT_DONE;
}
