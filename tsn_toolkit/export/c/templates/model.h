/*
 * Integer networks, C99. No heap, no floating point, no library calls of their own.
 *
 * A value is one int8. Its real value is STEP * (byte + OFFSET); OFFSET is 0 for signed codes and 128 for codes in [0, 255].
 * Images are channel, row, column.
 *
 * All functions work in one static memory of @arena bytes. So they must not run at the same time, not even in an interrupt.
 */
#ifndef TSN_MODEL_H
#define TSN_MODEL_H

#include <stdint.h>

#define TSN_TASKS @count
#define TSN_LARGEST_INPUT_SIZE @largest_input
#define TSN_LARGEST_OUTPUT_SIZE @largest_output

/* Bytes of a task's input and output. */
typedef struct {
    int32_t input_size, output_size;
} tsn_task;

extern const tsn_task tsn_tasks[TSN_TASKS];

/*
 * Runs task number `task`, in the order in which the tasks stand below.
 *
 * input:  INPUT_SIZE bytes of that task, byte = clip(round(real / STEP), OFFSET - 128, OFFSET + 127) - OFFSET; not changed.
 * output: OUTPUT_SIZE bytes of that task, written; must not overlap the input.
 * Returns the index of the largest output, the first of equal ones; -1 where there is no such task.
 */
int32_t tsn_run(int32_t task, const int8_t *input, int8_t *output);

@tasks
#endif
