/* Task @index, @title: input @input_shape, output @output_shape. */
#define TSN_@{macro}_TASK @index
#define TSN_@{macro}_INPUT_SIZE @input_size
#define TSN_@{macro}_INPUT_STEP @input_step
#define TSN_@{macro}_INPUT_OFFSET @input_offset
#define TSN_@{macro}_OUTPUT_SIZE @output_size
#define TSN_@{macro}_OUTPUT_STEP @output_step
#define TSN_@{macro}_OUTPUT_OFFSET @output_offset

/* Runs this task alone; see tsn_run. */
int32_t tsn_run_@name(const int8_t *input, int8_t *output);
