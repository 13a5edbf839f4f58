/* Value number `index`. Where there is a codebook, codes of `bits` bits follow each other without gaps, least significant bit first. */
static int8_t value_at(const tsn_values *values, uint32_t index)
{
    uint32_t bits = values->bits;
    uint32_t position = index * bits;
    uint32_t start = position & 7u;
    uint32_t code;
    if (!values->codebook) {
        return ((const int8_t *)values->codes)[index];
    }
    code = (uint32_t)((const uint8_t *)values->codes)[position >> 3] >> start;
    if (start + bits > 8u) {
        code |= (uint32_t)((const uint8_t *)values->codes)[(position >> 3) + 1u] << (8u - start);
    }
    return values->codebook[code & ((1u << bits) - 1u)];
}

static int bit_at(const uint8_t *bits, uint32_t index)
{
    return bits[index >> 3] >> (index & 7u) & 1;
}

/* Lay the values of one row over what is there. */
static void lay_values(const tsn_values *values, int32_t row, int8_t *target)
{
    uint32_t slot = (uint32_t)row * (uint32_t)values->length;
    uint32_t entry = values->starts ? values->starts[row] : slot;
    if (values->places == TSN_GAPS) {
        for (; entry < values->starts[row + 1]; entry++) {
            target += values->where[entry];
            if (values->where[entry] != 255) {
                *target++ = value_at(values, entry);
            }
        }
        return;
    }
    for (int32_t i = 0; i < values->length; i++, slot++) {
        if (values->places == TSN_EVERY || bit_at(values->where, slot)) {
            target[i] = value_at(values, entry++);
        }
    }
}

/* Weights of one output channel: the values of its row from the lowest up, then the inputs that the task kept, then 0 where it uses nothing. */
static const int8_t *weight_row(const tsn_weights *weights, int32_t channel, int32_t inputs, int32_t taps, int8_t *row)
{
    const tsn_values *top = weights->values;
    int32_t source = weights->rows ? weights->rows[channel] : channel;
    int32_t depth = 1;
    if (top->places == TSN_EVERY && !top->codebook && !weights->columns && !weights->used) {
        return (const int8_t *)top->codes + (uint32_t)source * (uint32_t)top->length;
    }
    for (const tsn_values *values = top; values->under; values = values->under) {
        depth++;
    }
    for (int32_t i = 0; i < top->length; i++) {
        row[i] = 0;
    }
    for (; depth > 0; depth--) {
        const tsn_values *values = top;
        for (int32_t i = 1; i < depth; i++) {
            values = values->under;
        }
        lay_values(values, source, row);
    }
    if (weights->columns) { /* they ascend, so nothing is overwritten before it is read */
        for (int32_t i = 0; i < inputs; i++) {
            for (int32_t j = 0; j < taps; j++) {
                row[i * taps + j] = row[weights->columns[i] * taps + j];
            }
        }
    }
    if (weights->used) {
        uint32_t first = (uint32_t)channel * (uint32_t)(inputs * taps);
        for (int32_t i = 0; i < inputs * taps; i++) {
            if (!bit_at(weights->used, first + (uint32_t)i)) {
                row[i] = 0;
            }
        }
    }
    return row;
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

static void convolution(const tsn_geometry *g, const int8_t *source, const tsn_weights *weights, const int32_t *bias, const int32_t *multipliers,
                        const uint8_t *shifts, int8_t *row, int8_t *target)
{
    int32_t inputs = g->channels / g->groups;
    int32_t outputs = g->target_channels / g->groups;
    for (int32_t channel = 0; channel < g->target_channels; channel++) {
        const int8_t *filter = weight_row(weights, channel, inputs, g->kernel_rows * g->kernel_columns, row);
        const int8_t *group = source + channel / outputs * inputs * g->rows * g->columns;
        for (int32_t y = 0; y < g->target_rows; y++) {
            for (int32_t x = 0; x < g->target_columns; x++) {
                int32_t top = y * g->stride_rows - g->padding_rows;
                int32_t left = x * g->stride_columns - g->padding_columns;
                int64_t sum = bias[channel] + window_sum(g, group, filter, inputs, top, left);
                *target++ = stored_byte(sum * multipliers[channel], shifts[channel], g->target_offset);
            }
        }
    }
}
