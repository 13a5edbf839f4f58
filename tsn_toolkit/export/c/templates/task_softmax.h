/*
 * Softmax of this task's OUTPUT_SIZE outputs: each probability is (byte + 128) / 256, rounded, 255 / 256 at most. Both may be the same memory. In
 * probabilities.c. Which class is the answer stands in the outputs: probabilities that are nearly equal may round to the same byte.
 */
void tsn_softmax_@name(const int8_t *output, int8_t *probabilities);
