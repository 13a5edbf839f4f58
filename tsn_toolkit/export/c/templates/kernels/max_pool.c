static void max_pool(const tsn_geometry *g, const int8_t *source, int8_t *target)
{
    for (int32_t channel = 0; channel < g->channels; channel++, source += g->rows * g->columns) {
        for (int32_t y = 0; y < g->target_rows; y++) {
            for (int32_t x = 0; x < g->target_columns; x++) {
                int8_t largest = -128;
                for (int32_t i = 0; i < g->kernel_rows; i++) {
                    for (int32_t j = 0; j < g->kernel_columns; j++) {
                        int32_t row = y * g->stride_rows - g->padding_rows + i * g->dilation_rows;
                        int32_t column = x * g->stride_columns - g->padding_columns + j * g->dilation_columns;
                        int inside = row >= 0 && row < g->rows && column >= 0 && column < g->columns;
                        if (inside && source[row * g->columns + column] > largest) {
                            largest = source[row * g->columns + column];
                        }
                    }
                }
                *target++ = largest;
            }
        }
    }
}
