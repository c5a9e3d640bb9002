#include "fail.h"

#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

void fail(enum exit_code code, const char *hint, const char *format, ...)
{
	char sentence[512];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(sentence, sizeof(sentence), format, arguments);
	va_end(arguments);
	dprintf(STDERR_FILENO, "error: %s\nhint: %s\n", sentence, hint);
	_exit(code);
}
