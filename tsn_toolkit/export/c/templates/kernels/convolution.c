/* Weights of one output channel. Where there is a codebook, codes of `bits` bits follow each other without gaps, least significant bit first. */
static const int8_t *weight_row(const void *codes, const int8_t *codebook, int32_t bits, int32_t row, int32_t length, int8_t *scratch)
{
    const uint8_t *packed = (const uint8_t *)codes;
    uint32_t position = (uint32_t)row * (uint32_t)length * (uint32_t)bits;
    if (!codebook) {
        return (const int8_t *)codes + (uint32_t)row * (uint32_t)length;
    }
    for (int32_t i = 0; i < length; i++) {
        uint32_t start = position & 7u;
        uint32_t value = (uint32_t)packed[position >> 3] >> start;
        if (start + (uint32_t)bits > 8u) {
            value |= (uint32_t)packed[(position >> 3) + 1u] << (8u - start);
        }
        scratch[i] = codebook[value & ((1u << bits) - 1u)];
        position += (uint32_t)bits;
    }
    return scratch;
}

/* Sum of code * weight over the window of one output position; positions outside the image count 0. */
static int32_t window_sum(const tsn_geometry *g, const int8_t *source, const int8_t *weights, int32_t inputs, int32_t top, int32_t left)
{
    int32_t sum = 0;
    for (int32_t channel = 0; channel < inputs; channel++) {
        for (int32_t i = 0; i < g->kernel_rows; i++) {
            int32_t row = top + i * g->dilation_rows;
            const int8_t *line = source + (channel * g->rows + (row < 0 ? 0 : row)) * g->columns;
            if (row < 0 || row >= g->rows) {
                weights += g->kernel_columns;
                continue;
            }
            for (int32_t j = 0; j < g->kernel_columns; j++, weights++) {
                int32_t column = left + j * g->dilation_columns;
                if (column >= 0 && column < g->columns) {
                    sum += (line[column] + g->source_offset) * *weights;
                }
            }
        }
    }
    return sum;
}

static void convolution(const tsn_geometry *g, const int8_t *source, const void *codes, const int8_t *codebook, int32_t bits,
                        const int32_t *bias, const int32_t *multipliers, const uint8_t *shifts, int8_t *scratch, int8_t *target)
{
    int32_t inputs = g->channels / g->groups;
    int32_t outputs = g->target_channels / g->groups;
    int32_t length = inputs * g->kernel_rows * g->kernel_columns;
    for (int32_t channel = 0; channel < g->target_channels; channel++) {
        const int8_t *weights = weight_row(codes, codebook, bits, channel, length, scratch);
        const int8_t *group = source + channel / outputs * inputs * g->rows * g->columns;
        for (int32_t y = 0; y < g->target_rows; y++) {
            for (int32_t x = 0; x < g->target_columns; x++) {
                int32_t top = y * g->stride_rows - g->padding_rows;
                int32_t left = x * g->stride_columns - g->padding_columns;
                int64_t sum = bias[channel] + window_sum(g, group, weights, inputs, top, left);
                *target++ = stored_byte(sum * multipliers[channel], shifts[channel], g->target_offset);
            }
        }
    }
}
