/* Ends the program with one sentence of what happened and one of what to do. */
#ifndef FAIL_H
#define FAIL_H

/* The exit codes of kubenclave's own command line. */
enum exit_code {
	EXIT_DONE = 0,
	EXIT_FAILED = 1,
	EXIT_USAGE = 2,
	EXIT_REFUSED = 3,
	EXIT_NOT_FOUND = 5,
	EXIT_HOST_UNFIT = 6,
};

/* Prints "error: " and the formatted sentence, then "hint: " and the hint, to standard error. */
_Noreturn void fail(enum exit_code code, const char *hint, const char *format, ...) __attribute__((format(printf, 3, 4)));

#endif
