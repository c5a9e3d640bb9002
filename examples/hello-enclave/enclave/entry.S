/*
 * Where EENTER lands. At this point (Intel SDM volume 3D, EENTER):
 *   RAX  index of the SSA frame that an exception would use; not 0 when the thread is already inside
 *   RBX  address of the TCS, checked by the processor, so it can be trusted
 *   RCX  address behind the host's ENCLU, where to leave to
 *   GS   base of this thread's page, from the TCS
 * All other registers, the stack pointer among them, hold what the host chose.
 */
#define PAGE_BYTES 4096
#define ENCLU_EEXIT 4
#define HELLO_REENTERED 3

	.text
	.globl enclave_entry
	.type enclave_entry, @function
enclave_entry:
	test	%rax, %rax
	jnz	1f

	/* The stack ends one guard page below the TCS. */
	mov	%rsp, %r10
	lea	-PAGE_BYTES(%rbx), %rsp
	push	%r10
	push	%rcx
	push	%rbp
	push	%rbx

	/* The host's flags must not choose how this code runs: no direction flag, no alignment check. */
	pushq	$0
	popfq
	xor	%ebp, %ebp

	/* enclave_main(buffer = RDI, length = RSI, tcs = RDX); four pushes have kept RSP aligned to 16. */
	mov	%rbx, %rdx
	call	enclave_main

	mov	%eax, %edi
	pop	%rbx
	pop	%rbp
	pop	%rcx
	pop	%rsp
	jmp	2f

1:	mov	$HELLO_REENTERED, %edi

	/* Leave nothing of the enclave's in registers; RDI is the answer. RBX is where to, RCX is set by EEXIT itself. */
2:	mov	%rcx, %rbx
	xor	%ecx, %ecx
	xor	%edx, %edx
	xor	%esi, %esi
	xor	%r8d, %r8d
	xor	%r9d, %r9d
	xor	%r10d, %r10d
	xor	%r11d, %r11d
	mov	$ENCLU_EEXIT, %eax
	enclu
	ud2
	.size enclave_entry, . - enclave_entry

	.section .note.GNU-stack, "", @progbits
