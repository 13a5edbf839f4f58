/* What can be said of outputs behind a run. A firmware that calls none of these functions leaves this file out. */
#include "model.h"

@kernels
@tasks
