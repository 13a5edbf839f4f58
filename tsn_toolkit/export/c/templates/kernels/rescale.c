static void rescale(const int8_t *source, int32_t source_offset, int32_t multiplier, int32_t shift, int32_t size, int32_t target_offset,
                    int8_t *target)
{
    for (int32_t i = 0; i < size; i++) {
        target[i] = stored_byte((int64_t)(source[i] + source_offset) * multiplier, shift, target_offset);
    }
}
