/*
 * The way into a simulated enclave and back. The segment base FS is the C library's in the host and the enclave's inside, so it changes
 * here, where no C code can stumble over it.
 */
#include "simulate.h"

	.macro set_base which, address
	mov	$SYS_ARCH_PRCTL, %eax
	mov	$\which, %edi
	mov	\address, %rsi
	syscall
	.endm

	.text
	.globl simulated_eenter
	.type simulated_eenter, @function
/* uint64_t simulated_eenter(const struct entry *entry): gives the RDI that the enclave left with. */
simulated_eenter:
	push	%rbp
	push	%rbx
	push	%r12
	push	%r13
	push	%r14
	push	%r15
	mov	%rsp, host_stack(%rip)
	mov	%rdi, %r15

	mov	ENTRY_SSA_GPRS(%r15), %r14
	mov	%rsp, GPRSGX_URSP(%r14)
	mov	%rbp, GPRSGX_URBP(%r14)
	set_base SET_GS, ENTRY_GS(%r15)
	set_base SET_FS, ENTRY_FS(%r15)

	/* As EENTER leaves them: RAX = CSSA, RBX = TCS, RCX = where to come back to; the rest as the host has it. */
	mov	ENTRY_RDI(%r15), %rdi
	mov	ENTRY_RSI(%r15), %rsi
	mov	ENTRY_TCS(%r15), %rbx
	lea	simulated_return(%rip), %rcx
	xor	%edx, %edx
	xor	%eax, %eax
	jmp	*ENTRY_POINT(%r15)

	.globl simulated_return
simulated_return:
	/* The signal handler has brought FS back. Nothing else that the enclave left in registers is relied on. */
	mov	host_stack(%rip), %rsp
	cld
	mov	%rdi, %r12
	set_base SET_GS, $0
	mov	%r12, %rax
	pop	%r15
	pop	%r14
	pop	%r13
	pop	%r12
	pop	%rbx
	pop	%rbp
	ret
	.size simulated_eenter, . - simulated_eenter

	.globl simulated_signal
	.type simulated_signal, @function
/* Signal handler: FS becomes the host's before any C code runs. The three arguments are kept. */
simulated_signal:
	push	%rdi
	push	%rsi
	push	%rdx
	set_base SET_FS, host_fs(%rip)
	pop	%rdx
	pop	%rsi
	pop	%rdi
	jmp	handle_signal
	.size simulated_signal, . - simulated_signal

	.bss
	.balign 8
host_stack:
	.skip	8
	.globl host_fs
host_fs:
	.skip	8

	.section .note.GNU-stack, "", @progbits
