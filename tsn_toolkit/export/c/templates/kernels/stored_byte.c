/* floor(value / 2^shift). The standard leaves the right shift of a negative number to the compiler, hence the two complements. */
static int64_t floor_shift(int64_t value, int32_t shift)
{
    return value >= 0 ? value >> shift : ~(~value >> shift);
}

/* The byte of product / 2^shift, rounded to nearest, halves upwards, and clipped to the 256 codes that begin at offset - 128. */
static int8_t stored_byte(int64_t product, int32_t shift, int32_t offset)
{
    int64_t value = floor_shift(product + ((int64_t)1 << (shift - 1)), shift) - offset;
    if (value < -128) {
        return -128;
    }
    return value > 127 ? 127 : (int8_t)value;
}
