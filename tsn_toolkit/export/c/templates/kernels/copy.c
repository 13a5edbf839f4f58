static void copy(const int8_t *source, int32_t size, int8_t *target)
{
    for (int32_t i = 0; i < size; i++) {
        target[i] = source[i];
    }
}
