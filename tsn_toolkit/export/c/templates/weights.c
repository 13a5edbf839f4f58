#include "weights.h"

@definitions
