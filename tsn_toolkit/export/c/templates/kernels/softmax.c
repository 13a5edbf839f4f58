/* exp(-step * below) * 2^31, rounded; `below` is in [0, 255]. */
static uint32_t power_of(const uint32_t *powers, int32_t below)
{
    return (uint32_t)(((uint64_t)powers[below >> 4] * powers[16 + (below & 15)] + ((uint64_t)1 << 30)) >> 31);
}

/* Probabilities of `size` codes: (byte + 128) / 256. The target may be the source. */
static void softmax(const int8_t *source, const uint32_t *powers, int32_t size, int8_t *target)
{
    int32_t largest = source[argmax(source, size)];
    uint64_t sum = 0;
    uint32_t divisor;
    int32_t shift = 0;
    for (int32_t i = 0; i < size; i++) {
        sum += power_of(powers, largest - source[i]);
    }
    while (sum > 0x7fffff) { /* so that 256 times the divisor fits in 32 bits */
        sum >>= 1;
        shift++;
    }
    divisor = (uint32_t)sum;
    for (int32_t i = 0; i < size; i++) {
        uint32_t code = ((power_of(powers, largest - source[i]) >> shift) * 256u + divisor / 2u) / divisor;
        target[i] = (int8_t)((int32_t)(code > 255u ? 255u : code) - 128);
    }
}
