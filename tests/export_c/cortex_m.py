"""A bare-metal program for a Cortex-M3 board (mps2-an385) that prints its answers through semihosting."""

import numpy as np

LINKER_SCRIPT = """
MEMORY
{
    FLASH (rx) : ORIGIN = 0x00000000, LENGTH = 4M
    RAM (rw) : ORIGIN = 0x20000000, LENGTH = 4M
}
ENTRY(reset)
SECTIONS
{
    .text : { KEEP(*(.vectors)) *(.text*) } > FLASH
    .rodata : { *(.rodata*) } > FLASH
    .bss (NOLOAD) : { *(.bss*) *(COMMON) } > RAM
    /DISCARD/ : { *(.ARM.exidx*) }
    stack_top = ORIGIN(RAM) + LENGTH(RAM);
}
"""

FLAGS = ("-O2", "-mcpu=cortex-m3", "-mthumb", "-ffreestanding", "-ffunction-sections", "-fdata-sections", "-nostdlib", "-Wl,--gc-sections")


def main_of(task: str, inputs: np.ndarray) -> str:
    """C text: vectors, reset handler, and a hexadecimal line of output bytes and argmax per input."""
    rows = ",\n".join("{" + ",".join(str(value) for value in row) + "}" for row in inputs.reshape(len(inputs), -1).tolist())
    macro = task.upper()
    return f"""
#include "model.h"

extern uint32_t stack_top;
void reset(void);

__attribute__((section(".vectors"), used)) static const void *vectors[] = {{&stack_top, (const void *)reset}};
static const int8_t inputs[{len(inputs)}][TSN_{macro}_INPUT_SIZE] = {{{rows}}};
static int8_t output[TSN_{macro}_OUTPUT_SIZE];

static void host(uint32_t operation, const void *argument)
{{
    register uint32_t r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
}}

static void print_byte(uint8_t value)
{{
    const char digits[] = "0123456789abcdef";
    char text[3] = {{digits[value >> 4], digits[value & 15], 0}};
    host(0x04, text);
}}

void reset(void)
{{
    for (int i = 0; i < {len(inputs)}; i++) {{
        int32_t best = tsn_run_{task}(inputs[i], output);
        for (int j = 0; j < TSN_{macro}_OUTPUT_SIZE; j++) {{
            print_byte((uint8_t)output[j]);
        }}
        print_byte((uint8_t)best);
        host(0x04, "\\n");
    }}
    host(0x18, (const void *)0x20026);
    for (;;) {{
    }}
}}
"""
