/* @title: input @input_shape, output @output_shape. */
#define TSN_@{macro}_INPUT_SIZE @input_size
#define TSN_@{macro}_INPUT_STEP @input_step
#define TSN_@{macro}_INPUT_OFFSET @input_offset
#define TSN_@{macro}_OUTPUT_SIZE @output_size
#define TSN_@{macro}_OUTPUT_STEP @output_step
#define TSN_@{macro}_OUTPUT_OFFSET @output_offset

/*
 * input:  INPUT_SIZE bytes, byte = clip(round(real / STEP), OFFSET - 128, OFFSET + 127) - OFFSET; not changed.
 * output: OUTPUT_SIZE bytes, written; must not overlap the input.
 * Returns the index of the largest output, the first of equal ones.
 */
int32_t tsn_run_@name(const int8_t *input, int8_t *output);
