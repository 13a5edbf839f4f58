#include "model.h"
#include "weights.h"

@arena@kernels
@tasks
