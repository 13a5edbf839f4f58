/* Index of the largest of `size` bytes, the first of equal ones. */
static int32_t argmax(const int8_t *values, int32_t size)
{
    int32_t best = 0;
    for (int32_t i = 1; i < size; i++) {
        if (values[i] > values[best]) {
            best = i;
        }
    }
    return best;
}
