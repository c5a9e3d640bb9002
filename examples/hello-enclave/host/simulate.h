/* Offsets shared by simulate.c and simulate_entry.S. */
#ifndef SIMULATE_H
#define SIMULATE_H

#define ENTRY_RDI 0
#define ENTRY_RSI 8
#define ENTRY_TCS 16
#define ENTRY_POINT 24
#define ENTRY_FS 32
#define ENTRY_GS 40
#define ENTRY_SSA_GPRS 48

/* GPRSGX.URSP and .URBP (SDM): where the processor keeps the host's stack and frame pointer. */
#define GPRSGX_BYTES 184
#define GPRSGX_URSP 144
#define GPRSGX_URBP 152

/* Linux's arch_prctl. */
#define SYS_ARCH_PRCTL 158
#define SET_GS 0x1001
#define SET_FS 0x1002
#define GET_FS 0x1003

#endif
