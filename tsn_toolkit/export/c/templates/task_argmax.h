/* Index of the largest of this task's outputs, the first of equal ones, which tsn_run_@name returns too. In probabilities.c. */
int32_t tsn_argmax_@name(const int8_t *output);
