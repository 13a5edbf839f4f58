static void add(const int8_t *first, int32_t first_offset, int32_t first_multiplier, const int8_t *second, int32_t second_offset,
                int32_t second_multiplier, int32_t shift, int32_t size, int32_t target_offset, int8_t *target)
{
    for (int32_t i = 0; i < size; i++) {
        int64_t sum = (int64_t)(first[i] + first_offset) * first_multiplier + (int64_t)(second[i] + second_offset) * second_multiplier;
        target[i] = stored_byte(sum, shift, target_offset);
    }
}
