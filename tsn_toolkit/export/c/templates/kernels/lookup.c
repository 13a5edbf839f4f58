static void lookup(const int8_t *source, const int8_t *table, int32_t size, int8_t *target)
{
    for (int32_t i = 0; i < size; i++) {
        target[i] = table[source[i] + 128];
    }
}
