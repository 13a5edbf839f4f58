#include "model.h"
#include "weights.h"

@arena@kernels
@tasks
const tsn_task tsn_tasks[TSN_TASKS] = {
@sizes
};

int32_t tsn_run(int32_t task, const int8_t *input, int8_t *output)
{
    switch (task) {
@cases
    default:
        return -1;
    }
}
