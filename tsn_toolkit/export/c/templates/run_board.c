/*
 * Runs a task on a Cortex-M without an operating system, in an emulator or under a debugger, by Arm semihosting: from the file input.bin one byte, the
 * number of the task, then its inputs; to output.bin their outputs, to stack.bin the bytes of stack that were used (uint32).
 */
#include "model.h"

enum { OPEN = 0x01, WRITE = 0x05, READ = 0x06, EXIT = 0x18, EXIT_DONE = 0x20026, MODE_READ = 1, MODE_WRITE = 5, PAINT = 0x5a };

extern uint8_t stack_bottom[], stack_top[];
void reset(void);

__attribute__((section(".vectors"), used)) static const void *const vectors[] = {stack_top, (const void *)reset};

static int8_t input[TSN_LARGEST_INPUT_SIZE], output[TSN_LARGEST_OUTPUT_SIZE];

static uint32_t host(uint32_t operation, const void *argument)
{
    register uint32_t r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

static uint32_t open_file(const char *name, uint32_t length, uint32_t mode)
{
    const uint32_t block[] = {(uint32_t)name, mode, length};
    return host(OPEN, block);
}

/* Bytes that were not transferred. */
static uint32_t transfer(uint32_t operation, uint32_t file, void *data, uint32_t size)
{
    const uint32_t block[] = {file, (uint32_t)data, size};
    return host(operation, block);
}

static void run(void)
{
    uint32_t source = open_file("input.bin", 9, MODE_READ), target = open_file("output.bin", 10, MODE_WRITE);
    uint8_t task = TSN_TASKS;
    transfer(READ, source, &task, 1);
    while (task < TSN_TASKS && transfer(READ, source, input, (uint32_t)tsn_tasks[task].input_size) == 0) {
        tsn_run(task, input, output);
        transfer(WRITE, target, output, (uint32_t)tsn_tasks[task].output_size);
    }
}

void reset(void)
{
    volatile uint8_t *byte = stack_bottom;
    uint32_t used;
    while ((uint32_t)byte < (uint32_t)&byte - 64u) {
        *byte++ = PAINT;
    }
    run();
    byte = stack_bottom;
    while (*byte == PAINT) {
        byte++;
    }
    used = (uint32_t)stack_top - (uint32_t)byte;
    transfer(WRITE, open_file("stack.bin", 9, MODE_WRITE), &used, sizeof used);
    host(EXIT, (const void *)EXIT_DONE);
    for (;;) {
    }
}
