/* Runs a task on a computer: from stdin one byte, the number of the task, then its inputs; to stdout their outputs. */
#include "model.h"
#include <stdio.h>

static int8_t input[TSN_LARGEST_INPUT_SIZE], output[TSN_LARGEST_OUTPUT_SIZE];

int main(void)
{
    int task = getchar();
    if (task < 0 || task >= TSN_TASKS) {
        return 1;
    }
    while (fread(input, 1, (size_t)tsn_tasks[task].input_size, stdin) == (size_t)tsn_tasks[task].input_size) {
        tsn_run(task, input, output);
        fwrite(output, 1, (size_t)tsn_tasks[task].output_size, stdout);
    }
    return 0;
}
